"""The tracker interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
import math
from typing import Protocol

from segzero_ros.types import Frame, Mask, PoseStatus, Roi, Segment, Track


class Tracker(Protocol):
    """Tracks objects from frame to frame, in bounded memory; used by one thread at a time.

    Frames may be skipped. The same calls give the same masks.
    """

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects instead of the previous ones.

        Args:
            frame: the image that the segments belong to.
            segments: the answer's objects; those with an empty mask are ignored.
        """
        ...

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects in addition to the previous ones.

        Args:
            frame: the image that the segments belong to; it need not be the last one.
            segments: as for `start`.

        Raises:
            ValueError: one of their ids is tracked already.
        """
        ...

    def step(self, frame: Frame) -> list[Track]:
        """Find every tracked object in the next frame, in the order in which they were added.

        Raises:
            BadImage: the frame cannot be from the same camera.
        """
        ...

    def close(self) -> None:
        """Free the memory; the tracker is not used again."""
        ...


def trackable(segments: Sequence[Segment], tracked_ids: Iterable[int]) -> list[Segment]:
    """Return the segments that have a mask.

    Args:
        segments: the objects to track.
        tracked_ids: ids of the objects that are tracked already.

    Raises:
        ValueError: one of the segments' ids is tracked already.
    """
    duplicates = {segment.id for segment in segments} & set(tracked_ids)
    if duplicates:
        raise ValueError(f'Objects with the ids {sorted(duplicates)} are tracked already')
    return [segment for segment in segments if segment.mask.any()]


def found(segment: Segment, mask: Mask, score: float) -> Track:
    """Return the track of an object that was found.

    Args:
        segment: the object as it was added.
        mask: (H, W) bool in source pixels; not empty.
        score: the tracker's estimate of the mask's IoU; NaN if it has none.
    """
    roi = Roi.around(mask)
    moved = replace(
        segment, score=score, box=roi, points=(), mask_roi=roi, mask=mask[roi.slices].copy()
    )
    return Track(_without_pose(moved))


def lost(segment: Segment, age: int) -> Track:
    """Return the track of a lost object.

    Args:
        segment: the object as it was added.
        age: number of frames since it was last found.
    """
    empty = Roi(0, 0, 0, 0)
    without_mask = replace(
        segment,
        score=math.nan,
        box=empty,
        points=(),
        mask_roi=empty,
        mask=segment.mask[:0, :0],
    )
    return Track(_without_pose(without_mask), lost=True, age=age)


def _without_pose(segment: Segment) -> Segment:
    """Remove the pose, which belongs to an earlier frame."""
    return replace(segment, pose=None, pose_status=PoseStatus.NO_DEPTH)
