"""Ask a running perception node, by its action, its topic or its service.

For programs that are not ROS nodes themselves: calls wait, and may be interrupted with Ctrl-C.
Images are OpenCV's arrays, in its order of channels with `bgr8`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import math
import os
import queue
import threading
import time
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.action import get_action_names_and_types
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segzero_ros.action import Segment
from segzero_ros.conversions.text import single_line
from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.background_node import (
    BackgroundNode,
    ThreadSafeActionClient,
    wait_for_future,
    wait_for_graph,
)
from segzero_ros.ros.first_image import wait_for_image
from segzero_ros.ros.message_factory import answer_from, to_ns
from segzero_ros.ros.opencv_images import from_message, in_order, Order, Pixels, to_message
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Answer, Frame, SegZeroError, Stage

# How long the node may take to stop a goal that was given up.
_CANCEL_TIME = 5.0
# How often a waiting client looks whether the node still lives.
_LIFE_PERIOD = 0.5
_KEPT_OVERLAYS = 8


class ClientError(SegZeroError):
    """The node cannot be asked; the text names the cause and what is there instead."""


class NoNode(ClientError):
    """There is no perception node under this name."""


class NoAnswer(ClientError):
    """The node did not answer in the time it was given."""


@dataclass(frozen=True)
class Progress:
    """How far the node is with a query.

    Attributes:
        stage: what it is doing.
        text: what the model wrote since the last one.
        elapsed: seconds since acceptance; NaN where only the text is known.
    """

    stage: Stage
    text: str
    elapsed: float


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer, with what its message said about the frame.

    Attributes:
        answer: the answer; its frame is there when the picture came from this client.
        stamp_ns: when the frame was taken.
        frame_id: the optical frame that poses are given in.
        width: of the frame, pixels; 0 where there was none.
        height: of the frame, pixels; 0 where there was none.
    """

    answer: Answer
    stamp_ns: int
    frame_id: str
    width: int
    height: int


OnProgress = Callable[[Progress], None]
# What a waiting call hears; None: its result is there.
_News = queue.SimpleQueue[Progress | SegmentationResult | None]


def ignore(_: Progress) -> None:
    """Listen to nothing."""


