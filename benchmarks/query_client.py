"""Client that queries by topic, service and action in turn, and records every result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
import threading
import time
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.background_node import (
    BackgroundNode,
    ThreadSafeActionClient,
    wait_for_future,
    wait_for_graph,
)
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Status

WAYS = ('topic', 'service', 'action')
SENTENCES = ('the biggest thing', 'the leftmost thing', 'the smallest object', 'everything')
DEEP = QoSProfile(depth=1000)
# Punctuation that makes each sentence unique and that reasoners ignore.
_MARKS = '.,!'


@dataclass
class Asked:
    """One query and its results.

    Attributes:
        text: unique.
        way: one of WAYS.
        sent: monotonic time, seconds.
        disturbed: whether there was a fault at the time.
        results: number of its results on `result`.
        replies: number of replies to the client; none for the topic.
        status: of its first result.
        message: of its first result.
        latency: seconds to its first result; NaN before.
        total: duration reported by the node, seconds.
    """

    text: str
    way: str
    sent: float
    disturbed: bool = False
    results: int = 0
    replies: int = 0
    status: Status | None = None
    message: str = ''
    latency: float = float('nan')
    total: float = float('nan')

    @property
    def complete(self) -> bool:
        """Whether it has exactly one result on the topic and one reply to the client."""
        return self.results == 1 and self.replies == (self.way != 'topic')

    @property
    def good(self) -> bool:
        """Whether a model answered it."""
        return self.status in (Status.OK, Status.NOT_FOUND)


@dataclass
class Account:
    """All queries in order."""

    asked: list[Asked] = field(default_factory=list)
    by_text: dict[str, Asked] = field(default_factory=dict)
    strays: Counter[str] = field(default_factory=Counter)


class QueryClient:
    """Queries one node and counts the results. Thread-safe.

    Args:
        namespace: the node's.
        node: the node's name.
        signature: punctuation of this client, before that of each sentence.
    """

    def __init__(self, namespace: str = '', node: str = 'perception', signature: str = '') -> None:
        self.background = BackgroundNode('query_client', namespace)
        self._signature = signature
        self.node = self.background.node
        self._server = node
        self.account = Account()
        self._news = threading.Condition()
        self._queries = self.node.create_publisher(String, 'query', DEEP)
        self._service = self.node.create_client(SegmentOnce, 'segment_once', qos_profile=DEEP)
        # As deep as the node's: with the default of ten, answers of a burst would be dropped.
        self._action = ThreadSafeActionClient(
            self.node,
            Segment,
            'segment',
            goal_service_qos_profile=DEEP,
            result_service_qos_profile=DEEP,
            cancel_service_qos_profile=DEEP,
        )
        self.node.create_subscription(SegmentationResult, 'result', self._heard, DEEP)
        self._setters: dict[str, Any] = {}

    def wait_for_node(self, timeout: float = 60.0) -> bool:
        """Wait until the node and this client are connected."""
        return wait_for_graph(
            lambda: bool(
                self._queries.get_subscription_count()
                and self.node.count_publishers('result')
                and self._service.service_is_ready()
                and self._action.server_is_ready()
            ),
            timeout,
        )

    def ask(self, way: str = '', *, disturbed: bool = False) -> Asked:
        """Send the next query without waiting for its answer."""
        with self._news:
            number = len(self.account.asked)
            sentence = SENTENCES[number % len(SENTENCES)]
            text = f'{sentence} {self._signature}{_marks(number)}'
            asked = Asked(text, way or WAYS[number % len(WAYS)], time.monotonic(), disturbed)
            self.account.asked.append(asked)
            self.account.by_text[text] = asked
        if asked.way == 'topic':
            self._queries.publish(String(data=text))
        elif asked.way == 'service':
            request = SegmentOnce.Request(query=text)
            self._service.call_async(request).add_done_callback(lambda _: self._replied(asked))
        else:
            goal = self._action.send_goal_async(Segment.Goal(query=text))
            goal.add_done_callback(lambda future: self._accepted(future, asked))
        return asked

    def wait(self, asked: Asked, timeout: float) -> bool:
        """Wait for the results of a query; return whether they arrived."""
        with self._news:
            return self._news.wait_for(lambda: asked.results > 0 and asked.complete, timeout)

    def good_answer(self, timeout: float, way: str = '') -> float:
        """Send queries until a model answers; return the seconds, infinity without an answer."""
        started = time.monotonic()
        while (left := started + timeout - time.monotonic()) > 0:
            asked = self.ask(way, disturbed=True)
            if self.wait(asked, left) and asked.good:
                return time.monotonic() - started
            threading.Event().wait(0.05)
        return float('inf')

    def wait_for_all(self, timeout: float) -> list[Asked]:
        """Wait for all open queries; return those without exactly one result."""
        with self._news:
            self._news.wait_for(
                lambda: all(asked.results and asked.complete for asked in self.account.asked),
                timeout,
            )
            return [asked for asked in self.account.asked if not asked.complete]

    def set_parameters(self, timeout: float = 10.0, node: str = '', **values: Any) -> bool:
        """Set parameters of the node, or of another node by its full name."""
        name = f'{node or self._server}/set_parameters'
        if name not in self._setters:
            self._setters[name] = self.node.create_client(SetParameters, name)
        client = self._setters[name]
        parameters = [
            Parameter(key, value=value).to_parameter_msg() for key, value in values.items()
        ]
        if not client.wait_for_service(timeout):
            return False
        future = client.call_async(SetParameters.Request(parameters=parameters))
        return wait_for_future(future, timeout) and all(
            result.successful for result in future.result().results
        )

    def close(self) -> None:
        """Destroy the client."""
        self.background.close()

    def _accepted(self, future: Any, asked: Asked) -> None:
        handle = future.result()
        handle.get_result_async().add_done_callback(lambda _: self._replied(asked))

    def _replied(self, asked: Asked) -> None:
        with self._news:
            asked.replies += 1
            self._news.notify_all()

    def _heard(self, message: SegmentationResult) -> None:
        now = time.monotonic()
        with self._news:
            asked = self.account.by_text.get(message.query)
            if asked is None:
                self.account.strays[message.query[:40]] += 1
                return
            asked.results += 1
            if asked.status is None:
                asked.status, asked.message = Status(message.status), message.message
                asked.latency, asked.total = now - asked.sent, message.timing.total
            self._news.notify_all()


def _marks(number: int) -> str:
    """Return a number as punctuation."""
    written = ''
    while True:
        number, digit = divmod(number, len(_MARKS))
        written += _MARKS[digit]
        if not number:
            return written
