"""The camera as the node sees it: three subscriptions, and a frame when one is asked for.

Storing happens in the executor's thread, decoding in the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.conversions.camera_info import is_rectified
from segzero_ros.conversions.image import MAX_PIXELS
from segzero_ros.rgbd.buffer import RgbdBuffer, RgbdMessages
from segzero_ros.rgbd.frames import make_frame, pairing_warnings
from segzero_ros.rgbd.message_buffer import StoredMessage
from segzero_ros.ros.camera.qos_matching import QosMatchingSubscription
from segzero_ros.types import BadImage, Frame, S_TO_NS, SegZeroError

# A stamp this far from the clock, in seconds, is of a bag's or a simulator's clock.
OTHER_CLOCK = 3600.0
# An image that is stamped so much later than it arrived, in seconds, has another clock's stamp.
AHEAD = 1.0


# What two clocks that differ are, and what to do.
_CLOCKS = (
    'two clocks differ; synchronise the clocks of both computers (chrony, NTP or PTP), have the '
    "camera's driver stamp with its host's time, or set use_sim_time where a bag's or a "
    "simulator's clock is published"
)


class NoImage(SegZeroError):
    """There is no image to ask about; the text says why."""


class TakenFrame(NamedTuple):
    """A frame to be asked about.

    Attributes:
        frame: decoded.
        time_ns: when it was taken, by its stamp or else its arrival; 0 where that is not known.
        remark: for a person, why there are no poses or why they may be wrong; empty where all is
            well, or there is no depth camera.
    """

    frame: Frame
    time_ns: int
    remark: str


class RgbdSubscriber:
    """Subscribes to image, depth and camera_info, and makes a frame of what came.

    Args:
        node: whose subscriptions they are.
        max_offset: most seconds between an image's stamp and its depth's.
        max_pixels: larger images are not decoded; may be changed from any thread.
    """

    def __init__(
        self,
        node: Node,
        max_offset: float,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.store = store = RgbdBuffer(round(max_offset * S_TO_NS))
        self._clock = clock = node.get_clock()
        self._made: tuple[RgbdMessages, TakenFrame] | None = None
        # What diagnostics tell about the last image that was decoded.
        self.encoding = ''
        self.size = (0, 0)
        self.error = ''
        self._warning = ''
        self._image = QosMatchingSubscription(
            node,
            (Image, CompressedImage),
            'image',
            lambda data: store.put_image(data, clock.now().nanoseconds),
            store.restart,
        )
        self._depth = QosMatchingSubscription(
            node,
            (Image, CompressedImage),
            'depth',
            lambda data: store.put_depth(data, clock.now().nanoseconds),
            store.restart,
        )
        self._info = QosMatchingSubscription(
            node,
            (CameraInfo,),
            'camera_info',
            lambda data: store.put_info(data, clock.now().nanoseconds),
        )

    @property
    def topic(self) -> str:
        """The resolved name of the image's topic."""
        return self._image.topic

    @property
    def qos(self) -> str:
        """How the image's topic is subscribed to, such as `best_effort`."""
        return self._image.qos

    def look(self) -> None:
        """Follow what the publishers offer now."""
        for subscription in (self._image, self._depth, self._info):
            subscription.look()

    def set_max_offset(self, max_offset: float) -> None:
        """Set the most seconds between an image's stamp and its depth's."""
        self.store.max_offset_ns = round(max_offset * S_TO_NS)

    def close(self) -> None:
        """Unsubscribe, and forget the images, which rclpy would keep alive for minutes."""
        for subscription in (self._image, self._depth, self._info):
            subscription.close()
        self.store.clear()
        self._made = None

    def age(self) -> float:
        """Return the seconds since the newest image was taken, NaN while there is none."""
        newest = self.store.newest()
        if newest is None:
            return math.nan
        return (self._clock.now().nanoseconds - newest.time_ns) / S_TO_NS

    def depth_age(self) -> float:
        """Return the seconds since the newest depth was taken, NaN while there is none."""
        newest = self.store.newest_depth()
        if newest is None:
            return math.nan
        return (self._clock.now().nanoseconds - newest.time_ns) / S_TO_NS

    def absence(self, max_age: float) -> str:
        """Say why there is no image to ask about; empty when there is one.

        Args:
            max_age: how old the newest image may be, seconds; 0 for any age.
        """
        newest = self.store.newest()
        if newest is None:
            return f'There is no image: {self._image.silence()}'
        age = self.age()
        if not max_age or age <= max_age:
            return ''
        return (
            f'There is no image newer than camera.max_image_age, {max_age:g} s: the newest on '
            f'{self.topic} was taken {age:.1f} s ago; {self._old_because(newest, age, max_age)}'
        )

    def _old_because(self, newest: StoredMessage, age: float, max_age: float) -> str:
        """Say why the newest image is too old: its camera has stopped, or there are two clocks."""
        if age > OTHER_CLOCK:
            return (
                "its stamps are of another clock: set use_sim_time where a bag's or a "
                "simulator's clock is published, or camera.max_image_age to 0."
            )
        lag = (newest.arrived_ns - newest.time_ns) / S_TO_NS
        if lag <= max_age:
            return 'is the camera still running?'
        rate = self.store.rate()
        coming = f'images come at {rate:.1f} Hz, but their' if rate else 'it came with its'
        return (
            f'{coming} stamps {lag:.1f} s behind the clock of this node: {_CLOCKS}; or set '
            'camera.max_image_age to 0.'
        )

    def clock_warning(self) -> str:
        """Say that images are stamped in the future of the node's clock; empty if they are not."""
        newest = self.store.newest()
        ahead = 0.0 if newest is None else (newest.time_ns - newest.arrived_ns) / S_TO_NS
        if ahead < AHEAD:
            return ''
        return (
            f'The stamps of the images on {self.topic} are {ahead:.1f} s ahead of the clock of '
            f'this node: {_CLOCKS}.'
        )

    def warning(self) -> str:
        """Say what may be wrong with stamps, depth and intrinsics now; empty if nothing."""
        rgbd = self.store.latest()
        if rgbd is None:
            return ''
        found = [self.clock_warning(), *self._pairing_warnings(rgbd)]
        return ' '.join(filter(None, found)) or self._warning

    def _pairing_warnings(self, rgbd: RgbdMessages) -> list[str]:
        # Asking the graph takes time, so it is done where something is missing.
        no_depth = no_info = ''
        if rgbd.depth is None and rgbd.depth_gap_ns is None and self._depth.is_published:
            no_depth = f'no depth has come: {self._depth.silence()}'
        if rgbd.depth is not None and rgbd.info is None:
            no_info = f'no camera_info has come: {self._info.silence()}'
        return pairing_warnings(rgbd, self._depth.topic, no_depth=no_depth, no_info=no_info)

    def take(self) -> TakenFrame:
        """Decode the newest image with its depth and intrinsics; called by the worker.

        While nothing newer came, the frame is the same object as before.

        Raises:
            NoImage: none has come, or the clock jumped since.
            BadImage: what came cannot be used.
        """
        rgbd = self.store.latest()
        if rgbd is None:
            raise NoImage(f'There is no image: {self._image.silence()}')
        made = self._made
        if made is None or made[0] != rgbd:
            made = self._made = rgbd, self.decode(rgbd)
        return made[1]

    def decode(self, rgbd: RgbdMessages) -> TakenFrame:
        """Decode an image of the store's; called by the worker.

        Raises:
            BadImage: it cannot be used.
        """
        warnings = self._pairing_warnings(rgbd)
        try:
            frame, remark = self._decode(rgbd, warnings)
        except BadImage as error:
            self.error = str(error)
            raise
        # What is found without decoding is looked up anew each time.
        self._warning = remark.removeprefix(' '.join(warnings)).strip()
        self.error, self.size = '', (frame.width, frame.height)
        remark = f'{self.clock_warning()} {remark}'.strip()
        return TakenFrame(frame, rgbd.image.time_ns, remark)

    def _decode(self, rgbd: RgbdMessages, warnings: Sequence[str]) -> tuple[Frame, str]:
        message = self._read(self._image, rgbd.image)
        self.encoding = message.encoding if isinstance(message, Image) else message.format
        return make_frame(
            message,
            lambda: None if rgbd.depth is None else self._read(self._depth, rgbd.depth),
            None if rgbd.info is None else self._read(self._info, rgbd.info),
            rectified=is_rectified(self.topic),
            max_pixels=self.max_pixels,
            warnings=warnings,
        )

    def _read(self, subscription: QosMatchingSubscription, stored: StoredMessage) -> Any:
        kind = subscription.message_type
        try:
            return deserialize_message(stored.data, kind)
        except RuntimeError as error:
            raise BadImage(
                f'The newest message on {subscription.topic} ({len(stored.data)} bytes) is no '
                f'whole sensor_msgs/{kind.__name__}: {error}'
            ) from error
