"""Client of a perception node's action, topic and service.

For programs that are not ROS nodes: calls block, and can be interrupted with Ctrl-C. Images are
NumPy arrays, in OpenCV's channel order with `bgr8`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import math
import os
import queue
import threading
import time
from typing import Any
import uuid

from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import String

from segzero_ros.action import Segment
from segzero_ros.conversions.text import single_line
from segzero_ros.msg import Query, SegmentationResult
from segzero_ros.ros.background_node import (
    BackgroundNode,
    ThreadSafeActionClient,
    wait_for_future,
    wait_for_graph,
)
from segzero_ros.ros.client.first_image import wait_for_image
from segzero_ros.ros.client.graph import camera_topics, describe_graph, is_subscribed
from segzero_ros.ros.client.types import (
    ClientError,
    ignore,
    NoAnswer,
    NoNode,
    OnProgress,
    Progress,
    progress_from,
    Reply,
    reply_from,
)
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.ros.opencv_images import from_message, Order, Pixels, to_message
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Roi, SegZeroError, Stage

# Seconds that the node may take to cancel a goal.
_CANCEL_TIMEOUT = 5.0
# Seconds between two checks, while waiting, whether the node is still there.
_CHECK_PERIOD = 0.5
_MAX_OVERLAYS = 8


# An item of the queue that a call waits on; None: the result is available.
_Events = queue.SimpleQueue[Progress | SegmentationResult | None]


class PerceptionClient:
    """A client of one perception node, on the graph until `close()`.

    Args:
        namespace: the node's, such as `segzero`.
        overlays: whether to subscribe to the node's overlays, for `overlay`.
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
        self._typed_queries = node.create_publisher(Query, 'typed_query', deep)
        self._topic_events: _Events | None = None
        node.create_subscription(SegmentationResult, 'result', self._put_topic_event, deep)
        node.create_subscription(String, 'reasoning', self._on_reasoning, deep)
        self._overlays: deque[Image] = deque(maxlen=_MAX_OVERLAYS)
        self._overlay_received = threading.Condition()
        if overlays:
            # From the start, so that the node discovers it in time for the first answer.
            node.create_subscription(
                Image, 'overlay', self._on_overlay, QoSProfile(depth=_MAX_OVERLAYS)
            )

    def __enter__(self) -> PerceptionClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._background.close()

    def wait_for_node(self, timeout: float = 10.0) -> str:
        """Wait until the node has discovered this client, and then until it is active.

        Args:
            timeout: seconds for both.

        Returns:
            The node's lifecycle state: `active`, unless the time was up before. A node that is not
            active answers every query with the reason.

        Raises:
            NoNode: there is no such node.
        """
        deadline = time.monotonic() + timeout

        def connected() -> bool:
            return bool(
                self._action.server_is_ready()
                and self._service.service_is_ready()
                and self._states.service_is_ready()
                and self._queries.get_subscription_count()
                and self._typed_queries.get_subscription_count()
                and self._node.count_publishers('result')
            )

        if not wait_for_graph(connected, timeout):
            raise NoNode(
                f'There is no perception node in the namespace {self.namespace} '
                f'(waited {timeout:g} s for the action {self.namespace}/segment). '
                + describe_graph(self._node, self.namespace)
            )
        wait_for_graph(lambda: self._state() == 'active', deadline - time.monotonic())
        return self._state()

    def wait_for_image(self, timeout: float = 10.0) -> bool:
        """Wait until the node has received an image of its camera; return whether it has.

        Without an image, it answers queries about the camera NO_IMAGE, with the reason.
        """
        node = f'{self.namespace.rstrip("/")}/perception'
        return wait_for_image(self._background, node, timeout)

    def wait_for_subscribers(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until `query` has so many subscribers, such as the node and a recorder.

        A query that is published before does not reach all of them.

        Args:
            count: number of subscribers.
            timeout: seconds.

        Returns:
            Whether there are that many.
        """
        return wait_for_graph(lambda: self._queries.get_subscription_count() >= count, timeout)

    def _state(self) -> str:
        """Return the label of the node's lifecycle state; empty if it does not respond."""
        future = self._states.call_async(GetState.Request())
        if not wait_for_future(future, _CHECK_PERIOD):
            return ''
        return str(future.result().current_state.label)

    def ask(
        self,
        text: str,
        image: Pixels | None = None,
        on_progress: OnProgress = ignore,
        timeout: float = 120.0,
        order: Order = 'rgb8',
        *,
        task: str = '',
        candidates: Sequence[Roi] = (),
    ) -> Reply:
        """Query by the action `segment`.

        Ctrl-C while waiting cancels the goal; the result then has the status CANCELED.

        Args:
            text: the query.
            image: (H, W, 3) uint8 to query; None for the newest camera frame.
            on_progress: called in this thread with each feedback of the node.
            timeout: seconds until the goal is cancelled.
            order: of the image's channels; `bgr8` for what cv2.imread and cv_bridge return.
            task: one of types.TASK_NAMES; empty: segment.
            candidates: boxes of another detector to choose among; empty: any object.

        Returns:
            The node's answer, whatever its status.

        Raises:
            BadImage: the image is no such array.
            NoNode: the node is not there, or has left the graph.
            NoAnswer: the time is up; the goal was cancelled.
            SegZeroError: a message of the node cannot be interpreted; the goal was cancelled.
        """
        self._reset()
        goal = Segment.Goal(
            query=text,
            task=task,
            candidates=[_region(box) for box in candidates],
            image=_message(image, order),
        )
        events: _Events = queue.SimpleQueue()

        def on_feedback(message: Any) -> None:
            events.put(progress_from(message.feedback))

        deadline = time.monotonic() + timeout
        sent = self._action.send_goal_async(goal, feedback_callback=on_feedback)
        self._wait(sent, timeout, text)
        handle = sent.result()
        if not handle.accepted:
            raise ClientError(f'The node in {self.namespace} did not accept the goal.')
        result = handle.get_result_async()
        result.add_done_callback(lambda _: events.put(None))
        try:
            while isinstance(progress := self._next_event(events, deadline), Progress):
                on_progress(progress)
        except (KeyboardInterrupt, queue.Empty) as reason:
            handle.cancel_goal_async()
            if not wait_for_future(result, _CANCEL_TIMEOUT) or isinstance(reason, queue.Empty):
                raise self._no_answer(text, timeout) from None
        except SegZeroError:
            handle.cancel_goal_async()
            raise
        return reply_from(result.result().result.result, image, order)

    def ask_by_topic(
        self,
        text: str,
        on_progress: OnProgress = ignore,
        timeout: float = 120.0,
        *,
        task: str = '',
    ) -> Reply:
        """Publish a query and wait for its result on `result`.

        With a task it is published on `typed_query`, and its result is matched by its id. Without
        one it is published on `query`, and matched by its text: the reply may then belong to
        another client that sends the same text. `reasoning` is not matched at all.

        Args:
            text: the query.
            on_progress: called in this thread with each piece of the reasoning.
            timeout: seconds.
            task: one of types.TASK_NAMES; empty: segment.

        Raises:
            NoNode: the node has left the graph.
            NoAnswer: the time is up.
        """
        self._reset()
        events: _Events = queue.SimpleQueue()
        self._topic_events = events
        deadline = time.monotonic() + timeout
        published = single_line(text)
        wanted_id = uuid.uuid4().hex if task else ''
        if task:
            self._typed_queries.publish(Query(id=wanted_id, text=text, task=task))
        else:
            self._queries.publish(String(data=text))
        try:
            while True:
                event = self._next_event(events, deadline)
                if isinstance(event, Progress):
                    on_progress(event)
                elif event is None:
                    continue
                elif event.query_id == wanted_id or (not task and event.query == published):
                    return reply_from(event, None)
        except queue.Empty:
            raise self._no_answer(text, timeout) from None
        finally:
            self._topic_events = None

    def ask_by_service(
        self,
        text: str,
        image: Pixels | None = None,
        timeout: float = 120.0,
        order: Order = 'rgb8',
        *,
        task: str = '',
        candidates: Sequence[Roi] = (),
    ) -> Reply:
        """Query by the service `segment_once`; arguments and errors as for `ask`."""
        self._reset()
        request = SegmentOnce.Request(
            query=text,
            task=task,
            candidates=[_region(box) for box in candidates],
            image=_message(image, order),
        )
        future = self._service.call_async(request)
        self._wait(future, timeout, text)
        return reply_from(future.result().result, image, order)

    def overlay(self, reply: Reply, timeout: float = 10.0, order: Order = 'rgb8') -> Pixels:
        """Return the node's overlay of the last reply.

        Overlays are matched by their frame's stamp, so call this before sending the next query.

        Args:
            reply: the reply.
            timeout: seconds to wait for the overlay.
            order: of the channels; `bgr8` for cv2.imwrite and cv2.imshow.

        Returns:
            (H, W, 3) uint8.

        Raises:
            NoAnswer: none was received; the client has to be made with `overlays`.
        """

        def found() -> Image | None:
            overlays = reversed(self._overlays)
            return next((o for o in overlays if to_ns(o.header.stamp) == reply.stamp_ns), None)

        with self._overlay_received:
            self._overlay_received.wait_for(lambda: found() is not None, timeout)
            message = found()
        if message is None:
            raise NoAnswer(f'No image received on {self.namespace}/overlay within {timeout:g} s.')
        return from_message(message, order)

    def image_topics(self, timeout: float = 2.0) -> list[str]:
        """Return image topics that the node does not subscribe to, colour before depth.

        Topics with the node's own results are excluded.

        Args:
            timeout: seconds to wait for the discovery of the first one.
        """
        wait_for_graph(lambda: bool(camera_topics(self._node)), timeout)
        topics = [
            topic
            for topic in camera_topics(self._node)
            if not is_subscribed(self._node, topic, self.namespace)
        ]
        return sorted(topics, key=lambda topic: ('depth' in topic, topic))

    def _on_overlay(self, message: Image) -> None:
        with self._overlay_received:
            self._overlays.append(message)
            self._overlay_received.notify_all()

    def _put_topic_event(self, event: Progress | SegmentationResult) -> None:
        if (events := self._topic_events) is not None:
            events.put(event)

    def _on_reasoning(self, message: String) -> None:
        self._put_topic_event(Progress(Stage.REASONING, message.data, math.nan))

    def _next_event(
        self, events: _Events, deadline: float
    ) -> Progress | SegmentationResult | None:
        """Return the next event; raise queue.Empty after the deadline, NoNode without a node.

        An exception of a callback is raised here.
        """
        while True:
            remaining = deadline - time.monotonic()
            try:
                return events.get(timeout=max(0.0, min(remaining, _CHECK_PERIOD)))
            except queue.Empty:
                self._check_node()
                if remaining <= _CHECK_PERIOD:
                    raise

    def _wait(self, future: Any, timeout: float, text: str) -> None:
        deadline = time.monotonic() + timeout
        while not wait_for_future(future, min(_CHECK_PERIOD, deadline - time.monotonic())):
            self._check_node()
            if time.monotonic() >= deadline:
                raise self._no_answer(text, timeout)

    def _reset(self) -> None:
        """Drop overlays and failures of earlier queries."""
        self._overlays.clear()
        self._background.clear_failure()

    def _check_node(self) -> None:
        self._background.check()
        if not self._action.server_is_ready():
            raise NoNode(
                f'The node in {self.namespace} has left the graph. '
                + describe_graph(self._node, self.namespace)
            )

    def _no_answer(self, text: str, timeout: float) -> NoAnswer:
        return NoAnswer(
            f'{self.namespace} did not answer {text!r} within {timeout:g} s. Check its state on '
            '/diagnostics, or use a larger timeout.'
        )


def _region(box: Roi) -> RegionOfInterest:
    return RegionOfInterest(x_offset=box.x, y_offset=box.y, width=box.width, height=box.height)


def _message(image: Pixels | None, order: Order) -> Image:
    return Image() if image is None else to_message(image, order)
