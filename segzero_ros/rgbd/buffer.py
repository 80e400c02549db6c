"""The newest image of the camera, undecoded, with the depth and intrinsics that belong to it.

Holds serialised messages: storing one costs a reference. Every method may be called from any
thread.

An image's *own* depth is the depth image that is nearest to it and to which it is the nearest
image, if their stamps are about as near as those of other such pairs: two streams that are
triggered together have a constant offset, zero mostly, and of a faster stream only some frames
have a partner. Of streams that run freely the offset drifts; see `RgbdBuffer._find_pair`. It is
known as soon as nothing nearer can come, judged by the streams' periods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import threading
import time
from typing import NamedTuple

from segzero_ros.rgbd.message_buffer import MessageBuffer, nearest, read_stamp, StoredMessage

# How much newer an image may be, nanoseconds, that is passed over while its depth is on its way;
# how long an image waits for its depth before it is handed on without.
DEPTH_WAIT_NS = 500_000_000
# Depth that is kept for images which come later than it, nanoseconds before the newest depth.
IMAGE_WAIT_NS = 600_000_000
# Depth has stopped when none arrived for so long, or for so many of its periods, nanoseconds.
STOPPED_NS, STOPPED_PERIODS = 1_000_000_000, 3
# Most memory that the images take, and that the depth images take, in bytes; and how many images
# are kept, spread over DEPTH_ON_ITS_WAY_NS, while no depth comes: for the moment when some does.
MOST_BYTES = 256 * 2**20
IMAGES_WITHOUT_DEPTH = 6
INFOS = 8
# Pairs whose stamps tell how far apart those of a frame usually are, and how much further apart
# they may be, as a share of the shorter period.
PAIRS = 30
JITTER = 1 / 6
# So many pairs in a row that are further apart are no lost frames: the streams run freely.
DRIFTED_PAIRS = 4
# Frames over which the camera's rate is averaged, and the silence after which it is 0, in seconds.
RATE_FRAMES = 30
RATE_SILENCE = 2.0


class RgbdMessages(NamedTuple):
    """An image with what was measured at the same time.

    Attributes:
        image: the colour image.
        depth: its depth; None where there is none near enough.
        info: the intrinsics; None where none came.
        depth_gap_ns: where depth came, but none near enough: the time of the nearest one minus
            the image's, nanoseconds; else None.
    """

    image: StoredMessage
    depth: StoredMessage | None
    info: StoredMessage | None
    depth_gap_ns: int | None = None


class RgbdBuffer:
    """The last messages of the camera: as long as they may be paired, in bounded memory.

    Args:
        max_offset_ns: how far a depth image's stamp may be from the image's.
    """

    def __init__(self, max_offset_ns: int) -> None:
        self.max_offset_ns = max_offset_ns
        self._images = MessageBuffer()
        self._depths = MessageBuffer()
        self._infos: deque[StoredMessage] = deque(maxlen=INFOS)
        self._arrivals: deque[float] = deque(maxlen=RATE_FRAMES)
        self._lock = threading.Lock()
        self._listener: Callable[[RgbdMessages], None] | None = None
        # The images that are not handed on yet, because their depth is on its way.
        self._waiting: deque[StoredMessage] = deque()
        # The newest image with its own depth, and how far apart the last pairs' stamps were, by
        # the image's time.
        self._paired: tuple[StoredMessage, StoredMessage] | None = None
        self._offsets: dict[int, int] = {}

    def listen(self, listener: Callable[[RgbdMessages], None] | None) -> None:
        """Hand on the images that are here and each that comes, in their order.

        An image waits for its depth, DEPTH_ON_ITS_WAY_NS at most and only while depth comes.

        Args:
            listener: called by who puts, with the store locked, so it must not call back; None:
                nobody listens any more.
        """
        with self._lock:
            self._listener = listener
            self._waiting.clear()
            if listener is not None:
                self._waiting.extend(self._images)
                self._hand_on_decided()

    def put_image(self, data: bytes, now_ns: int) -> None:
        """Keep an image; now_ns is the node's clock."""
        with self._lock:
            message = StoredMessage(data, read_stamp(data), now_ns)
            if self._images.starts_again(message):
                self._hand_on(len(self._waiting))
                self._images.clear()
                self._forget_pairs()
            self._images.add(message)
            self._arrivals.append(time.monotonic())
            if self._listener is not None:
                self._waiting.append(message)
            self._settle()

    def put_depth(self, data: bytes, now_ns: int) -> None:
        """Keep a depth image."""
        with self._lock:
            message = StoredMessage(data, read_stamp(data), now_ns)
            if self._depths.starts_again(message):
                self._depths.clear()
                self._forget_pairs()
            self._depths.add(message)
            self._settle()

    def put_info(self, data: bytes, now_ns: int) -> None:
        """Keep a camera's intrinsics."""
        with self._lock:
            self._infos.append(StoredMessage(data, read_stamp(data), now_ns))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._infos.clear()
            self._clear_frames()

    def restart(self) -> None:
        """Forget all images, as after a jump of the clock, but not the newest intrinsics.

        Intrinsics belong to the camera, not to the moment, and many publishers send them once.
        """
        with self._lock:
            while len(self._infos) > 1:
                self._infos.popleft()
            self._clear_frames()

    def newest(self) -> StoredMessage | None:
        """Return the image that was taken last."""
        with self._lock:
            return self._images.newest

    def newest_depth(self) -> StoredMessage | None:
        """Return the depth image that was taken last."""
        with self._lock:
            return self._depths.newest

    def rate(self) -> float:
        """Return how many images come per second; 0.0 when none comes."""
        with self._lock:
            arrivals = list(self._arrivals)
        if len(arrivals) < 2 or time.monotonic() - arrivals[-1] > RATE_SILENCE:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], 1e-9)

    def latest(self) -> RgbdMessages | None:
        """Return the newest image with the depth and intrinsics that belong to it.

        The newest image whose own depth is here goes before newer ones, by at most
        DEPTH_ON_ITS_WAY_NS. Where there is none, the newest image has the depth that is nearest
        within max_offset_ns. Intrinsics are those of the nearest stamp, however far: they belong
        to the camera, not to the moment.
        """
        with self._lock:
            paired = self._own_pair()
            if paired is not None:
                return paired
            newest = self._images.newest
            return None if newest is None else self._pair(newest)

    def latest_paired(self) -> RgbdMessages | None:
        """Return what `latest` returns if its image has its own depth, else None."""
        with self._lock:
            return self._own_pair()

    def _own_pair(self) -> RgbdMessages | None:
        if self._paired is None or self._is_paired_too_long_ago():
            return None
        image, depth = self._paired
        if abs(depth.time_ns - image.time_ns) > self.max_offset_ns:
            return None
        return RgbdMessages(image, depth, nearest(image.time_ns, self._infos))

    def _pair(self, image: StoredMessage) -> RgbdMessages:
        return pair(image, self._depths.messages, self._infos, self.max_offset_ns)

    def _settle(self) -> None:
        """Find out which image has its own depth now, and keep only what may still be needed."""
        self._find_pair()
        self._hand_on_decided()
        self._drop_images()
        self._drop_depths()

    def _find_pair(self) -> None:
        """Find the newest image with its own depth."""
        paired_ns = self._paired[0].time_ns if self._paired is not None else None
        further: list[tuple[StoredMessage, StoredMessage]] = []
        for image in reversed(self._images.messages):
            time_ns = image.time_ns
            if paired_ns is not None and time_ns < paired_ns:
                break
            if paired_ns == time_ns and not self._offsets.get(time_ns):
                # Nothing can be nearer.
                break
            depth = self._partner(image)
            if depth is None:
                continue
            self._offsets[time_ns] = offset = abs(depth.time_ns - time_ns)
            if len(self._offsets) > PAIRS:
                del self._offsets[next(iter(self._offsets))]
            if not offset or offset <= min(self._offsets.values()) + self._jitter():
                self._paired = image, depth
                break
            further.append((image, depth))
        # A pair further apart than others is mostly one of triggered streams whose right partner
        # was lost, and a right pair comes soon. Where none does, the streams run freely and their
        # offset has drifted away: it is measured anew.
        if further and (len(further) >= DRIFTED_PAIRS or self._is_paired_too_long_ago()):
            self._paired = image, depth = further[0]
            self._offsets = {image.time_ns: abs(depth.time_ns - image.time_ns)}

    def _is_paired_too_long_ago(self) -> bool:
        newest = self._images.newest
        if self._paired is None or newest is None:
            return True
        return newest.time_ns - self._paired[0].time_ns > DEPTH_WAIT_NS

    def _partner(self, image: StoredMessage) -> StoredMessage | None:
        """Return the depth that is nearest to an image and has no nearer one; None if unsure."""
        if not self._depths.has_passed(image.time_ns):
            return None
        depth = self._depths.nearest(image.time_ns)
        if depth is None or abs(depth.time_ns - image.time_ns) > self.max_offset_ns:
            return None
        if not self._images.has_passed(depth.time_ns):
            return None
        return depth if self._images.nearest_time(depth.time_ns) == image.time_ns else None

    def _jitter(self) -> float:
        periods = [p for p in (self._images.period_ns, self._depths.period_ns) if p > 0]
        return JITTER * min(periods, default=0)

    def _hand_on_decided(self) -> None:
        """Hand on, in their order, the images to which no nearer depth can come in time."""
        if not self._waiting:
            return
        count = 0
        coming = self._depth_is_coming()
        newest = self._images.newest
        for image in self._waiting:
            if (
                coming
                and newest is not None
                and newest.time_ns - image.time_ns <= DEPTH_WAIT_NS
                and not self._depths.has_passed(image.time_ns)
            ):
                break
            count += 1
        self._hand_on(count)

    def _hand_on(self, count: int) -> None:
        for _ in range(count):
            rgbd = self._pair(self._waiting.popleft())
            if self._listener is not None:
                self._listener(rgbd)

    def _depth_is_coming(self) -> bool:
        """Return whether depth has arrived lately, by the node's clock."""
        image, depth = self._images.newest, self._depths.newest
        if image is None or depth is None:
            return False
        patience = max(STOPPED_NS, STOPPED_PERIODS * self._depths.period_ns)
        return image.arrived_ns - depth.arrived_ns <= patience

    def _drop_images(self) -> None:
        """Keep from the newest image with its own depth on: nothing asks about older ones."""
        newest = self._images.newest
        if newest is None or len(self._images) < 2:
            return
        oldest_ns = newest.time_ns - DEPTH_WAIT_NS
        if self._paired is not None:
            oldest_ns = max(oldest_ns, self._paired[0].time_ns)
        self._images.keep_from(oldest_ns)
        limits = [] if self._depth_is_coming() else [IMAGES_WITHOUT_DEPTH]
        dropped = {id(image) for image in self._images.thin(MOST_BYTES, *limits)}
        if dropped and self._waiting:
            kept = [image for image in self._waiting if id(image) not in dropped]
            self._waiting = deque(kept)

    def _drop_depths(self) -> None:
        """Keep the depth of the images that are here, and of those that may still come."""
        newest, image = self._depths.newest, self._images.newest
        if newest is None or len(self._depths) < 2:
            return
        oldest_ns = newest.time_ns - IMAGE_WAIT_NS
        # Images come in their order, so depth from before the newest one is too old for others.
        if image is not None:
            oldest_ns = max(oldest_ns, image.time_ns)
        if self._depths.messages[0].time_ns >= oldest_ns:
            return
        needed = {id(nearest(one.time_ns, self._depths.messages)) for one in self._images}
        self._depths.keep(
            [
                depth
                for depth in self._depths
                if depth.time_ns >= oldest_ns or depth is newest or id(depth) in needed
            ]
        )
        self._depths.thin(MOST_BYTES)

    def _forget_pairs(self) -> None:
        self._paired = None
        self._offsets.clear()

    def _clear_frames(self) -> None:
        self._images.clear()
        self._depths.clear()
        self._arrivals.clear()
        self._waiting.clear()
        self._forget_pairs()


def pair(
    image: StoredMessage,
    depths: Sequence[StoredMessage],
    infos: Sequence[StoredMessage],
    max_offset_ns: int,
) -> RgbdMessages:
    """Return the image with the nearest depth within max_offset_ns and the nearest intrinsics."""
    info = nearest(image.time_ns, infos)
    depth = nearest(image.time_ns, depths)
    if depth is None:
        return RgbdMessages(image, None, info)
    gap_ns = depth.time_ns - image.time_ns
    if abs(gap_ns) > max_offset_ns:
        return RgbdMessages(image, None, info, gap_ns)
    return RgbdMessages(image, depth, info)
