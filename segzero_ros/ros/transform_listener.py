"""Listener to `/tf` and `/tf_static`, with look-ups that other threads may wait for.

A robot may publish a thousand transforms a second. The executor would wait anew for each of them,
which costs a large part of a core. So they stay in the middleware's queue until a timer, or a
thread that waits for one, has them read all together.
"""

from __future__ import annotations

from collections.abc import Iterable
import logging
import threading
from typing import Any, Protocol
from weakref import WeakSet

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from segzero_ros.conversions.transforms import BadTransforms, read_transforms
from segzero_ros.ros.camera.qos_matching import QosMatchingSubscription
from segzero_ros.spatial.transform_buffer import NoTransform, TransformBuffer
from segzero_ros.spatial.transforms import StampedTransform, Transform

DYNAMIC, STATIC = '/tf', '/tf_static'
# Seconds between two readings of the queue, and its depth: enough for 1000 messages a second even
# if the executor is late by half a second.
READ_PERIOD = 0.1
_DEPTH = 1000
# As in tf2: each publisher's last messages with all its static transforms.
_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_logger = logging.getLogger(__name__)


class Buffer(Protocol):
    """What stores transforms: tf2's buffer or this package's own."""

    def add(self, stamped: StampedTransform, *, static: bool) -> None:
        """Store a transform."""
        ...

    def clear(self) -> None:
        """Forget all but the static transforms."""
        ...

    def look_up(self, target: str, source: str, stamp_ns: int) -> Transform:
        """Return the transform of points in one frame into another, or raise NoTransform."""
        ...


def new_buffer() -> Buffer:
    """Return tf2's buffer where tf2_py is installed, else this package's own."""
    try:
        from segzero_ros.ros.tf2_buffer import Tf2Buffer
    except ImportError:
        return TransformBuffer()
    return Tf2Buffer()


class TransformRequest:
    """A look-up that may be answered later: until it is dropped, each new transform is tried.

    So a transform that arrives a little later than its image is found, and is still known when
    the model has thought for longer than transforms are kept.

    Attributes:
        target: frame to transform into.
        source: frame to transform from.
        stamp_ns: time, nanoseconds; 0 for the newest.
        transform: of points in the source frame into the target frame; None while unknown.
        error: why it is unknown.
    """

    def __init__(self, target: str, source: str, stamp_ns: int) -> None:
        self.target = target
        self.source = source
        self.stamp_ns = stamp_ns
        self.transform: Transform | None = None
        self.error = NoTransform('nothing was looked up yet')

    def look_up(self, buffer: Buffer) -> bool:
        """Try to answer it from a buffer; return whether it is answered."""
        try:
            self.transform = buffer.look_up(self.target, self.source, self.stamp_ns)
        except NoTransform as error:
            self.error = error
            return False
        return True


class TransformListener:
    """Subscribes to transforms, stores ten seconds of them and looks up those between frames.

    Args:
        node: owner of the subscriptions; its executor must be spinning.

    Raises:
        ImportError: tf2_msgs is not installed.
    """

    def __init__(self, node: Node) -> None:
        from tf2_msgs.msg import TFMessage

        self._node = node
        self._buffer = new_buffer()
        self._changed = threading.Condition()
        self._requests: WeakSet[TransformRequest] = WeakSet()
        self._waiting = 0
        self._bad_reported = False
        self._gate = _Gate()
        self._dynamic = QosMatchingSubscription(
            node,
            (TFMessage,),
            DYNAMIC,
            self._on_dynamic,
            depth=_DEPTH,
            callback_group=self._gate,
        )
        self._static = node.create_subscription(
            TFMessage, STATIC, self._on_static, _STATIC_QOS, raw=True
        )
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(READ_PERIOD, self._gate.open, clock=clock)

    def match_publishers(self) -> None:
        """Adopt the QoS that the publishers of `/tf` offer now."""
        self._dynamic.match_publishers()

    def clear(self) -> None:
        """Forget all but the static transforms, because the time has jumped back."""
        with self._changed:
            self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._static)
        self._dynamic.close()

    def request(self, target: str, source: str, stamp_ns: int) -> TransformRequest:
        """Look up a transform now, and go on as transforms arrive; from any thread.

        Args:
            target: frame to transform into.
            source: frame to transform from.
            stamp_ns: time, nanoseconds; 0 for the newest.
        """
        request = TransformRequest(target, source, stamp_ns)
        with self._changed:
            if not request.look_up(self._buffer):
                self._requests.add(request)
        return request

    def wait(self, request: TransformRequest, timeout: float) -> Transform:
        """Return a requested transform as soon as it is known; not in the executor's thread.

        Args:
            request: of this listener.
            timeout: how long to wait, seconds.

        Raises:
            NoTransform: it is still unknown.
        """
        with self._changed:
            if request.transform is None and timeout > 0:
                self._wait(request, timeout)
            self._requests.discard(request)
            if request.transform is None:
                raise request.error
            return request.transform

    def _wait(self, request: TransformRequest, timeout: float) -> None:
        self._waiting += 1
        self._gate.open()
        executor = self._node.executor
        if executor is not None:
            # To wait for the subscription again, now that the gate is open.
            executor.wake()
        self._changed.wait_for(lambda: request.transform is not None, timeout)
        self._waiting -= 1

    def _on_dynamic(self, data: bytes) -> None:
        self._store([data, *self._dynamic.take_queued()], static=False)
        with self._changed:
            # A thread that begins to wait in between finds the gate closed and opens it.
            if not self._waiting:
                self._gate.close()

    def _on_static(self, data: bytes) -> None:
        self._store([data], static=True)

    def _store(self, messages: Iterable[bytes], *, static: bool) -> None:
        with self._changed:
            for data in messages:
                try:
                    transforms = read_transforms(data)
                except BadTransforms as error:
                    self._report(error)
                    continue
                for transform in transforms:
                    self._buffer.add(transform, static=static)
            for request in list(self._requests):
                if request.look_up(self._buffer):
                    self._requests.discard(request)
            self._changed.notify_all()

    def _report(self, error: BadTransforms) -> None:
        if not self._bad_reported:
            self._bad_reported = True
            _logger.warning('A message of transforms is left out (reported once): %s', error)


class _Gate(CallbackGroup):
    """Callback group whose callbacks run only while it is open; may be used from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._is_open = True

    def open(self) -> None:
        """Let callbacks run from the executor's next wait on."""
        self._is_open = True

    def close(self) -> None:
        """Leave the messages in the middleware's queue."""
        self._is_open = False

    def can_execute(self, entity: Any) -> bool:
        """Return whether the executor may wait for a subscription."""
        return self._is_open

    def beginning_execution(self, entity: Any) -> bool:
        """Allow the callback of a message that was waited for."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Need no notice of the callback's end."""