class PerceptionClient:
    """A client of one perception node, on the graph until `close()`.

    Args:
        namespace: where the node is, as `segzero`; its topics are below it.
        overlays: whether to keep the node's pictures of its answers, for `overlay`.
    """

    def __init__(self, namespace: str = 'segzero', *, overlays: bool = False) -> None:
        self.namespace = '/' + namespace.strip('/')
        self._background = BackgroundNode(f'segzero_client_{os.getpid()}', self.namespace)
        self._node = node = self._background.node
        deep = QoSProfile(depth=1000)
        self._action = ThreadSafeActionClient(
            node, Segment, 'segment', feedback_sub_qos_profile=deep
        )
        self._service = node.create_client(SegmentOnce, 'segment_once')
        self._states = node.create_client(GetState, 'perception/get_state')
        self._queries = node.create_publisher(String, 'query', deep)
        self._heard: _News | None = None
        node.create_subscription(SegmentationResult, 'result', self._hear, deep)
        node.create_subscription(String, 'reasoning', self._hear_reasoning, deep)
        self._overlays: deque[Image] = deque(maxlen=_KEPT_OVERLAYS)
        self._overlay_came = threading.Condition()
        if overlays:
            # From the start, so that the node hears of it in time for the first answer.
            node.create_subscription(
                Image, 'overlay', self._keep_overlay, QoSProfile(depth=_KEPT_OVERLAYS)
            )

    def __enter__(self) -> PerceptionClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._background.close()

    def wait_for_node(self, timeout: float = 10.0) -> str:
        """Wait until the node hears this client, and then until it is active.

        Args:
            timeout: seconds for both.

        Returns:
            The node's lifecycle state: `active`, unless the time was over before; asked then, it
            says itself why it does not answer.

        Raises:
            NoNode: it is not there.
        """
        deadline = time.monotonic() + timeout

        def connected() -> bool:
            return bool(
                self._action.server_is_ready()
                and self._service.service_is_ready()
                and self._states.service_is_ready()
                and self._queries.get_subscription_count()
                and self._node.count_publishers('result')
            )

        if not wait_for_graph(connected, timeout):
            raise NoNode(
                f'No perception node answers in the namespace {self.namespace} '
                f'(waited {timeout:g} s for the action {self.namespace}/segment). '
                + self._surroundings()
            )
        wait_for_graph(lambda: self._state() == 'active', deadline - time.monotonic())
        return self._state()

    def wait_for_image(self, timeout: float = 10.0) -> bool:
        """Wait until the node has an image of its camera; return whether it has.

        Asked without one, it answers NO_IMAGE and says why.
        """
        return wait_for_image(self._background, f'{self.namespace}/perception', timeout)

    def wait_until_heard(self, by: int, timeout: float = 10.0) -> bool:
        """Wait until so many subscribers, such as the node and a recorder, hear `query`.

        Args:
            by: how many there have to be.
            timeout: seconds.

        Returns:
            Whether there are; a query that is asked by topic before is heard by some only.
        """
        return wait_for_graph(lambda: self._queries.get_subscription_count() >= by, timeout)

    def _state(self) -> str:
        """Return the label of the node's lifecycle state; empty while it does not say."""
        future = self._states.call_async(GetState.Request())
        if not wait_for_future(future, _LIFE_PERIOD):
            return ''
        return str(future.result().current_state.label)

    def ask(
        self,
        text: str,
        image: Pixels | None = None,
        on_progress: OnProgress = ignore,
        timeout: float = 120.0,
        order: Order = 'rgb8',
    ) -> Reply:
        """Ask by the action.

        Ctrl-C while waiting cancels the goal; the result then says CANCELED.

        Args:
            text: the query.
            image: (H, W, 3) uint8 to ask about; None for the newest camera frame.
            on_progress: called in this thread with each feedback of the node.
            timeout: seconds until the goal is given up.
            order: of the image's channels; `bgr8` for what cv2.imread and cv_bridge return.

        Returns:
            What the node answered, whatever its status.

        Raises:
            BadImage: the image is no such array.
            NoNode: the node is not there, or left.
            NoAnswer: the time is over; the goal was cancelled.
            SegZeroError: what came of the node cannot be understood; the goal was cancelled.
        """
        self._begin()
        goal = Segment.Goal(query=text, image=_message(image, order))
        news: _News = queue.SimpleQueue()

        def hear(message: Any) -> None:
            news.put(_progress(message.feedback))

        deadline = time.monotonic() + timeout
        sent = self._action.send_goal_async(goal, feedback_callback=hear)
        self._wait(sent, timeout, text)
        handle = sent.result()
        if not handle.accepted:
            raise ClientError(f'The node in {self.namespace} did not accept the goal.')
        outcome = handle.get_result_async()
        outcome.add_done_callback(lambda _: news.put(None))
        try:
            while isinstance(progress := self._next(news, deadline), Progress):
                on_progress(progress)
        except (KeyboardInterrupt, queue.Empty) as reason:
            handle.cancel_goal_async()
            if not wait_for_future(outcome, _CANCEL_TIME) or isinstance(reason, queue.Empty):
                raise self._no_answer(text, timeout) from None
        except SegZeroError:
            handle.cancel_goal_async()
            raise
        return _reply(outcome.result().result.result, image, order)

    def ask_by_topic(
        self, text: str, on_progress: OnProgress = ignore, timeout: float = 120.0
    ) -> Reply:
        """Publish a query on `query` and wait for its result on `result`.

        A result carries no more than the query's text, so another program that asks the same at
        the same time may be answered in its place; the action has no such doubt. The same holds
        for what comes on `reasoning`.
        """
        self._begin()
        heard: _News = queue.SimpleQueue()
        self._heard = heard
        deadline = time.monotonic() + timeout
        wanted = single_line(text)
        self._queries.publish(String(data=text))
        try:
            while True:
                news = self._next(heard, deadline)
                if isinstance(news, Progress):
                    on_progress(news)
                elif news is not None and news.query == wanted:
                    return _reply(news, None)
        except queue.Empty:
            raise self._no_answer(text, timeout) from None
        finally:
            self._heard = None

    def ask_by_service(
        self,
        text: str,
        image: Pixels | None = None,
        timeout: float = 120.0,
        order: Order = 'rgb8',
    ) -> Reply:
        """Ask by the service `segment_once`; arguments and errors are those of `ask`."""
        self._begin()
        request = SegmentOnce.Request(query=text, image=_message(image, order))
        future = self._service.call_async(request)
        self._wait(future, timeout, text)
        return _reply(future.result().result, image, order)

    def overlay(self, reply: Reply, timeout: float = 10.0, order: Order = 'rgb8') -> Pixels:
        """Return the node's picture of the answer to the last question.

        A picture carries no more than its frame's stamp, so it has to be taken before the next
        question is asked.

        Args:
            reply: the answer.
            timeout: seconds to wait for its picture.
            order: of the channels; `bgr8` for cv2.imwrite and cv2.imshow.

        Returns:
            (H, W, 3) uint8.

        Raises:
            NoAnswer: none came; the client has to be made with `overlays`.
        """

        def found() -> Image | None:
            pictures = reversed(self._overlays)
            return next((p for p in pictures if to_ns(p.header.stamp) == reply.stamp_ns), None)

        with self._overlay_came:
            self._overlay_came.wait_for(lambda: found() is not None, timeout)
            message = found()
        if message is None:
            raise NoAnswer(f'No picture came on {self.namespace}/overlay in {timeout:g} s.')
        return from_message(message, order)

    def image_topics(self, timeout: float = 2.0) -> list[str]:
        """Return topics with images that the node does not hear, depth behind colour.

        The pictures of answers are not among them.

        Args:
            timeout: seconds to wait for one, for a young client has not yet heard of all.
        """
        wait_for_graph(lambda: bool(self._image_topics()), timeout)
        topics = [topic for topic in self._image_topics() if not self._is_heard(topic)]
        return sorted(topics, key=lambda topic: ('depth' in topic, topic))

    def _image_topics(self) -> list[str]:
        return [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'} & set(types)
            and self._node.count_publishers(topic)
            and topic.rpartition('/')[2] not in ('overlay', 'label_image')
        ]

    def _is_heard(self, topic: str) -> bool:
        ears = self._node.get_subscriptions_info_by_topic(topic)
        node = (self.namespace, 'perception')
        return any((ear.node_namespace, ear.node_name) == node for ear in ears)

    def _keep_overlay(self, message: Image) -> None:
        with self._overlay_came:
            self._overlays.append(message)
            self._overlay_came.notify_all()

    def _hear(self, news: Progress | SegmentationResult) -> None:
        if (heard := self._heard) is not None:
            heard.put(news)

    def _hear_reasoning(self, message: String) -> None:
        self._hear(Progress(Stage.REASONING, message.data, math.nan))

    def _next(self, news: _News, deadline: float) -> Progress | SegmentationResult | None:
        """Return what comes next; raise queue.Empty after the deadline, NoNode without a node.

        What a callback raised is raised here.
        """
        while True:
            patience = deadline - time.monotonic()
            try:
                return news.get(timeout=max(0.0, min(patience, _LIFE_PERIOD)))
            except queue.Empty:
                self._must_be_there()
                if patience <= _LIFE_PERIOD:
                    raise

    def _wait(self, future: Any, timeout: float, text: str) -> None:
        deadline = time.monotonic() + timeout
        while not wait_for_future(future, min(_LIFE_PERIOD, deadline - time.monotonic())):
            self._must_be_there()
            if time.monotonic() >= deadline:
                raise self._no_answer(text, timeout)

    def _begin(self) -> None:
        """Have nothing of an earlier question."""
        self._overlays.clear()
        self._background.forget()

    def _must_be_there(self) -> None:
        self._background.check()
        if not self._action.server_is_ready():
            raise NoNode(
                f'The node in {self.namespace} is no longer there. ' + self._surroundings()
            )

    def _no_answer(self, text: str, timeout: float) -> NoAnswer:
        return NoAnswer(
            f'{self.namespace} did not answer {text!r} within {timeout:g} s. Its state is on '
            '/diagnostics; a larger timeout may do.'
        )

    def _surroundings(self) -> str:
        """Say what else is on the graph."""
        others = sorted(
            name.removesuffix('/segment') or '/'
            for name, types in get_action_names_and_types(self._node)
            if 'segzero_ros/action/Segment' in types and not name.startswith(self.namespace + '/')
        )
        if others:
            return f'There are perception nodes in {", ".join(others)}.'
        own = self._node.get_fully_qualified_name()
        nodes = sorted(
            f'{namespace.rstrip("/")}/{name}'
            for name, namespace in self._node.get_node_names_and_namespaces()
        )
        nodes = [name for name in nodes if name != own]
        there = f'The graph holds {", ".join(nodes)}' if nodes else 'The graph is empty'
        domain = os.environ.get('ROS_DOMAIN_ID', '0')
        return (
            f'{there} (ROS_DOMAIN_ID {domain}). Start one with '
            '`ros2 launch segzero_ros perception.launch.py`.'
        )


def _message(image: Pixels | None, order: Order) -> Image:
    return Image() if image is None else to_message(image, order)


def _progress(feedback: Segment.Feedback) -> Progress:
    try:
        stage = Stage(feedback.stage)
    except ValueError:
        raise ClientError(
            f'The node is at a stage {feedback.stage} that this client does not know: install the '
            'same version of segzero_ros on both sides.'
        ) from None
    return Progress(stage, feedback.reasoning_delta, feedback.elapsed)


def _reply(result: SegmentationResult, image: Pixels | None, order: Order = 'rgb8') -> Reply:
    header = result.header
    return Reply(
        answer_from(result, None if image is None else Frame(in_order(image, order))),
        to_ns(header.stamp),
        header.frame_id,
        result.image_width,
        result.image_height,
    )
