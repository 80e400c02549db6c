"""Subscriptions whose QoS and type match their publishers, for a camera's topics and /tf.

A best-effort subscriber loses most large images of a busy publisher; a reliable one receives
nothing from a best-effort publisher. So each subscription adopts what is offered: checked once a
second, and at once when the middleware reports an incompatible publisher. Messages are received
serialised, which saves the deserialisation of frames that no query uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import logging
from typing import Any, TYPE_CHECKING

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from segzero_ros.ros.rclpy_internals import private

if TYPE_CHECKING:
    # Lyrical calls the module rclpy.endpoint_info.
    from rclpy.topic_endpoint_info import TopicEndpointInfo

OfferedQos = tuple[ReliabilityPolicy, DurabilityPolicy]

# Seconds between two calls of `match_publishers`.
QOS_CHECK_PERIOD = 1.0
# The callback only stores a message, so the queue stays short. Each slot of the middleware's queue
# keeps the memory of the largest message: a depth of 4 cost 25 MB more after half a minute.
_DEPTH = 1
# Topics of common camera drivers, for the hint to remap.
_EXAMPLES = {
    'image': '/camera/image_raw',
    'depth': '/camera/aligned_depth_to_color/image_raw',
    'camera_info': '/camera/camera_info',
}
_logger = logging.getLogger(__name__)


class QosMatchingSubscription:
    """A subscription with the QoS and the type that its publishers offer.

    Args:
        node: owner of the subscription.
        message_types: supported types; the first is used while there is no publisher.
        topic: relative name.
        store: called with each message, serialised, in the executor's thread.
        on_new_type: called when the type changes, before messages of the new one arrive.
        depth: of the middleware's queue.
        callback_group: decides when `store` may be called; None for the node's own.

    Attributes:
        message_type: the subscribed type.
        topic: the resolved name.
    """

    def __init__(
        self,
        node: Node,
        message_types: Sequence[Any],
        topic: str,
        store: Callable[[bytes], None],
        on_new_type: Callable[[], None] = lambda: None,
        *,
        depth: int = _DEPTH,
        callback_group: CallbackGroup | None = None,
    ) -> None:
        self.topic = node.resolve_topic_name(topic)
        self._node = node
        self._name = topic
        self._types = {_type_name(kind): kind for kind in message_types}
        self._store = store
        self._on_new_type = on_new_type
        self._depth = depth
        self._callback_group = callback_group
        self._last_warning = ''
        self.message_type = message_types[0]
        self.message_type = self._published_type() or self.message_type
        self._qos: OfferedQos = strongest_qos(self.publishers())
        self._subscription: Subscription = self._subscribe()

    def match_publishers(self) -> None:
        """Subscribe again if the publishers offer another QoS or type than before."""
        message_type = self._published_type() or self.message_type
        if message_type is not self.message_type:
            self._change_type(message_type)
        qos = strongest_qos(self.publishers())
        if qos != self._qos:
            self._change_qos(qos)
        self._warn_about_types()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def take_queued(self) -> list[bytes]:
        """Return the messages that wait in the middleware; to be called in `store` only.

        The executor takes one message each time that it waits, which costs far more than the
        message itself.

        Raises:
            UnsupportedRclpy: this rclpy has no such way.
        """
        handle = self._subscription.handle
        take = private(handle, 'take_message')
        messages: list[bytes] = []
        with handle:
            while len(messages) < self._depth:
                taken = take(self.message_type, True)
                if taken is None:
                    break
                messages.append(taken[0])
        return messages

    @property
    def qos(self) -> str:
        """Reliability of the subscription, such as `best_effort`."""
        return self._qos[0].name.lower()

    def publishers(self) -> list[TopicEndpointInfo]:
        """Return the publishers of the subscribed type."""
        name = _type_name(self.message_type)
        return [info for info in self._infos() if info.topic_type == name]

    @property
    def is_published(self) -> bool:
        """Whether the topic has a publisher, of any type."""
        return bool(self._infos())

    def no_message_reason(self) -> str:
        """Return why no message may have been received, with a hint."""
        infos = self._infos()
        if not infos:
            return (
                f'{self.topic} has no publisher; remap it to your camera, such as '
                f'-r {self._name}:={_EXAMPLES[self._name]}.'
            )
        if not self.publishers():
            return self._other_types(infos)
        return f'{self.topic} has publishers ({len(self.publishers())}), but nothing arrived yet.'

    def _infos(self) -> list[TopicEndpointInfo]:
        infos: list[TopicEndpointInfo] = self._node.get_publishers_info_by_topic(self.topic)
        return infos

    def _published_type(self) -> Any:
        """Return a supported type that is published, preferably the present one; None for none."""
        published = {info.topic_type for info in self._infos()}
        supported = [kind for name, kind in self._types.items() if name in published]
        if self.message_type in supported:
            return self.message_type
        return next(iter(supported), None)

    def _subscribe(self) -> Subscription:
        reliability, durability = self._qos
        return self._node.create_subscription(
            self.message_type,
            self._name,
            self._store,
            QoSProfile(depth=self._depth, reliability=reliability, durability=durability),
            callback_group=self._callback_group,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, use_default_callbacks=False
            ),
            raw=True,
        )

    def _change_type(self, message_type: Any) -> None:
        self._node.destroy_subscription(self._subscription)
        self._on_new_type()
        previous, self.message_type = self.message_type, message_type
        self._qos = strongest_qos(self.publishers())
        try:
            self._subscription = self._subscribe()
        except Exception:
            # Tried again with the next look at the publishers.
            self.message_type = previous
            raise
        _logger.info('Subscribed to %s as %s', self.topic, _type_name(message_type))

    def _change_qos(self, qos: OfferedQos) -> None:
        _logger.info(
            'Subscribing to %s %s, %s, as offered by its publishers',
            self.topic,
            qos[0].name.lower(),
            qos[1].name.lower(),
        )
        self._qos = qos
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()

    def _on_incompatible_qos(self, _: object) -> None:
        """Subscribe again with a QoS that is compatible with every publisher."""
        # The graph may not list the publisher yet; then only the weakest QoS is sure to match.
        weakest = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
        qos = strongest_qos(self.publishers())
        self._change_qos(qos if qos != self._qos else weakest)

    def _warn_about_types(self) -> None:
        infos = self._infos()
        warning = self._other_types(infos) if infos and not self.publishers() else ''
        if warning and warning != self._last_warning:
            _logger.warning('No message can be received: %s', warning)
        self._last_warning = warning

    def _other_types(self, infos: Iterable[TopicEndpointInfo]) -> str:
        published = ', '.join(sorted({info.topic_type for info in infos}))
        supported = ' or '.join(self._types)
        return f'{self.topic} is published as {published}, but expected as {supported}.'


def _type_name(message_type: Any) -> str:
    package, kind, _ = message_type.__module__.split('.', 2)
    return f'{package}/{kind}/{message_type.__name__}'


def strongest_qos(infos: Iterable[TopicEndpointInfo]) -> OfferedQos:
    """Return the strongest QoS that is compatible with every publisher.

    Without publishers: reliable and volatile, as most camera drivers offer.
    """
    profiles = [info.qos_profile for info in infos]
    reliable = all(p.reliability is ReliabilityPolicy.RELIABLE for p in profiles)
    transient_local = bool(profiles) and all(
        p.durability is DurabilityPolicy.TRANSIENT_LOCAL for p in profiles
    )
    return (
        ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        DurabilityPolicy.TRANSIENT_LOCAL if transient_local else DurabilityPolicy.VOLATILE,
    )
