"""The newest picture of the camera, undecoded, with the depth and intrinsics that belong to it.

Holds serialised messages: storing one costs a reference. Knows nothing of ROS but the twelve bytes
in which every message with a header begins; every method may be called from any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
import struct
import threading
import time
from typing import NamedTuple

# How many messages of each kind are kept. Depth usually comes after the image it belongs to, so a
# few images are kept to have one whose depth is here already; and how much newer an image may be,
# nanoseconds, that is passed over while its depth is on its way.
IMAGES = 6
DEPTH_ON_ITS_WAY_NS = 500_000_000
DEPTHS = 4
INFOS = 8
# Frames over which the camera's rate is averaged, and the silence after which it is 0, in seconds.
RATE_FRAMES = 30
RATE_SILENCE = 2.0


class StoredMessage(NamedTuple):
    """A serialised message that begins with a std_msgs/Header.

    Attributes:
        data: the message as it came, CDR.
        stamp_ns: its header's stamp; None where it is zero or too short to hold one.
        arrived_ns: the node's clock at its arrival.
    """

    data: bytes
    stamp_ns: int | None
    arrived_ns: int

    @property
    def time_ns(self) -> int:
        """When it was taken: its stamp, or its arrival for publishers that do not stamp."""
        return self.arrived_ns if self.stamp_ns is None else self.stamp_ns


class Shot(NamedTuple):
    """An image with what was measured at the same time."""

    image: StoredMessage
    depth: StoredMessage | None
    info: StoredMessage | None


class FrameStore:
    """The last few messages of the camera.

    Args:
        max_offset_ns: how far a depth image's stamp may be from the image's.
    """

    def __init__(self, max_offset_ns: int) -> None:
        self.max_offset_ns = max_offset_ns
        self._images: deque[StoredMessage] = deque(maxlen=IMAGES)
        self._depths: deque[StoredMessage] = deque(maxlen=DEPTHS)
        self._infos: deque[StoredMessage] = deque(maxlen=INFOS)
        self._arrivals: deque[float] = deque(maxlen=RATE_FRAMES)
        self._lock = threading.Lock()
        self._listener: Callable[[Shot], None] | None = None
        # The image that is not handed on yet, because its depth is on its way.
        self._held: StoredMessage | None = None

    def listen(self, listener: Callable[[Shot], None] | None) -> None:
        """Hand on the images that are here and each that comes, in their order.

        An image waits for its depth, until the next image at most, as long as an image before it
        has got one of its own stamp.

        Args:
            listener: called by who puts, with the store locked, so it must not call back; None:
                nobody listens any more.
        """
        with self._lock:
            self._listener, self._held = listener, None
            for image in self._images:
                self._hand_on(image)

    def put_image(self, data: bytes, now_ns: int) -> None:
        """Keep an image; now_ns is the node's clock."""
        with self._lock:
            self._images.append(StoredMessage(data, read_stamp(data), now_ns))
            self._arrivals.append(time.monotonic())
            if self._listener is not None:
                self._hand_on_held()
                self._held = self._images[-1]
                if not self._depth_is_on_its_way():
                    self._hand_on_held()

    def put_depth(self, data: bytes, now_ns: int) -> None:
        """Keep a depth image."""
        with self._lock:
            self._depths.append(StoredMessage(data, read_stamp(data), now_ns))
            if self._held is not None and self._held.stamp_ns == self._depths[-1].stamp_ns:
                self._hand_on_held()

    def put_info(self, data: bytes, now_ns: int) -> None:
        """Keep a camera's intrinsics."""
        with self._lock:
            self._infos.append(StoredMessage(data, read_stamp(data), now_ns))

    def clear(self) -> None:
        """Forget everything, as after a jump of the clock."""
        with self._lock:
            for kept in (self._images, self._depths, self._infos, self._arrivals):
                kept.clear()
            self._held = None

    def newest(self) -> StoredMessage | None:
        """Return the image that came last."""
        with self._lock:
            return self._images[-1] if self._images else None

    def rate(self) -> float:
        """Return how many images come per second; 0.0 when none comes."""
        with self._lock:
            arrivals = list(self._arrivals)
        if len(arrivals) < 2 or time.monotonic() - arrivals[-1] > RATE_SILENCE:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], 1e-9)

    def shot(self) -> Shot | None:
        """Return the newest image with the depth and intrinsics that belong to it.

        An image whose depth of exactly the same stamp is here goes before a newer one (by at most
        DEPTH_ON_ITS_WAY_NS) whose depth is not. Without such a depth, the newest image has the
        depth that is nearest within max_offset_ns. Intrinsics are those of the nearest stamp,
        however far: they belong to the camera, not to the moment.
        """
        with self._lock:
            images, depths, infos = list(self._images), list(self._depths), list(self._infos)
        if not images:
            return None
        image = self._with_exact_depth(images, depths) or images[-1]
        return pair(image, depths, infos, self.max_offset_ns)

    def _depth_is_on_its_way(self) -> bool:
        """Return whether the newest image's own depth is not here, but an earlier one's is."""
        stamps = _stamps(self._depths)
        *earlier, newest = (image.stamp_ns in stamps for image in self._images)
        return not newest and any(earlier)

    def _hand_on_held(self) -> None:
        if self._held is not None:
            self._hand_on(self._held)
            self._held = None

    def _hand_on(self, image: StoredMessage) -> None:
        if self._listener is not None:
            self._listener(pair(image, self._depths, self._infos, self.max_offset_ns))

    def _with_exact_depth(
        self, images: list[StoredMessage], depths: list[StoredMessage]
    ) -> StoredMessage | None:
        newest = images[-1].time_ns
        stamps = _stamps(depths)
        for image in reversed(images):
            if image.stamp_ns in stamps and 0 <= newest - image.time_ns <= DEPTH_ON_ITS_WAY_NS:
                return image
        return None


def _stamps(messages: Iterable[StoredMessage]) -> set[int]:
    return {message.stamp_ns for message in messages if message.stamp_ns is not None}


def read_stamp(data: bytes) -> int | None:
    """Return the stamp of a serialised message's header, nanoseconds; None where there is none.

    A serialised message begins with four bytes, of which the second one's lowest bit says that
    numbers are little-endian; the header's stamp, int32 seconds and uint32 nanoseconds, follows.
    """
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds) or None


def pair(
    image: StoredMessage,
    depths: Sequence[StoredMessage],
    infos: Sequence[StoredMessage],
    max_offset_ns: int,
) -> Shot:
    """Return the image with the nearest depth within max_offset_ns and the nearest intrinsics."""
    depth = nearest(image, depths)
    if depth is not None and abs(depth.time_ns - image.time_ns) > max_offset_ns:
        depth = None
    return Shot(image, depth, nearest(image, infos))


def nearest(to: StoredMessage, messages: Sequence[StoredMessage]) -> StoredMessage | None:
    """Return the message whose time is nearest, of equally near ones the newest."""
    return min(
        reversed(messages), key=lambda message: abs(message.time_ns - to.time_ns), default=None
    )
