"""Subscriptions to a camera's topics: undecoded, and as reliable as their publishers.

A best-effort subscriber loses most large images of a busy publisher; a reliable one hears nothing
from a best-effort publisher. So each subscription follows what is offered: looked up once a
second, and at once when the middleware reports a publisher that does not fit. Messages are taken
serialised, which spares a copy into Python for every frame that nobody asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import logging
from typing import Any, TYPE_CHECKING

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

if TYPE_CHECKING:
    # Lyrical calls the module rclpy.endpoint_info.
    from rclpy.topic_endpoint_info import TopicEndpointInfo

OfferedQos = tuple[ReliabilityPolicy, DurabilityPolicy]

LOOK_PERIOD = 1.0
# The executor's thread only stores messages, so none waits long; each place in the middleware's
# queue keeps memory of the largest message, some 25 MB more after half a minute with four places.
_QUEUE = 1
_BY_NAME = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}
# Where cameras publish what is subscribed to by these names.
_EXAMPLES = {
    'image': '/camera/image_raw',
    'depth': '/camera/aligned_depth_to_color/image_raw',
    'camera_info': '/camera/camera_info',
}
_logger = logging.getLogger(__name__)


class QosMatchingSubscription:
    """One topic, subscribed to as its publishers offer it.

    Args:
        node: whose subscription it is.
        message_type: what is expected there.
        topic: relative name.
        store: called with each message, serialised, in the executor's thread.
        reliability: `auto` to follow, `reliable` or `best_effort` to insist.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        topic: str,
        store: Callable[[bytes], None],
        reliability: str,
    ) -> None:
        self.message_type = message_type
        self.topic = node.resolve_topic_name(topic)
        self.reliability = reliability
        self._node = node
        self._name = topic
        self._store = store
        self._complained = ''
        self._offer: OfferedQos = self._wanted()
        self._subscription: Subscription = self._subscribe()

    def look(self) -> None:
        """Subscribe anew if the publishers offer something else than before."""
        wanted = self._wanted()
        if wanted != self._offer:
            self._change(wanted)
        self._complain_about_types()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    @property
    def qos(self) -> str:
        """How the topic is subscribed to, such as `best_effort`."""
        return self._offer[0].name.lower()

    def publishers(self) -> list[TopicEndpointInfo]:
        """Return who publishes messages of the expected type."""
        return [info for info in self._infos() if info.topic_type == self._type_name]

    @property
    def is_published(self) -> bool:
        """Whether anybody publishes on the topic, of whatever type."""
        return bool(self._infos())

    def silence(self) -> str:
        """Say, for a person, why nothing may have come."""
        infos = self._infos()
        if not infos:
            return (
                f'nobody publishes {self.topic}; remap it to your camera, such as '
                f'-r {self._name}:={_EXAMPLES[self._name]}.'
            )
        if not self.publishers():
            return self._other_types(infos)
        return f'{len(self.publishers())} publish it, but nothing has come yet.'

    def _infos(self) -> list[TopicEndpointInfo]:
        infos: list[TopicEndpointInfo] = self._node.get_publishers_info_by_topic(self.topic)
        return infos

    @property
    def _type_name(self) -> str:
        package, kind, _ = self.message_type.__module__.split('.', 2)
        return f'{package}/{kind}/{self.message_type.__name__}'

    def _wanted(self) -> OfferedQos:
        reliability, durability = offered(self.publishers())
        return _BY_NAME.get(self.reliability, reliability), durability

    def _subscribe(self) -> Subscription:
        reliability, durability = self._offer
        return self._node.create_subscription(
            self.message_type,
            self._name,
            self._store,
            QoSProfile(depth=_QUEUE, reliability=reliability, durability=durability),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._misfit, use_default_callbacks=False
            ),
            raw=True,
        )

    def _change(self, wanted: OfferedQos) -> None:
        _logger.info(
            'Subscribing to %s %s, %s, as its publishers offer it',
            self.topic,
            wanted[0].name.lower(),
            wanted[1].name.lower(),
        )
        self._offer = wanted
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()

    def _misfit(self, _: object) -> None:
        """Hear of a publisher that the subscription does not fit."""
        if self.reliability != 'auto':
            _logger.warning(
                'A publisher of %s does not fit image_reliability `%s`; nothing comes from it',
                self.topic,
                self.reliability,
            )
            return
        # The graph may not show the publisher yet, but it asks for less than what was wanted.
        weakest = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
        wanted = self._wanted()
        self._change(wanted if wanted != self._offer else weakest)

    def _complain_about_types(self) -> None:
        infos = self._infos()
        complaint = self._other_types(infos) if infos and not self.publishers() else ''
        if complaint and complaint != self._complained:
            _logger.warning('Nothing can come on %s: %s', self.topic, complaint)
        self._complained = complaint

    def _other_types(self, infos: Iterable[TopicEndpointInfo]) -> str:
        types = ', '.join(sorted({info.topic_type for info in infos}))
        return (
            f'{self.topic} is published as {types}, but {self._type_name} is expected; see the '
            'parameters image_transport and depth_transport.'
        )


def offered(infos: Iterable[TopicEndpointInfo]) -> OfferedQos:
    """Return the strongest quality of service that fits every publisher.

    Without publishers: reliable and volatile, which is what most cameras' drivers offer.
    """
    profiles = [info.qos_profile for info in infos]
    reliable = all(p.reliability is ReliabilityPolicy.RELIABLE for p in profiles)
    kept = bool(profiles) and all(
        p.durability is DurabilityPolicy.TRANSIENT_LOCAL for p in profiles
    )
    return (
        ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
    )
