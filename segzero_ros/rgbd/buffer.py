"""Buffer of the camera's last serialised messages; pairs an image with its depth and intrinsics.

An image and a depth image are a *matched* pair if each is the other's nearest, and their stamps
are about as near as those of other such pairs. Two streams with a common trigger have a constant
offset, mostly zero, and only some frames of the faster one have a match. The offset of
free-running streams drifts; see `RgbdBuffer._find_pair`. A match is final as soon as no nearer
message can arrive, judged by the streams' periods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import threading
import time
from typing import NamedTuple

from segzero_ros.rgbd.message_buffer import MessageBuffer, nearest, read_stamp, StoredMessage

# How long an image waits for its depth before it is delivered without; a matched image is
# preferred to one that is up to this much newer. Nanoseconds.
DEPTH_WAIT_NS = 500_000_000
# Depth this much older than the newest is kept for images that arrive later. Nanoseconds.
IMAGE_WAIT_NS = 600_000_000
# Depth has stopped if none arrived for the longer of this time and this many periods. Nanoseconds.
STOPPED_NS, STOPPED_PERIODS = 1_000_000_000, 3
# Memory limit of the images, and of the depth images, in bytes. Number of images, spread over
# DEPTH_WAIT_NS, that are kept while no depth arrives.
MAX_BYTES = 256 * 2**20
IMAGES_WITHOUT_DEPTH = 6
INFOS = 8
# A stamp that went through a float, such as a number of seconds in JSON, is off by this much.
STAMP_TOLERANCE_NS = 1_000
# Number of pairs whose offsets give the usual one, and tolerance as a share of the shorter period.
PAIRS = 30
JITTER = 1 / 6
# This many consecutive pairs with a larger offset are not caused by lost frames, but by drift.
DRIFTED_PAIRS = 4
# Frames over which the camera's rate is averaged, and seconds without a frame until it is 0.
RATE_FRAMES = 30
RATE_TIMEOUT = 2.0


class RgbdMessages(NamedTuple):
    """An image with the depth and camera_info that belong to it.

    Attributes:
        image: the colour image.
        depth: its depth; None if there is none within the maximum offset.
        info: the camera_info; None if none has arrived.
        depth_gap_ns: if depth arrived, but none within the maximum offset: the time of the nearest
            one minus the image's, nanoseconds; otherwise None.
    """

    image: StoredMessage
    depth: StoredMessage | None
    info: StoredMessage | None
    depth_gap_ns: int | None = None


class RgbdBuffer:
    """The camera's last messages, in bounded memory; thread-safe.

    It holds serialised messages by reference.

    Args:
        max_offset_ns: maximum difference between the stamps of an image and its depth.
    """

    def __init__(self, max_offset_ns: int) -> None:
        self.max_offset_ns = max_offset_ns
        self._images = MessageBuffer()
        self._depths = MessageBuffer()
        self._infos: deque[StoredMessage] = deque(maxlen=INFOS)
        self._arrivals: deque[float] = deque(maxlen=RATE_FRAMES)
        self._lock = threading.Condition(threading.Lock())
        self._listener: Callable[[RgbdMessages], None] | None = None
        # Images that are not delivered yet, because their depth may still arrive.
        self._waiting: deque[StoredMessage] = deque()
        # The newest matched pair, and the last pairs' offsets by the image's time.
        self._paired: tuple[StoredMessage, StoredMessage] | None = None
        self._offsets: dict[int, int] = {}

    def listen(self, listener: Callable[[RgbdMessages], None] | None) -> None:
        """Deliver the buffered images and all later ones, in order.

        An image waits for its depth for at most DEPTH_WAIT_NS, and only while depth arrives.

        Args:
            listener: called in the thread that puts a message, with the buffer locked, so it must
                not call back; None to stop.
        """
        with self._lock:
            self._listener = listener
            self._waiting.clear()
            if listener is not None:
                self._waiting.extend(self._images)
                self._deliver_decided()

    def put_image(self, data: bytes, now_ns: int) -> None:
        """Store an image.

        Args:
            data: the serialised message.
            now_ns: time of arrival by the node's clock, nanoseconds.
        """
        with self._lock:
            message = StoredMessage(data, read_stamp(data), now_ns)
            if self._images.is_restart(message):
                self._deliver(len(self._waiting))
                self._images.clear()
                self._clear_pairs()
            self._images.add(message)
            self._arrivals.append(time.monotonic())
            if self._listener is not None:
                self._waiting.append(message)
            self._update()

    def put_depth(self, data: bytes, now_ns: int) -> None:
        """Store a depth image; arguments as in `put_image`."""
        with self._lock:
            message = StoredMessage(data, read_stamp(data), now_ns)
            if self._depths.is_restart(message):
                self._depths.clear()
                self._clear_pairs()
            self._depths.add(message)
            self._update()

    def put_info(self, data: bytes, now_ns: int) -> None:
        """Store a camera_info; arguments as in `put_image`."""
        with self._lock:
            self._infos.append(StoredMessage(data, read_stamp(data), now_ns))

    def clear(self) -> None:
        """Discard all messages."""
        with self._lock:
            self._infos.clear()
            self._clear_frames()

    def restart(self) -> None:
        """Discard all images and depth, as after a clock jump, but keep the newest camera_info.

        Intrinsics do not depend on time, and many publishers send them only once.
        """
        with self._lock:
            while len(self._infos) > 1:
                self._infos.popleft()
            self._clear_frames()

    def newest(self) -> StoredMessage | None:
        """Return the image with the latest time."""
        with self._lock:
            return self._images.newest

    def newest_depth(self) -> StoredMessage | None:
        """Return the depth image with the latest time."""
        with self._lock:
            return self._depths.newest

    def rate(self) -> float:
        """Return the image rate in Hz; 0.0 if no images arrive."""
        with self._lock:
            arrivals = list(self._arrivals)
        if len(arrivals) < 2 or time.monotonic() - arrivals[-1] > RATE_TIMEOUT:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], 1e-9)

    def latest(self, wait_s: float = 0.0) -> RgbdMessages | None:
        """Return the newest image with the depth and camera_info that belong to it.

        The newest matched image is preferred to newer ones, by at most DEPTH_WAIT_NS. Without a
        match, the newest image gets the nearest depth within max_offset_ns. The camera_info is the
        one with the nearest stamp, without a limit: intrinsics do not depend on time.

        Args:
            wait_s: wait at most this long, in seconds, for a match that is late: depth arrives and
                has matched before, but not since DEPTH_WAIT_NS. A slow camera's depth comes after
                its image, and a busy machine takes the one before the other.
        """
        with self._lock:
            if wait_s:
                self._lock.wait_for(lambda: not self._is_match_late(), wait_s)
            paired = self._matched_pair()
            if paired is not None:
                return paired
            newest = self._images.newest
            return None if newest is None else self._pair(newest)

    def at(self, time_ns: int) -> RgbdMessages | None:
        """Return the buffered image with a stamp, and what belongs to it; None if there is none.

        Args:
            time_ns: its stamp, or within STAMP_TOLERANCE_NS of it.
        """
        with self._lock:
            image = nearest(time_ns, self._images.messages)
            if image is None or abs(image.time_ns - time_ns) > STAMP_TOLERANCE_NS:
                return None
            return self._pair(image)

    def latest_paired(self) -> RgbdMessages | None:
        """Return what `latest` returns if its image has matched depth, otherwise None."""
        with self._lock:
            return self._matched_pair()

    def _is_match_late(self) -> bool:
        offset_ns = min(self._offsets.values(), default=None)
        return (
            offset_ns is not None
            and offset_ns <= self.max_offset_ns
            and self._is_depth_arriving()
            and self._is_pair_outdated()
        )

    def _matched_pair(self) -> RgbdMessages | None:
        if self._paired is None or self._is_pair_outdated():
            return None
        image, depth = self._paired
        if abs(depth.time_ns - image.time_ns) > self.max_offset_ns:
            return None
        return RgbdMessages(image, depth, nearest(image.time_ns, self._infos))

    def _pair(self, image: StoredMessage) -> RgbdMessages:
        return pair(image, self._depths.messages, self._infos, self.max_offset_ns)

    def _update(self) -> None:
        """Find the newest matched pair, deliver images, and drop messages no longer needed."""
        self._find_pair()
        self._lock.notify_all()
        self._deliver_decided()
        self._drop_images()
        self._drop_depths()

    def _find_pair(self) -> None:
        """Find the newest matched pair."""
        paired_ns = self._paired[0].time_ns if self._paired is not None else None
        distant: list[tuple[StoredMessage, StoredMessage]] = []
        for image in reversed(self._images.messages):
            time_ns = image.time_ns
            if paired_ns is not None and time_ns < paired_ns:
                break
            if paired_ns == time_ns and not self._offsets.get(time_ns):
                # Its offset is zero, so no depth can be nearer.
                break
            depth = self._mutual_nearest(image)
            if depth is None:
                continue
            self._offsets[time_ns] = offset = abs(depth.time_ns - time_ns)
            if len(self._offsets) > PAIRS:
                del self._offsets[next(iter(self._offsets))]
            if not offset or offset <= min(self._offsets.values()) + self._jitter():
                self._paired = image, depth
                break
            distant.append((image, depth))
        # A pair with a larger offset than others usually results from a lost frame of streams with
        # a common trigger, and a correct pair follows soon. If none does, the streams are
        # free-running and their offset has drifted: it is measured again.
        if distant and (len(distant) >= DRIFTED_PAIRS or self._is_pair_outdated()):
            self._paired = image, depth = distant[0]
            self._offsets = {image.time_ns: abs(depth.time_ns - image.time_ns)}

    def _is_pair_outdated(self) -> bool:
        newest = self._images.newest
        if self._paired is None or newest is None:
            return True
        return newest.time_ns - self._paired[0].time_ns > DEPTH_WAIT_NS

    def _mutual_nearest(self, image: StoredMessage) -> StoredMessage | None:
        """Return the image's nearest depth if the image is also its nearest; None if undecided."""
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

    def _deliver_decided(self) -> None:
        """Deliver, in order, the images for which no nearer depth can arrive in time."""
        if not self._waiting:
            return
        count = 0
        depth_arrives = self._is_depth_arriving()
        newest = self._images.newest
        for image in self._waiting:
            if (
                depth_arrives
                and newest is not None
                and newest.time_ns - image.time_ns <= DEPTH_WAIT_NS
                and not self._depths.has_passed(image.time_ns)
            ):
                break
            count += 1
        self._deliver(count)

    def _deliver(self, count: int) -> None:
        for _ in range(count):
            rgbd = self._pair(self._waiting.popleft())
            if self._listener is not None:
                self._listener(rgbd)

    def _is_depth_arriving(self) -> bool:
        """Return whether depth has arrived recently, by the node's clock."""
        image, depth = self._images.newest, self._depths.newest
        if image is None or depth is None:
            return False
        timeout = max(STOPPED_NS, STOPPED_PERIODS * self._depths.period_ns)
        return image.arrived_ns - depth.arrived_ns <= timeout

    def _drop_images(self) -> None:
        """Drop images older than the newest matched one: they cannot be used any more."""
        newest = self._images.newest
        if newest is None or len(self._images) < 2:
            return
        oldest_ns = newest.time_ns - DEPTH_WAIT_NS
        if self._paired is not None:
            oldest_ns = max(oldest_ns, self._paired[0].time_ns)
        self._images.keep_from(oldest_ns)
        limits = [] if self._is_depth_arriving() else [IMAGES_WITHOUT_DEPTH]
        dropped = {id(image) for image in self._images.thin(MAX_BYTES, *limits)}
        if dropped and self._waiting:
            self._waiting = deque(image for image in self._waiting if id(image) not in dropped)

    def _drop_depths(self) -> None:
        """Drop depth that neither a buffered nor a later image needs."""
        newest, image = self._depths.newest, self._images.newest
        if newest is None or len(self._depths) < 2:
            return
        oldest_ns = newest.time_ns - IMAGE_WAIT_NS
        # Images arrive in order, so a later one does not need depth from before the newest one.
        if image is not None:
            oldest_ns = max(oldest_ns, image.time_ns)
        if self._depths.messages[0].time_ns >= oldest_ns:
            return
        needed = {id(nearest(image.time_ns, self._depths.messages)) for image in self._images}
        self._depths.keep(
            [
                depth
                for depth in self._depths
                if depth.time_ns >= oldest_ns or depth is newest or id(depth) in needed
            ]
        )
        self._depths.thin(MAX_BYTES)

    def _clear_pairs(self) -> None:
        self._paired = None
        self._offsets.clear()
        self._lock.notify_all()

    def _clear_frames(self) -> None:
        self._images.clear()
        self._depths.clear()
        self._arrivals.clear()
        self._waiting.clear()
        self._clear_pairs()


def pair(
    image: StoredMessage,
    depths: Sequence[StoredMessage],
    infos: Sequence[StoredMessage],
    max_offset_ns: int,
) -> RgbdMessages:
    """Return an image with its nearest depth and camera_info.

    Args:
        image: the image.
        depths: depth images to choose from.
        infos: camera_info messages to choose from.
        max_offset_ns: maximum difference between the stamps of image and depth, nanoseconds.
    """
    info = nearest(image.time_ns, infos)
    depth = nearest(image.time_ns, depths)
    if depth is None:
        return RgbdMessages(image, None, info)
    gap_ns = depth.time_ns - image.time_ns
    if abs(gap_ns) > max_offset_ns:
        return RgbdMessages(image, None, info, gap_ns)
    return RgbdMessages(image, depth, info)
