"""Subscriber to an RGB-D camera: three topics, decoded to a frame on demand.

Messages are stored in the executor's thread and decoded in the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.conversions.camera_info import is_rectified
from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.rgbd.buffer import RgbdBuffer, RgbdMessages
from segzero_ros.rgbd.frames import make_frame, pairing_warnings
from segzero_ros.rgbd.message_buffer import StoredMessage
from segzero_ros.ros.camera.qos_matching import QosMatchingSubscription
from segzero_ros.types import BadImage, Frame, S_TO_NS, SegZeroError

# An older image, in seconds, was stamped by the clock of a bag or a simulator.
MAX_CLOCK_DIFFERENCE = 3600.0
# An image stamped this much later than it arrived, in seconds, was stamped by another clock.
MIN_STAMP_LEAD = 1.0

_CLOCK_HINT = (
    'two clocks differ; synchronise the clocks of both computers (chrony, NTP or PTP), configure '
    "the camera driver to stamp with its host's time, or set use_sim_time if a bag's or a "
    "simulator's clock is published"
)


class NoImage(SegZeroError):
    """There is no image to query; the text gives the reason."""


class CameraFrame(NamedTuple):
    """A decoded frame of the camera.

    Attributes:
        frame: the frame.
        time_ns: when it was taken, by its stamp or else its arrival; 0 if unknown.
        warning: why there are no poses, or why they may be wrong; empty if nothing is wrong or
            there is no depth camera.
    """

    frame: Frame
    time_ns: int
    warning: str


class RgbdSubscriber:
    """Subscribes to image, depth and camera_info, and decodes them to frames.

    Attributes:
        buffer: the received messages.
        max_pixels: larger images are not decoded; may be changed from any thread.
        encoding: of the last decoded image; empty before.
        size: width and height of the last decoded image.
        error: why the last image could not be decoded; empty if it could.

    Args:
        node: owner of the subscriptions.
        max_offset: maximum difference between the stamps of an image and its depth, seconds.
        max_pixels: see above.
    """

    def __init__(
        self,
        node: Node,
        max_offset: float,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.buffer = buffer = RgbdBuffer(round(max_offset * S_TO_NS))
        self._clock = clock = node.get_clock()
        self._last: tuple[RgbdMessages, CameraFrame] | None = None
        self.encoding = ''
        self.size = (0, 0)
        self.error = ''
        self._warning = ''
        self._image = QosMatchingSubscription(
            node,
            (Image, CompressedImage),
            'image',
            lambda data: buffer.put_image(data, clock.now().nanoseconds),
            buffer.restart,
        )
        self._depth = QosMatchingSubscription(
            node,
            (Image, CompressedImage),
            'depth',
            lambda data: buffer.put_depth(data, clock.now().nanoseconds),
            buffer.restart,
        )
        self._info = QosMatchingSubscription(
            node,
            (CameraInfo,),
            'camera_info',
            lambda data: buffer.put_info(data, clock.now().nanoseconds),
        )

    @property
    def topic(self) -> str:
        """Resolved name of the image topic."""
        return self._image.topic

    @property
    def qos(self) -> str:
        """Reliability of the image subscription, such as `best_effort`."""
        return self._image.qos

    def match_publishers(self) -> None:
        """Adopt the QoS and types that the publishers offer now."""
        for subscription in (self._image, self._depth, self._info):
            subscription.match_publishers()

    def set_max_offset(self, max_offset: float) -> None:
        """Set the maximum difference between the stamps of an image and its depth, seconds."""
        self.buffer.max_offset_ns = round(max_offset * S_TO_NS)

    def close(self) -> None:
        """Unsubscribe and drop the buffered images, which rclpy would keep alive for minutes."""
        for subscription in (self._image, self._depth, self._info):
            subscription.close()
        self.buffer.clear()
        self._last = None

    def age(self) -> float:
        """Return the seconds since the newest image was taken, NaN while there is none."""
        newest = self.buffer.newest()
        if newest is None:
            return math.nan
        return (self._clock.now().nanoseconds - newest.time_ns) / S_TO_NS

    def depth_age(self) -> float:
        """Return the seconds since the newest depth was taken, NaN while there is none."""
        newest = self.buffer.newest_depth()
        if newest is None:
            return math.nan
        return (self._clock.now().nanoseconds - newest.time_ns) / S_TO_NS

    def no_image_reason(self, max_age: float) -> str:
        """Return why there is no image to query; empty if there is one.

        Args:
            max_age: maximum age of the newest image, seconds; 0 for any age.
        """
        newest = self.buffer.newest()
        if newest is None:
            return f'There is no image: {self._image.no_message_reason()}'
        age = self.age()
        if not max_age or age <= max_age:
            return ''
        return (
            f'There is no image newer than camera.max_image_age, {max_age:g} s: the newest on '
            f'{self.topic} was taken {age:.1f} s ago; {self._stale_reason(newest, age, max_age)}'
        )

    def not_buffered_reason(self, stamp_ns: int) -> str:
        """Return why there is no image with this stamp to query."""
        newest = self.buffer.newest()
        if newest is None:
            return f'There is no image: {self._image.no_message_reason()}'
        age = (newest.time_ns - stamp_ns) / S_TO_NS
        when = f'{age:.3f} s before' if age >= 0 else f'{-age:.3f} s after'
        return (
            f'There is no image with the stamp {stamp_ns / S_TO_NS:.9f} on {self.topic}; it is '
            f'{when} the newest, and images are kept for about half a second. Send the image with '
            'the query (action segment), or leave the stamp at zero for the newest.'
        )

    def _stale_reason(self, newest: StoredMessage, age: float, max_age: float) -> str:
        """Return why the newest image is too old: the camera has stopped, or two clocks differ."""
        if age > MAX_CLOCK_DIFFERENCE:
            return (
                "its stamps are of another clock: set use_sim_time if a bag's or a simulator's "
                'clock is published, or set camera.max_image_age to 0.'
            )
        lag = (newest.arrived_ns - newest.time_ns) / S_TO_NS
        if lag <= max_age:
            return 'is the camera still running?'
        rate = self.buffer.rate()
        images = f'images arrive at {rate:.1f} Hz, but their' if rate else 'when it arrived, its'
        return (
            f'{images} stamps are {lag:.1f} s behind the clock of this node: {_CLOCK_HINT}; or '
            'set camera.max_image_age to 0.'
        )

    def clock_warning(self) -> str:
        """Return a warning if images are stamped in the future of the node's clock, else empty."""
        newest = self.buffer.newest()
        lead = 0.0 if newest is None else (newest.time_ns - newest.arrived_ns) / S_TO_NS
        if lead < MIN_STAMP_LEAD:
            return ''
        return (
            f'The stamps of the images on {self.topic} are {lead:.1f} s ahead of the clock of '
            f'this node: {_CLOCK_HINT}.'
        )

    def warning(self) -> str:
        """Return what is wrong with stamps, depth and intrinsics now; empty if nothing."""
        rgbd = self.buffer.latest()
        if rgbd is None:
            return ''
        warnings = [self.clock_warning(), *self._pairing_warnings(rgbd)]
        return ' '.join(filter(None, warnings)) or self._warning

    def _pairing_warnings(self, rgbd: RgbdMessages) -> list[str]:
        # Querying the graph takes time, so it is done only if something is missing.
        no_depth = no_info = ''
        if rgbd.depth is None and rgbd.depth_gap_ns is None and self._depth.is_published:
            no_depth = f'no depth was received: {self._depth.no_message_reason()}'
        if rgbd.depth is not None and rgbd.info is None:
            no_info = f'no camera_info was received: {self._info.no_message_reason()}'
        return pairing_warnings(rgbd, self._depth.topic, no_depth=no_depth, no_info=no_info)

    def take(self, depth_wait: float = 0.0) -> CameraFrame:
        """Decode the newest image with its depth and intrinsics; in the worker's thread.

        Returns the same object again while there is no newer image.

        Args:
            depth_wait: seconds to wait for depth that is late, see `RgbdBuffer.latest`.

        Raises:
            NoImage: none was received, or the clock jumped since.
            BadImage: the image cannot be used.
        """
        rgbd = self.buffer.latest(depth_wait)
        if rgbd is None:
            raise NoImage(f'There is no image: {self._image.no_message_reason()}')
        last = self._last
        if last is None or last[0] != rgbd:
            last = self._last = rgbd, self.decode(rgbd)
        return last[1]

    def decode(self, rgbd: RgbdMessages) -> CameraFrame:
        """Decode a buffered image with its depth and intrinsics; in the worker's thread.

        Raises:
            BadImage: the image cannot be used.
        """
        warnings = self._pairing_warnings(rgbd)
        try:
            frame, warning = self._decode(rgbd, warnings)
        except BadImage as error:
            self.error = str(error)
            raise
        # Only what decoding found; `warning` computes the rest each time.
        self._warning = warning.removeprefix(' '.join(warnings)).strip()
        self.error, self.size = '', (frame.width, frame.height)
        warning = f'{self.clock_warning()} {warning}'.strip()
        return CameraFrame(frame, rgbd.image.time_ns, warning)

    def _decode(self, rgbd: RgbdMessages, warnings: Sequence[str]) -> tuple[Frame, str]:
        message = self._deserialize(self._image, rgbd.image)
        self.encoding = message.encoding if isinstance(message, Image) else message.format
        return make_frame(
            message,
            lambda: None if rgbd.depth is None else self._deserialize(self._depth, rgbd.depth),
            None if rgbd.info is None else self._deserialize(self._info, rgbd.info),
            rectified=is_rectified(self.topic),
            max_pixels=self.max_pixels,
            warnings=warnings,
        )

    def _deserialize(self, subscription: QosMatchingSubscription, stored: StoredMessage) -> Any:
        kind = subscription.message_type
        try:
            return deserialize_message(stored.data, kind)
        except RuntimeError as error:
            raise BadImage(
                f'The newest message on {subscription.topic} ({len(stored.data)} bytes) is not '
                f'a complete sensor_msgs/{kind.__name__}: {error}'
            ) from error
