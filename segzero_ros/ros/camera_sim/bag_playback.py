"""Playback of a bag's image, depth and camera_info messages.

Stamps are shifted to the present, or kept as recorded together with a /clock.
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
from segzero_ros.ros.camera_sim.sources import CameraError, TopicMessage
from segzero_ros.types import SegZeroError

_TYPES = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
}
# Pause before the next loop; a bag may contain a single image.
_PAUSE_NS = 100_000_000
# Messages recorded at the same time are published one after the other, so all but the first are
# late. After a longer delay, as of a suspended process, playback continues at the recorded rate.
_MAX_DELAY_NS = 1_000_000_000
_logger = logging.getLogger(__name__)


class BagPlayback:
    """Plays the camera topics of a bag.

    Args:
        path: the bag.
        item: the image topic, if the bag contains several; empty for the first camera's.
        loop: whether to start again at the end.
        recorded: whether to keep the recorded stamps.

    Raises:
        SegZeroError: the bag cannot be read, or has no such image topic.
    """

    def __init__(self, path: Path, item: str, *, loop: bool, recorded: bool = False) -> None:
        self._bag = BagReader(path, salvage=True)
        try:
            self._roles = self._find_roles(item)
        except SegZeroError:
            self._bag.close()
            raise
        self.max_delay_ns = _MAX_DELAY_NS
        self._loop = loop
        self._recorded = recorded
        # Recorded time of the last published message, and the time of publication.
        self._played: tuple[int, int] | None = None
        self._due: BagMessage | None = None
        self._rewind()

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()

    def next(self, now: Time) -> tuple[list[TopicMessage], int | None]:
        """Return the message due now, and the ns until the next one; None at the end.

        Stamps are shifted by one offset in each loop, so that the intervals are preserved.
        """
        messages: list[TopicMessage] = []
        current = self._due
        if current is not None:
            message = _deserialize(current)
            if not self._recorded:
                self._restamp(message, now)
            messages.append((self._roles[current.topic], message))
            self._played = current.stamp_ns, now.nanoseconds
        self._due = next(self._messages, None)
        if self._due is not None:
            return messages, max(0, self._due.stamp_ns - current.stamp_ns) if current else 0
        if not self._loop:
            return messages, None
        self._rewind()
        return messages, _PAUSE_NS

    def clock(self, now: Time) -> Time | None:
        """Return the recorded time; None before the first message, or if stamps are shifted.

        It never exceeds the stamp of the next message, and stops at the end.
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
        """Return for each topic of the bag to play the topic it is published on."""
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
                f'{self._bag.path} has no colour images on {item!r}; '
                + (f'it has some on {", ".join(colours)}.' if colours else 'it has none at all.')
            )
        try:
            return find_topics(self._bag, item, queries=NONE)
        except SeveralCameras as error:
            return find_topics(self._bag, error.images[0], queries=NONE)


def _deserialize(recorded: BagMessage) -> Any:
    return deserialize_message(recorded.data, _TYPES[recorded.type])
