"""What the simulated camera publishes: images, scenes in motion, or a bag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rclpy.time import Time
from std_msgs.msg import Header

from segzero_ros.replay.bags_extra import require_bags
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    compressed_message,
    depth_message,
    image_message,
)
from segzero_ros.ros.camera_sim.sources import open_source, Scenes, TopicMessage
from segzero_ros.types import Frame, S_TO_NS


@dataclass(frozen=True)
class Settings:
    """Values of the parameters of `camera_sim`; see SPECS."""

    source: str
    item: str
    path: str
    item_period: float
    rate: float
    motion: float
    loop: bool
    stamps: str
    encoding: str
    compression: str
    depth_encoding: str
    frame_id: str
    parent_frame: str
    reliability: str


class Playback(Protocol):
    """A sequence of messages to publish.

    Attributes:
        max_delay_ns: delay that is made up for by publishing without a pause; after a longer one
            the schedule continues from the present.
    """

    max_delay_ns: int

    def next(self, now: Time) -> tuple[list[TopicMessage], int | None]:
        """Return the messages due now, and the ns until the next ones; None at the end."""
        ...

    def clock(self, now: Time) -> Time | None:
        """Return the recorded time for /clock; None if the stamps are of the system's clock."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class ImagePlayback:
    """Still images, each for `item_period` seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.max_delay_ns = round(S_TO_NS / settings.rate)
        self._source = open_source(settings.source, settings.path)
        self._item = settings.item or self._source.items()[0]
        self._since: Time | None = None
        self._messages = self._item_messages()

    def clock(self, now: Time) -> None:
        """Return None: the stamps are of the system's clock."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def next(self, now: Time) -> tuple[list[TopicMessage], int | None]:
        """Return the image's messages with this stamp, and the period of the rate."""
        self._since = self._since or now
        period = self._settings.item_period
        if period and (now - self._since).nanoseconds >= period * S_TO_NS:
            self._next_item()
            self._since = now
        return stamped(self._messages, now), round(S_TO_NS / self._settings.rate)

    def _next_item(self) -> None:
        items = self._source.items()
        index = items.index(self._item) + 1 if self._item in items else 0
        self._item = items[index % len(items)]
        self._messages = self._item_messages()

    def _item_messages(self) -> list[TopicMessage]:
        """Return the messages of the present item; only their stamps change afterwards."""
        return frame_messages(self._source.frame(self._item), self._settings)


class ScenePlayback:
    """A generated scene in motion, played forwards and backwards in turn."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.max_delay_ns = round(S_TO_NS / settings.rate)
        scenes = Scenes()
        item = settings.item or scenes.items()[0]
        self._count = max(2, round(settings.motion * settings.rate))
        self._frames = scenes.motion_frames(item, self._count, settings.rate)
        self._rendered: list[list[TopicMessage]] = []
        self._ticks = 0

    def clock(self, now: Time) -> None:
        """Return None: the stamps are of the system's clock."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def next(self, now: Time) -> tuple[list[TopicMessage], int | None]:
        """Return the messages of the next frame, which is rendered when it is first needed."""
        last = self._count - 1
        index = last - abs(last - self._ticks % (2 * last))
        self._ticks += 1
        if index == len(self._rendered):
            self._rendered.append(frame_messages(next(self._frames), self._settings))
        return stamped(self._rendered[index], now), round(S_TO_NS / self._settings.rate)


def frame_messages(frame: Frame, settings: Settings) -> list[TopicMessage]:
    """Return a frame as the messages of a camera driver, without stamps.

    Args:
        frame: the frame.
        settings: encodings, compression and frame id.
    """
    header = Header(frame_id=settings.frame_id)
    messages: list[TopicMessage] = []
    if frame.intrinsics is not None:
        messages.append(('camera_info', camera_info_message(frame.intrinsics, header)))
    if frame.depth is not None and settings.depth_encoding != 'none':
        messages.append(('depth', depth_message(frame.depth, settings.depth_encoding, header)))
    if settings.compression:
        message = compressed_message(frame.image, settings.compression, header)
        messages.append(('image/compressed', message))
    # The image last: when it arrives, its depth and intrinsics are there.
    messages.append(('image', image_message(frame.image, settings.encoding, header)))
    return messages


def stamped(messages: list[TopicMessage], now: Time) -> list[TopicMessage]:
    """Stamp all messages with the same time and return them."""
    stamp = now.to_msg()
    for _, message in messages:
        message.header.stamp = stamp
    return messages


def open_playback(settings: Settings) -> Playback:
    """Return the playback for the settings; raise SegZeroError if its source is not available."""
    if settings.source == 'bag':
        recorded = settings.stamps == 'recorded'
        path = Path(settings.path).expanduser()
        with require_bags():
            from segzero_ros.ros.camera_sim.bag_playback import BagPlayback
        return BagPlayback(path, settings.item, loop=settings.loop, recorded=recorded)
    if settings.source == 'scene' and settings.motion:
        return ScenePlayback(settings)
    return ImagePlayback(settings)
