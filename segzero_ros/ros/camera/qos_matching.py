"""Subscriptions to a camera's topics: undecoded, and as reliable as their publishers.

A best-effort subscriber loses most large images of a busy publisher; a reliable one hears nothing
from a best-effort publisher. So each subscription follows what is offered: looked up once a
second, and at once when the middleware reports a publisher that does not fit. Messages are taken
serialised, which spares a copy into Python for every frame that nobody asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
# Where cameras publish what is subscribed to by these names.
_EXAMPLES = {
    'image': '/camera/image_raw',
    'depth': '/camera/aligned_depth_to_color/image_raw',
    'camera_info': '/camera/camera_info',
}
_logger = logging.getLogger(__name__)


class QosMatchingSubscription:
    """One topic, subscribed to with the QoS and the type that its publishers offer.

    Args:
        node: the node that subscribes.
        message_types: the message types that can be used; the first is taken where no publisher
            decides.
        topic: relative name.
        store: called with each message, serialised, in the executor's thread.
        on_new_type: called before messages of another type than before arrive.

    Attributes:
        message_type: the type that is subscribed to.
        topic: the resolved name.
    """

    def __init__(
        self,
        node: Node,
        message_types: Sequence[Any],
        topic: str,
        store: Callable[[bytes], None],
        on_new_type: Callable[[], None] = lambda: None,
    ) -> None:
        self.topic = node.resolve_topic_name(topic)
        self._node = node
        self._name = topic
        self._types = {_type_name(kind): kind for kind in message_types}
        self._store = store
        self._on_new_type = on_new_type
        self._warned = ''
        self.message_type = self._published_type() or message_types[0]
        self._offer: OfferedQos = offered(self.publishers())
        self._subscription: Subscription = self._subscribe()

    def look(self) -> None:
        """Subscribe again if the publishers offer another QoS or type than before."""
        message_type = self._published_type() or self.message_type
        if message_type is not self.message_type:
            self._change_type(message_type)
        offer = offered(self.publishers())
        if offer != self._offer:
            self._change(offer)
        self._warn_about_types()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    @property
    def qos(self) -> str:
        """The reliability of the subscription, such as `best_effort`."""
        return self._offer[0].name.lower()

    def publishers(self) -> list[TopicEndpointInfo]:
        """Return the publishers of the subscribed type."""
        name = _type_name(self.message_type)
        return [info for info in self._infos() if info.topic_type == name]

    @property
    def is_published(self) -> bool:
        """Whether anybody publishes on the topic, of whatever type."""
        return bool(self._infos())

    def silence(self) -> str:
        """Return, for a person, why nothing may have arrived."""
        infos = self._infos()
        if not infos:
            return (
                f'nobody publishes {self.topic}; remap it to your camera, such as '
                f'-r {self._name}:={_EXAMPLES[self._name]}.'
            )
        if not self.publishers():
            return self._other_types(infos)
        return f'{len(self.publishers())} publish it, but nothing has arrived yet.'

    def _infos(self) -> list[TopicEndpointInfo]:
        infos: list[TopicEndpointInfo] = self._node.get_publishers_info_by_topic(self.topic)
        return infos

    def _published_type(self) -> Any:
        """Return the usable type that is published, the present one first; None for none."""
        published = {info.topic_type for info in self._infos()}
        usable = [kind for name, kind in self._types.items() if name in published]
        present = getattr(self, 'message_type', None)
        return present if present in usable else next(iter(usable), None)

    def _subscribe(self) -> Subscription:
        reliability, durability = self._offer
        return self._node.create_subscription(
            self.message_type,
            self._name,
            self._store,
            QoSProfile(depth=_QUEUE, reliability=reliability, durability=durability),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, use_default_callbacks=False
            ),
            raw=True,
        )

    def _change_type(self, message_type: Any) -> None:
        self._node.destroy_subscription(self._subscription)
        self._on_new_type()
        self.message_type = message_type
        self._offer = offered(self.publishers())
        self._subscription = self._subscribe()
        _logger.info('Subscribed to %s as %s', self.topic, _type_name(message_type))

    def _change(self, offer: OfferedQos) -> None:
        _logger.info(
            'Subscribing to %s %s, %s, as its publishers offer it',
            self.topic,
            offer[0].name.lower(),
            offer[1].name.lower(),
        )
        self._offer = offer
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()

    def _on_incompatible_qos(self, _: object) -> None:
        """Subscribe again, with the QoS of a publisher that did not match."""
        # The graph may not show the publisher yet, but it offers less than was requested.
        weakest = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
        offer = offered(self.publishers())
        self._change(offer if offer != self._offer else weakest)

    def _warn_about_types(self) -> None:
        infos = self._infos()
        warning = self._other_types(infos) if infos and not self.publishers() else ''
        if warning and warning != self._warned:
            _logger.warning('Nothing can arrive on %s: %s', self.topic, warning)
        self._warned = warning

    def _other_types(self, infos: Iterable[TopicEndpointInfo]) -> str:
        published = ', '.join(sorted({info.topic_type for info in infos}))
        return f'{self.topic} is published as {published}, but takes {" or ".join(self._types)}.'


def _type_name(message_type: Any) -> str:
    package, kind, _ = message_type.__module__.split('.', 2)
    return f'{package}/{kind}/{message_type.__name__}'


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
