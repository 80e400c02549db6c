"""Track an answer's objects from its frame, through the buffered ones, to the live camera.

An answer is about a frame that is seconds old. The tracker starts there and processes the buffered
frames faster than they were taken, until it has caught up; from then on it takes the newest frame
and skips what it has no time for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
import time
from typing import Generic, TypeVar

from segzero_ros import spatial
from segzero_ros.tracking.base import Tracker
from segzero_ros.tracking.frame_buffer import FrameBuffer
from segzero_ros.types import Answer, Frame, Track

Item = TypeVar('Item')

# How long a cancel can go unnoticed while no frame comes, in seconds.
CANCEL_POLL = 0.02


class TrackingEnd(Enum):
    """Why tracking ended."""

    CANCELLED = 0
    ALL_LOST = 1


@dataclass(frozen=True, eq=False)
class TrackedFrame:
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


class CatchUp(Generic[Item]):
    """Tracks one answer's objects at a time; used from the worker's thread."""

    def __init__(
        self,
        tracker: Tracker,
        frames: FrameBuffer[Item],
        decode: Callable[[Item], Frame | None],
        *,
        catch_up: float = 2.0,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to track.

        Args:
            tracker: the tracker; stays the caller's to close.
            frames: opened when the query was accepted, and fed by the camera since.
            decode: makes a frame of what the frames holds; None for one that cannot be used.
            catch_up: seconds in which to catch up with the camera.
            patience: seconds of the camera's time after which objects that are all lost are given
                up, and the query may be asked anew.
            clock: seconds, for measuring how long a step takes.
        """
        self._tracker = tracker
        self._frames = frames
        self._decode = decode
        self._catch_up = catch_up
        self._patience = patience
        self._clock = clock
        self._position = 0
        self._seen = 0

    def start(self, answer: Answer, time_ns: int | None = None) -> bool:
        """Begin with the answer's frame; return whether it has anything to track.

        Args:
            answer: the answer.
            time_ns: when its frame was taken, by the clock of the frames's times; None: as its
                stamp says.
        """
        if answer.frame is None or not any(segment.mask.any() for segment in answer.segments):
            return False
        self._position = answer.frame.stamp_ns if time_ns is None else time_ns
        self._seen = self._position
        self._tracker.start(answer.frame, answer.segments)
        return True

    def run(
        self, on_frame: Callable[[TrackedFrame], None], cancelled: Callable[[], bool]
    ) -> TrackingEnd:
        """Track until cancelled, or until all objects have been lost for long.

        It may be run again, without a new start: it then catches up again.

        Args:
            on_frame: called with every tracked frame.
            cancelled: asked before every frame.
        """
        # How many times faster than they were taken the kept frames are played.
        pace = 1 + self._frames.lag(self._position) / self._catch_up
        target: float = self._position
        while not cancelled():
            taken = self._frames.take(target, CANCEL_POLL)
            started = self._clock()
            frame = None if taken is None else self._decode(taken[1])
            if taken is None or frame is None:
                continue
            tracks = self._step(taken[0], frame)
            on_frame(TrackedFrame(frame, tracks, self._frames.lag(self._position)))
            if self._position - self._seen > self._patience * 1e9:
                return TrackingEnd.ALL_LOST
            # Where the camera is by now, or nearer to it; beyond the newest frame, that is taken.
            target = self._position + pace * (self._clock() - started) * 1e9
        return TrackingEnd.CANCELLED

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
