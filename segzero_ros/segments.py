"""From grounded objects to the objects of an answer: clipping, limits, masks and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math

import numpy as np

from segzero_ros import spatial
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import (
    Box,
    Frame,
    GroundedObject,
    Grounding,
    Pose3D,
    PoseStatus,
    Roi,
    Segment,
)

EMPTY = Roi(0, 0, 0, 0)
# Limits for an answer: a model may generate any number of objects, points and characters.
MAX_OBJECTS = 200
MAX_POINTS = 100
MAX_LABEL_LENGTH = 200
# Limit for the pixels of all cropped masks of an answer (the result contains a byte for each):
# this number or this many full images, whichever is larger.
MAX_MASK_PIXELS = 2**28
MAX_MASK_IMAGES = 4


def count_up(labels: Sequence[str]) -> Sequence[int]:
    """Return the ids 1, 2, 3 … for the objects with these labels."""
    return range(1, len(labels) + 1)


def clean(grounding: Grounding, width: int, height: int) -> tuple[Grounding, str]:
    """Clip boxes to the image, and drop invalid boxes and points.

    Args:
        grounding: from the reasoner.
        width: columns of the image.
        height: rows of the image.

    Returns:
        The grounding with integer boxes of at least one pixel, limited to MAX_OBJECTS, MAX_POINTS
        per object and MAX_LABEL_LENGTH; and a warning that counts what was dropped, or an empty
        text.
    """
    objects = []
    boxes_dropped = points_dropped = pointless = 0
    for grounded in grounding.objects[:MAX_OBJECTS]:
        box = None if grounded.box is None else clip_box(grounded.box, width, height)
        if box is None and grounded.box is not None:
            boxes_dropped += 1
            continue
        given = grounded.points[:MAX_POINTS]
        points = tuple((x, y) for x, y in given if 0 <= x <= width and 0 <= y <= height)
        points_dropped += len(given) - len(points)
        if box is None and not points:
            pointless += 1
            continue
        label = _truncated(grounded.label)
        objects.append(replace(grounded, box=box, points=points, label=label))
    warnings = []
    given_count = len(grounding.objects)
    if given_count > MAX_OBJECTS:
        excess = given_count - MAX_OBJECTS
        warnings.append(f'{excess} objects dropped: at most {MAX_OBJECTS} are segmented.')
    if boxes_dropped:
        warnings.append(
            f'{boxes_dropped} of {given_count} boxes dropped: not a number, inverted, empty or '
            'outside the image.'
        )
    if points_dropped:
        warnings.append(f'{points_dropped} points dropped: outside the image.')
    if pointless:
        warnings.append(f'{pointless} objects dropped: they have neither a box nor a point.')
    return replace(grounding, objects=tuple(objects)), ' '.join(warnings)


def _truncated(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else f'{label[: MAX_LABEL_LENGTH - 1]}…'


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Clip a box to the image.

    Args:
        box: (x1, y1, x2, y2).
        width: columns of the image.
        height: rows of the image.

    Returns:
        The box in integer pixels; None if it is invalid or outside the image.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        return None
    left, right = (min(max(round(x), 0), width) for x in (x1, x2))
    top, bottom = (min(max(round(y), 0), height) for y in (y1, y2))
    if right <= left or bottom <= top:
        return None
    return float(left), float(top), float(right), float(bottom)


def max_mask_pixels(frame: Frame) -> int:
    """Return the limit for the pixels of all masks of an answer about a frame."""
    return max(MAX_MASK_PIXELS, MAX_MASK_IMAGES * frame.width * frame.height)


def dropped_masks_warning(dropped: list[int], max_pixels: int) -> str:
    """Return the warning about objects whose masks were dropped; empty if none was.

    Args:
        dropped: their ids.
        max_pixels: the limit for the pixels of all masks.
    """
    if not dropped:
        return ''
    return (
        f'The masks of objects {", ".join(map(str, dropped))} were dropped, because all masks '
        f'together would have more than {max_pixels // 10**6} million pixels; their boxes and '
        'poses are included.'
    )


def make_segment(
    number: int, grounded: GroundedObject, mask: SegmentedMask, frame: Frame, max_pixels: int
) -> Segment:
    """Combine a grounded object and its mask, and lift it to 3-D if there is depth.

    Args:
        number: the object's id.
        grounded: the object.
        mask: its mask.
        frame: the frame.
        max_pixels: limit for its cropped mask; a larger one is dropped.
    """
    pose: Pose3D | None = None
    pose_status = PoseStatus.NO_DEPTH
    if frame.depth is not None:
        pose, pose_status = spatial.lift(mask.mask, frame)
    fits = mask.roi.width * mask.roi.height <= max_pixels
    return Segment(
        id=number,
        label=grounded.label,
        score=mask.score,
        box=mask.roi if grounded.box is None else box_roi(grounded.box),
        points=grounded.points,
        mask_roi=mask.roi if fits else EMPTY,
        mask=mask.cropped if fits else np.zeros((0, 0), np.bool_),
        pose=pose,
        pose_status=pose_status,
        box_from_mask=grounded.box is None,
    )


def without_mask(number: int, grounded: GroundedObject, frame: Frame) -> Segment:
    """Return a grounded object as it is, with the place on its surface if there is depth.

    Args:
        number: the object's id.
        grounded: the object, cleaned.
        frame: the frame.
    """
    pose, pose_status = spatial.locate(grounded.box, grounded.points, frame)
    return Segment(
        id=number,
        label=grounded.label,
        score=math.nan,
        box=EMPTY if grounded.box is None else box_roi(grounded.box),
        points=grounded.points,
        mask_roi=EMPTY,
        mask=np.zeros((0, 0), np.bool_),
        pose=pose,
        pose_status=pose_status,
        box_from_mask=grounded.box is None,
    )


def box_roi(box: Box) -> Roi:
    """Return a box with integer corners as a rectangle of pixels."""
    x1, y1, x2, y2 = map(int, box)
    return Roi(x1, y1, x2 - x1, y2 - y1)
