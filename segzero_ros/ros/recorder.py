"""Recording of topics into a bag while they are published."""

from __future__ import annotations

from collections.abc import Iterable
import importlib
import logging
from types import TracebackType

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from segzero_ros.replay.bag import BagError, BagWriter
from segzero_ros.ros.background_node import BackgroundNode, wait_for_graph
from segzero_ros.types import SegZeroError

_logger = logging.getLogger(__name__)

# Seconds between two searches for new topics.
_DISCOVERY_PERIOD = 0.25
_DEPTH = 100


class RecorderError(SegZeroError):
    """The bag is incomplete; the text gives the first lost message and the reason."""


class Recorder:
    """Records every topic of some namespaces as soon as it has a publisher.

    Messages are written serialised, with their time of arrival. A topic whose type is not
    installed is skipped with a warning. If a message cannot be written, as on a full disk,
    recording stops with an error in the log, which `wait_for` and `close` raise.
    """

    def __init__(
        self, bag: BagWriter, namespaces: Iterable[str], topics: Iterable[str] = ()
    ) -> None:
        """Start recording.

        Args:
            bag: an open bag; it has to outlive the recorder.
            namespaces: such as `/segzero`; every topic below them is recorded.
            topics: full names of further topics.
        """
        self._bag = bag
        self._prefixes = tuple(f'{name.rstrip("/")}/' for name in namespaces)
        self._topics = set(topics)
        self._seen: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._error = ''
        self._background = BackgroundNode('segzero_recorder')
        self._node = self._background.node
        self._node.create_timer(_DISCOVERY_PERIOD, self._discover)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._background.close()
        if kind is None:
            self._raise_error()

    def close(self) -> None:
        """Stop recording; the bag stays open.

        Raises:
            RecorderError: recording stopped before.
        """
        self._background.close()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error:
            raise RecorderError(self._error)

    def wait_for(self, topics: Iterable[str], timeout: float) -> bool:
        """Wait until topics are recorded.

        That is when the recorder has discovered a publisher. A publisher has to check by itself
        that it has discovered the recorder: the two sides discover each other at different times.

        Args:
            topics: full names.
            timeout: seconds.

        Returns:
            Whether all are recorded.

        Raises:
            RecorderError: recording stopped.
        """
        names = set(topics)
        found = wait_for_graph(
            lambda: bool(self._error) or all(map(self._is_recording, names)),
            timeout,
            self._background,
        )
        self._raise_error()
        return found

    def _is_recording(self, topic: str) -> bool:
        """Return whether a topic is subscribed to and a publisher has been discovered."""
        subscription = self._subscriptions.get(topic)
        return subscription is not None and bool(subscription.get_publisher_count())

    def _discover(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            # Names with a part that begins with an underscore are hidden, as an action's topics.
            visible = topic.startswith(self._prefixes) and '/_' not in topic
            if (
                (visible or topic in self._topics)
                and topic not in self._seen
                and self._node.count_publishers(topic)
            ):
                self._record(topic, types[0])
                self._seen.add(topic)

    def _record(self, topic: str, message_type: str) -> None:
        profiles = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = all(each.reliability == ReliabilityPolicy.RELIABLE for each in profiles)
        latched = all(each.durability == DurabilityPolicy.TRANSIENT_LOCAL for each in profiles)
        try:
            self._bag.add_topic(topic, message_type, reliable=reliable)
            message_class = _message_class(message_type)
        except (BagError, ImportError, AttributeError) as error:
            _logger.warning('%s is not recorded: %s', topic, error)
            return
        qos = QoSProfile(
            depth=_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def write(message: bytes) -> None:
            if not self._error:
                self._write(topic, message)

        self._subscriptions[topic] = self._node.create_subscription(
            message_class, topic, write, qos, raw=True
        )

    def _write(self, topic: str, message: bytes) -> None:
        try:
            self._bag.write(topic, message, self._node.get_clock().now().nanoseconds)
        except Exception as error:
            self._error = (
                f'Recording stopped at a message of {topic} that cannot be written '
                f'({type(error).__name__}: {error}): the bag contains the messages before. Is the '
                'disk full?'
            )
            _logger.exception(self._error)


def _message_class(message_type: str) -> type:
    package, _, name = message_type.split('/')
    message_class: type = getattr(importlib.import_module(f'{package}.msg'), name)
    return message_class
