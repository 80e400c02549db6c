"""What every tracker is: it follows the objects of an answer through later frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
import math
from typing import Protocol

from segzero_ros.types import Frame, Mask, PoseStatus, Roi, Segment, Track


class Tracker(Protocol):
    """Follows objects from frame to frame, in bounded memory; used by one thread at a time.

    Frames may be left out at will: every call takes whatever frame comes next. The same calls give
    the same masks.
    """

    @property
    def name(self) -> str:
        """Which model follows."""
        ...

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Forget what was followed until now, and follow these objects of the frame.

        Args:
            frame: the picture that the segments were found in.
            segments: the objects, as the answer has them; those with an empty mask are left out,
                for nothing is known of their looks.
        """
        ...

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Follow these objects of the frame too.

        Args:
            frame: the picture that the segments were found in; it need not be the last one.
            segments: as for `start`.

        Raises:
            ValueError: one of their ids is followed already.
        """
        ...

    def step(self, frame: Frame) -> list[Track]:
        """Find every followed object in the next frame, in the order in which they were added.

        Raises:
            BadImage: the frame cannot be one of the same camera.
        """
        ...

    def close(self) -> None:
        """Forget everything; the tracker is not used again."""
        ...


def trackable(segments: Sequence[Segment], followed: Iterable[int]) -> list[Segment]:
    """Return the segments that have a mask; see `Tracker.add` for the error.

    Args:
        segments: what is to be followed.
        followed: ids that are followed already.
    """
    taken = {segment.id for segment in segments} & set(followed)
    if taken:
        raise ValueError(f'Objects are followed already under the ids {sorted(taken)}')
    return [segment for segment in segments if segment.mask.any()]


def found(segment: Segment, mask: Mask, score: float) -> Track:
    """Return the track of an object that is seen.

    Args:
        segment: the object as it was followed until now.
        mask: (H, W) bool, where it is, in source pixels; not empty.
        score: the tracker's own estimate of the mask's IoU; NaN when it gives none.
    """
    roi = Roi.around(mask)
    moved = replace(
        segment, score=score, box=roi, points=(), mask_roi=roi, mask=mask[roi.slices].copy()
    )
    return Track(_without_pose(moved))


def lost(segment: Segment, age: int) -> Track:
    """Return the track of an object that was not seen for so many frames."""
    nowhere = Roi(0, 0, 0, 0)
    gone = replace(
        segment,
        score=math.nan,
        box=nowhere,
        points=(),
        mask_roi=nowhere,
        mask=segment.mask[:0, :0],
    )
    return Track(_without_pose(gone), lost=True, age=age)


def _without_pose(segment: Segment) -> Segment:
    """Take off the pose, which was the earlier frame's."""
    return replace(segment, pose=None, pose_status=PoseStatus.NO_DEPTH)
