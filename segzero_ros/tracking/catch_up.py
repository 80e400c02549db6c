"""Track an answer's objects from its frame, through the buffered ones, to the live camera.

An answer is about a frame that is seconds old. The tracker starts there and processes the buffered
frames faster than real time until it has caught up; from then on it takes the newest frame and
skips frames that it cannot keep up with.
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
from segzero_ros.types import Answer, Frame, S_TO_NS, Track

Item = TypeVar('Item')

# Interval for checking for a cancel while no frame arrives, in seconds.
CANCEL_POLL = 0.02


class TrackingEnd(Enum):
    """Why tracking ended."""

    CANCELLED = 0
    ALL_LOST = 1


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The tracked objects in one frame.

    Attributes:
        frame: the frame.
        tracks: the answer's objects that had a mask, including lost ones, in the answer's order.
        lag: seconds between this frame and the camera's newest one.
    """

    frame: Frame
    tracks: tuple[Track, ...]
    lag: float

    @property
    def message(self) -> str:
        """The lost objects, for the user; empty if there are none."""
        lost = [track.segment for track in self.tracks if track.lost]
        names = [
            f'{segment.id} ({segment.label})' if segment.label else str(segment.id)
            for segment in lost
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
            tracker: the tracker; the caller closes it.
            frames: opened when the query was accepted, and fed by the camera since.
            decode: turns a buffered item into a frame; None for one that cannot be used.
            catch_up: seconds in which to catch up with the camera.
            patience: seconds of camera time after which tracking ends if all objects are lost.
            clock: seconds, for measuring the duration of a step.
        """
        self._tracker = tracker
        self._frames = frames
        self._decode = decode
        self._catch_up = catch_up
        self._patience = patience
        self._clock = clock
        self._position = 0
        self._last_found = 0

    def start(self, answer: Answer, time_ns: int | None = None) -> bool:
        """Start at the answer's frame; return whether there is anything to track.

        Args:
            answer: the answer.
            time_ns: time of its frame by the buffer's clock, nanoseconds; None for its stamp.
        """
        if answer.frame is None or not any(segment.mask.any() for segment in answer.segments):
            return False
        self._position = answer.frame.stamp_ns if time_ns is None else time_ns
        self._last_found = self._position
        self._tracker.start(answer.frame, answer.segments)
        return True

    def run(
        self, on_frame: Callable[[TrackedFrame], None], cancelled: Callable[[], bool]
    ) -> TrackingEnd:
        """Track until cancelled, or until all objects have been lost for `patience`.

        It can be called again without a new start, and then catches up again.

        Args:
            on_frame: called with every tracked frame.
            cancelled: polled before every frame.
        """
        # Playback speed of the buffered frames relative to real time.
        speed = 1 + self._frames.lag(self._position) / self._catch_up
        target: float = self._position
        while not cancelled():
            taken = self._frames.take(target, CANCEL_POLL)
            started = self._clock()
            frame = None if taken is None else self._decode(taken[1])
            if taken is None or frame is None:
                continue
            tracks = self._step(taken[0], frame)
            on_frame(TrackedFrame(frame, tracks, self._frames.lag(self._position)))
            if self._position - self._last_found > self._patience * S_TO_NS:
                return TrackingEnd.ALL_LOST
            # If this is beyond the newest frame, the newest one is taken.
            target = self._position + speed * (self._clock() - started) * S_TO_NS
        return TrackingEnd.CANCELLED

    def _step(self, time_ns: int, frame: Frame) -> tuple[Track, ...]:
        tracks = tuple(_with_pose(track, frame) for track in self._tracker.step(frame))
        self._position = time_ns
        if not all(track.lost for track in tracks):
            self._last_found = time_ns
        self._last_found = min(self._last_found, time_ns)  # the camera's clock may jump back
        return tracks


def _with_pose(track: Track, frame: Frame) -> Track:
    """Return the track with the object's 3-D box, if the frame has depth."""
    if track.lost or frame.depth is None:
        return track
    pose, status = spatial.lift(track.segment.full_mask(frame.height, frame.width), frame)
    return replace(track, segment=replace(track.segment, pose=pose, pose_status=status))
