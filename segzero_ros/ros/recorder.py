"""Record what programs say to each other into a bag, as they say it."""

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

_LOOK_PERIOD = 0.25
_DEPTH = 100


class RecorderError(SegZeroError):
    """The bag is not complete; the text says since when and why."""


class Recorder:
    """Subscribes to every topic of some namespaces as soon as somebody publishes it.

    Messages are written serialized, as they came, with the time at which they came. A topic whose
    type has no definition here is left out with a warning. When a message cannot be written, as on
    a full disk, recording ends with an error in the log, and `wait_for` and `close` raise it.
    """

    def __init__(
        self, bag: BagWriter, namespaces: Iterable[str], topics: Iterable[str] = ()
    ) -> None:
        """Start to record.

        Args:
            bag: an open bag; it has to outlive the recorder.
            namespaces: as `/segzero`; every topic below them is recorded.
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
        self._node.create_timer(_LOOK_PERIOD, self._look)

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
            self._must_be_whole()

    def close(self) -> None:
        """Stop to record; the bag stays open.

        Raises:
            RecorderError: recording had to end before.
        """
        self._background.close()
        self._must_be_whole()

    def _must_be_whole(self) -> None:
        if self._error:
            raise RecorderError(self._error)

    def wait_for(self, topics: Iterable[str], timeout: float) -> bool:
        """Wait until these topics are recorded; return whether they are after `timeout` s.

        Recorded is a topic once a publisher of it is heard. Who publishes has to see for itself
        whether it is connected to the recorder: the two ends find each other at different times.

        Raises:
            RecorderError: recording had to end.
        """
        wanted = set(topics)
        found = wait_for_graph(
            lambda: bool(self._error) or all(map(self._hears, wanted)), timeout, self._background
        )
        self._must_be_whole()
        return found

    def _hears(self, topic: str) -> bool:
        """Return whether a topic is subscribed to and a publisher has been found."""
        subscription = self._subscriptions.get(topic)
        return subscription is not None and bool(subscription.get_publisher_count())

    def _look(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            # A name's part that begins with an underscore hides it, as an action's own topics.
            visible = topic.startswith(self._prefixes) and '/_' not in topic
            if (
                (visible or topic in self._topics)
                and topic not in self._seen
                and self._node.count_publishers(topic)
            ):
                self._record(topic, types[0])
                self._seen.add(topic)

    def _record(self, topic: str, message_type: str) -> None:
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        lasting = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        try:
            self._bag.add_topic(topic, message_type, reliable=reliable)
            message_class = _message_class(message_type)
        except (BagError, ImportError, AttributeError) as error:
            _logger.warning('%s is not recorded: %s', topic, error)
            return
        qos = QoSProfile(
            depth=_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if lasting else DurabilityPolicy.VOLATILE,
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
                f'Recording ended at a message of {topic}, which cannot be written '
                f'({type(error).__name__}: {error}): the bag holds what came before. Is the disk '
                'full?'
            )
            _logger.exception(self._error)


def _message_class(message_type: str) -> type:
    package, _, name = message_type.split('/')
    message_class: type = getattr(importlib.import_module(f'{package}.msg'), name)
    return message_class
