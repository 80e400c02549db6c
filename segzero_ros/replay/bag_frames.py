"""Frames from a bag: decoded image, depth and intrinsics."""

from __future__ import annotations

from typing import Any

from segzero_ros.conversions.camera_info import is_rectified
from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.replay.bag import BagError, BagMessage, BagReader
from segzero_ros.replay.topics import Topics
from segzero_ros.rgbd.buffer import RgbdMessages
from segzero_ros.rgbd.frames import make_frame, pairing_warnings
from segzero_ros.rgbd.message_buffer import StoredMessage
from segzero_ros.types import BadImage, Frame


class BagFrames:
    """Decodes RGB-D messages of an open bag; caches the last frame.

    Args:
        bag: an open bag.
        topics: the camera's topics.
        max_pixels: larger images are rejected before they are decoded, larger depth is ignored.
    """

    def __init__(self, bag: BagReader, topics: Topics, max_pixels: int = MAX_PIXELS) -> None:
        self._bag = bag
        self._topics = topics
        self._max_pixels = max_pixels
        self._cached: tuple[RgbdMessages, tuple[Frame, str]] | None = None

    def frame(self, rgbd: RgbdMessages) -> tuple[Frame, str]:
        """Return the messages' frame, the same object for the same messages, and a warning.

        Raises:
            BadImage: its image cannot be decoded.
        """
        if self._cached is None or self._cached[0] != rgbd:
            self._cached = rgbd, self._decode(rgbd)
        return self._cached[1]

    def _decode(self, rgbd: RgbdMessages) -> tuple[Frame, str]:
        topics = self._topics
        no_depth = topics.no_depth
        if topics.depth:
            no_depth = f'no depth image was recorded on {topics.depth}'
        where = f'on {topics.camera_info}' if topics.camera_info else 'for the camera'
        no_info = topics.no_info or f'no camera_info was recorded {where}'
        return make_frame(
            self._read(topics.image, rgbd.image),
            lambda: None if rgbd.depth is None else self._read(topics.depth, rgbd.depth),
            None if rgbd.info is None else self._read(topics.camera_info, rgbd.info),
            rectified=is_rectified(topics.image),
            max_pixels=self._max_pixels,
            warnings=pairing_warnings(rgbd, topics.depth, no_depth=no_depth, no_info=no_info),
        )

    def _read(self, topic: str, stored: StoredMessage) -> Any:
        message = BagMessage(topic, self._bag.topics[topic], stored.data, stored.arrived_ns)
        try:
            return self._bag.parse(message)
        except BagError as error:
            raise BadImage(str(error)) from error
