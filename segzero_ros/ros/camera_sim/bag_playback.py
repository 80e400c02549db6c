"""A bag as a camera: its image, depth and camera_info messages as they came.

Stamps are moved to now, or left as recorded with a clock that runs as the bag's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.replay.bag import BagMessage, BagReader
from segzero_ros.replay.image_topics import find_image_topics
from segzero_ros.replay.topics import find_topics, NONE, NoTopic, SeveralCameras, Topics
from segzero_ros.ros.camera_sim.sources import CameraError, Shown
from segzero_ros.types import SegZeroError

_TYPES = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
}
# Between two playings; a bag may hold a single picture.
_PAUSE_NS = 100_000_000
# Messages recorded together come one after the other; a player that was stopped does not rush
# through what it missed.
_CATCH_UP_NS = 1_000_000_000
_logger = logging.getLogger(__name__)


class BagPlayback:
    """The camera that a bag recorded.

    Args:
        path: the bag.
        item: the image topic, where the bag holds several; empty for the first camera's.
        loop: whether it starts again when it is through.
        recorded: whether stamps stay as they were recorded.
    """

    def __init__(self, path: Path, item: str, *, loop: bool, recorded: bool = False) -> None:
        self._bag = BagReader(path, salvage=True)
        try:
            self._roles = self._find_roles(item)
        except SegZeroError:
            self._bag.close()
            raise
        self.catch_up_ns = _CATCH_UP_NS
        self._loop = loop
        self._recorded = recorded
        # The moment of the bag at which playing was last, and the true time of it.
        self._played: tuple[int, int] | None = None
        self._due: BagMessage | None = None
        self._rewind()

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()

    def next(self, now: Time) -> tuple[list[Shown], int | None]:
        """Return the message that is due, and after how long the next one is; None at the end.

        Stamps are moved to now by one offset for each playing, so that their distances stay.
        """
        shown = []
        before = self._due
        if before is not None:
            message = _message(before)
            if not self._recorded:
                self._restamp(message, now)
            shown.append((self._roles[before.topic], message))
            self._played = before.stamp_ns, now.nanoseconds
        self._due = next(self._messages, None)
        if self._due is not None:
            return shown, max(0, self._due.stamp_ns - before.stamp_ns) if before else 0
        if not self._loop:
            return shown, None
        self._rewind()
        return shown, _PAUSE_NS

    def clock(self, now: Time) -> Time | None:
        """Return which moment of the bag it is; None before the first message, or with new stamps.

        It never runs ahead of a message that is late, and stands still at the end.
        """
        if not self._recorded or self._played is None:
            return None
        played_ns, then_ns = self._played
        limit_ns = played_ns if self._due is None else max(played_ns, self._due.stamp_ns)
        return Time(nanoseconds=min(played_ns + now.nanoseconds - then_ns, limit_ns))

    def _rewind(self) -> None:
        self._messages = self._bag.messages(set(self._roles))
        self._offset_ns: int | None = None

    def _restamp(self, message: Any, now: Time) -> None:
        old = Time.from_msg(message.header.stamp).nanoseconds
        if self._offset_ns is None:
            self._offset_ns = now.nanoseconds - old
        message.header.stamp = Time(nanoseconds=old + self._offset_ns).to_msg()

    def _find_roles(self, item: str) -> dict[str, str]:
        """Return which topic of the bag is published as `image`, `depth` and `camera_info`."""
        try:
            found = self._find_topics(item)
        except NoTopic as error:
            raise CameraError(str(error)) from error
        for warning in (*filter(None, [self._bag.damage]), *found.warnings):
            _logger.warning('%s', warning)
        compressed = self._bag.topics[found.image] == 'sensor_msgs/msg/CompressedImage'
        roles = {found.image: 'image/compressed' if compressed else 'image'}
        for topic, role in ((found.depth, 'depth'), (found.camera_info, 'camera_info')):
            if topic:
                roles[topic] = role
        return roles

    def _find_topics(self, item: str) -> Topics:
        colours = [topic.topic for topic in find_image_topics(self._bag) if not topic.is_depth]
        if item and item not in colours:
            raise CameraError(
                f'{self._bag.path} holds no colour images on {item!r}; '
                + (f'on {", ".join(colours)} it does.' if colours else 'it holds none at all.')
            )
        try:
            return find_topics(self._bag, item, queries=NONE)
        except SeveralCameras as error:
            return find_topics(self._bag, error.images[0], queries=NONE)


def _message(recorded: BagMessage) -> Any:
    return deserialize_message(recorded.data, _TYPES[recorded.type])
