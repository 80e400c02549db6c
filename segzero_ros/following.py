"""Following an answer's objects: from its frame, through those kept since, to the live camera.

An answer is about a frame that is seconds old. The tracker starts there and plays the frames kept
since faster than they were taken, until it has caught up; from then on it takes the newest frame
and leaves out what it has no time for. Imports `types`, the trackers' protocol and `spatial`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
import threading
import time
from typing import Generic, TypeVar

from segzero_ros import spatial
from segzero_ros.segmentation.tracking import Tracker
from segzero_ros.types import Answer, Frame, Track

Item = TypeVar('Item')

# Most frames that are kept while a query is answered.
CAPACITY = 64
# How long a cancel can go unnoticed while no frame comes, in seconds.
CANCEL_POLL = 0.02


class End(Enum):
    """Why following ended."""

    CANCELLED = 0
    ALL_LOST = 1


@dataclass(frozen=True, eq=False)
class Followed:
    """Where the objects are in one more frame.

    Attributes:
        frame: the frame.
        tracks: every object of the answer that had a mask, lost ones too, in the answer's order.
        lag: seconds from this frame to the newest one that the camera has taken.
    """

    frame: Frame
    tracks: tuple[Track, ...]
    lag: float

    @property
    def message(self) -> str:
        """Which objects are lost, for a person; empty when none is."""
        gone = [track.segment for track in self.tracks if track.lost]
        names = [
            f'{segment.id} ({segment.label})' if segment.label else str(segment.id)
            for segment in gone
        ]
        return f'Lost: {", ".join(names)}.' if names else ''


@dataclass(frozen=True)
class _Kept(Generic[Item]):
    number: int
    time_ns: int
    item: Item


class Backlog(Generic[Item]):
    """The frames since a moment, undecoded, in bounded memory; used from any thread.

    When it is full, every second frame goes, and of those that come later too: what is left is
    spread evenly over the whole time. The newest frame is always there.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f'capacity must be at least 2, but is {capacity}')
        self._capacity = capacity
        self._kept: deque[_Kept[Item]] = deque()
        self._keeping = False
        self._count = 0
        self._stride = 1
        self._newest = 0
        self._changed = threading.Condition()

    def open(self) -> None:
        """Forget everything, and keep what comes from now on."""
        with self._changed:
            self._kept.clear()
            self._keeping, self._count, self._stride, self._newest = True, 0, 1, 0

    def close(self) -> None:
        """Forget everything, and keep nothing any more."""
        with self._changed:
            self._kept.clear()
            self._keeping = False

    def put(self, time_ns: int, item: Item) -> None:
        """Keep a frame that was taken at a time; it costs a reference."""
        with self._changed:
            if not self._keeping:
                return
            if self._kept and self._kept[-1].number % self._stride:
                self._kept.pop()  # it was kept as the newest only
            self._kept.append(_Kept(self._count, time_ns, item))
            self._count += 1
            self._newest = time_ns
            if len(self._kept) > self._capacity:
                self._thin()
            self._changed.notify_all()

    def _thin(self) -> None:
        self._stride *= 2
        newest = self._kept.pop()
        self._kept = deque(kept for kept in self._kept if kept.number % self._stride == 0)
        self._kept.append(newest)

    def lag(self, time_ns: int) -> float:
        """Return how many seconds after a time the newest frame was taken; at least 0.0."""
        with self._changed:
            return max(0.0, (self._newest - time_ns) / 1e9)

    def take(self, time_ns: float, timeout: float) -> tuple[int, Item] | None:
        """Return the first frame at or after a time, or else the newest; forget those before it.

        Args:
            time_ns: the time.
            timeout: seconds to wait when there is none.

        Returns:
            When it was taken, and the frame; None if none came in time.
        """
        with self._changed:
            if not self._kept and not self._changed.wait_for(lambda: bool(self._kept), timeout):
                return None
            taken = self._kept.popleft()
            while taken.time_ns < time_ns and self._kept:
                taken = self._kept.popleft()
            if not self._kept:
                self._stride = 1
            return taken.time_ns, taken.item


class FollowUp(Generic[Item]):
    """Follows one answer's objects at a time; used from the worker's thread."""

    def __init__(
        self,
        tracker: Tracker,
        backlog: Backlog[Item],
        decode: Callable[[Item], Frame | None],
        *,
        catch_up: float = 2.0,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a follow-up.

        Args:
            tracker: follows; stays the caller's to close.
            backlog: opened when the query was accepted, and fed by the camera since.
            decode: makes a frame of what the backlog holds; None for one that cannot be used.
            catch_up: seconds in which to catch up with the camera.
            patience: seconds of the camera's time after which objects that are all lost are given
                up, and the query may be asked anew.
            clock: seconds, for measuring how long a step takes.
        """
        self._tracker = tracker
        self._backlog = backlog
        self._decode = decode
        self._catch_up = catch_up
        self._patience = patience
        self._clock = clock
        self._position = 0
        self._seen = 0

    def start(self, answer: Answer, time_ns: int | None = None) -> bool:
        """Begin with the answer's frame; return whether it has anything to follow.

        Args:
            answer: the answer.
            time_ns: when its frame was taken, by the clock of the backlog's times; None: as its
                stamp says.
        """
        if answer.frame is None or not any(segment.mask.any() for segment in answer.segments):
            return False
        self._position = answer.frame.stamp_ns if time_ns is None else time_ns
        self._seen = self._position
        self._tracker.start(answer.frame, answer.segments)
        return True

    def run(self, on_followed: Callable[[Followed], None], cancelled: Callable[[], bool]) -> End:
        """Follow until cancelled, or until all objects have been lost for long.

        It may be run again, without a new start: it then catches up again.

        Args:
            on_followed: hears of every frame.
            cancelled: asked before every frame.
        """
        # How many times faster than they were taken the kept frames are played.
        pace = 1 + self._backlog.lag(self._position) / self._catch_up
        target: float = self._position
        while not cancelled():
            taken = self._backlog.take(target, CANCEL_POLL)
            started = self._clock()
            frame = None if taken is None else self._decode(taken[1])
            if taken is None or frame is None:
                continue
            tracks = self._step(taken[0], frame)
            on_followed(Followed(frame, tracks, self._backlog.lag(self._position)))
            if self._position - self._seen > self._patience * 1e9:
                return End.ALL_LOST
            # Where the camera is by now, or nearer to it; beyond the newest frame, that is taken.
            target = self._position + pace * (self._clock() - started) * 1e9
        return End.CANCELLED

    def _step(self, time_ns: int, frame: Frame) -> tuple[Track, ...]:
        tracks = tuple(_with_pose(track, frame) for track in self._tracker.step(frame))
        self._position = time_ns
        if not all(track.lost for track in tracks):
            self._seen = time_ns
        self._seen = min(self._seen, time_ns)  # the camera's clock may jump back
        return tracks


def _with_pose(track: Track, frame: Frame) -> Track:
    """Return the track with the object's box in 3-D, where the frame's depth gives one."""
    if track.lost or frame.depth is None:
        return track
    pose, status = spatial.lift(track.segment.full_mask(frame.height, frame.width), frame)
    return replace(track, segment=replace(track.segment, pose=pose, pose_status=status))
