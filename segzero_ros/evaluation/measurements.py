"""Measurements of an answer: overlap with the truth, boxes, points and counts, as integers.

All metrics of all conventions are computed from measurements, so that these can be saved, merged
and evaluated again with the same results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.evaluation.samples import Sample
from segzero_ros.types import Box, Mask, Point, Roi, Task

IOU_OF_A_HIT = 0.5


class Failure(str, Enum):
    """Why there is no answer, as far as the conventions distinguish it."""

    NONE = ''
    ANSWER = 'answer'  # the model's text cannot be parsed
    SEGMENTER = 'segmenter'  # the reasoner gave boxes, but the segmenter failed
    CRASH = 'crash'  # the reasoner failed or timed out, whatever it had generated


@dataclass(frozen=True, eq=False)
class Prediction:
    """An answer to be measured.

    Attributes:
        mask: (H, W) bool, union of all masks; None after a failure.
        boxes: the reasoning model's boxes (x1, y1, x2, y2), unclipped.
        points: its points (x, y).
        failure: why there is no answer.
        words: number of words of the reasoning.
        task: what was asked.
        has_masks: whether the task gives masks; without them only boxes, points and counts are
            measured.
        count: the answered number, for the task COUNT, or the number of objects if none has a box;
            None to count the boxes.
    """

    mask: Mask | None
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    failure: Failure = Failure.NONE
    words: int = 0
    task: Task = Task.SEGMENT
    has_masks: bool = True
    count: int | None = None


class Overlap(NamedTuple):
    """Numbers of pixels: intersection and union of both masks, and area of the true mask."""

    intersection: int
    union: int
    true: int


@dataclass(frozen=True)
class Measurement:
    """The measurements of one answer.

    Attributes:
        failure: why there is no answer.
        same_size: whether the masks could be compared.
        whole: overlap with ignored pixels as part of the target; None without a true mask, or if
            the task gives no masks.
        valid: overlap without the ignored pixels.
        boxes: number of predicted boxes.
        true_boxes: number of boxes in the data set.
        box_hit: whether a predicted box matches one of the data set, by the published rule before
            2025-08-29.
        box_hit_merged: the same by the rule since then: also the union of all predicted boxes, and
            against the true mask's box if the data set has no boxes.
        points: number of predicted points.
        points_on_target: how many of them lie on the true mask, or in a true box if the data set
            has only boxes.
        count: number of targets; None if unknown.
        words: number of words of the reasoning.
        wrong_object: whether the marked objects differ from the targets; None if the data set has
            no instance labels.
        is_pointed: whether the points metric counts it: something is meant, and the query asks
            for points, or the data set does and the answer has masks.
        box_iou: IoU of the first predicted box with the true one, the best of several; 0 without
            a predicted box, None without a true one.
        answered_count: the number answered for the task COUNT, or of objects without boxes; None
            to count the boxes.
        distracted: overlap with the distractor; None without one, or after a failure.
    """

    failure: Failure
    same_size: bool
    whole: Overlap | None
    valid: Overlap | None
    boxes: int
    true_boxes: int
    box_hit: bool
    box_hit_merged: bool
    points: int
    points_on_target: int
    count: int | None
    words: int
    wrong_object: bool | None = None
    is_pointed: bool = False
    box_iou: float | None = None
    answered_count: int | None = None
    distracted: Overlap | None = None


def measure(sample: Sample, prediction: Prediction) -> Measurement:
    """Measure an answer against the ground truth."""
    mask, true = prediction.mask, sample.mask
    same_size = mask is None or true is None or mask.shape == true.shape
    compared = mask if same_size else None
    whole = valid = target = None
    if true is not None:
        target = true if sample.ignore is None else true | sample.ignore
        whole = valid = _overlap(compared, target)
        if sample.ignore is not None:
            valid = _valid_overlap(compared, true, sample.ignore)
    distracted = None
    if sample.distractor is not None and prediction.failure is Failure.NONE:
        distracted = _overlap(compared, sample.distractor)
    means_something = bool(sample.boxes) if true is None else bool(true.any())
    return Measurement(
        failure=prediction.failure,
        same_size=same_size,
        whole=whole if prediction.has_masks else None,
        valid=valid if prediction.has_masks else None,
        boxes=len(prediction.boxes),
        true_boxes=len(sample.boxes),
        # The published script fails on masks of different sizes, and then counts no box.
        box_hit=same_size and _hits(prediction.boxes, sample.boxes),
        box_hit_merged=(
            same_size
            and prediction.failure is not Failure.CRASH
            and _hits_merged(prediction, sample.boxes, target)
        ),
        points=len(prediction.points),
        points_on_target=(
            _points_in(prediction.points, sample.boxes)
            if true is None
            else _points_on(prediction.points, true)
        ),
        count=sample.count,
        words=prediction.words,
        is_pointed=means_something and _is_pointed(sample, prediction),
        box_iou=_best_iou(prediction.boxes, sample.boxes),
        answered_count=prediction.count,
        distracted=distracted if prediction.has_masks else None,
    )


def _is_pointed(sample: Sample, prediction: Prediction) -> bool:
    asked = prediction.task is Task.POINT
    return asked or (sample.task is Task.POINT and prediction.has_masks)


def _overlap(mask: Mask | None, true: Mask) -> Overlap:
    area = int(true.sum())
    if mask is None:
        return Overlap(0, area, area)
    return Overlap(int((mask & true).sum()), int((mask | true).sum()), area)


def _valid_overlap(mask: Mask | None, true: Mask, ignore: Mask) -> Overlap:
    valid = ~ignore
    return _overlap(None if mask is None else mask & valid, true & valid)


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the IoU of two boxes (x1, y1, x2, y2), widths x2 - x1; 0 for an empty union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(0, width) * max(0, height)
    union = -both
    for x1, y1, x2, y2 in (first, second):
        union += (x2 - x1) * (y2 - y1)
    return both / union if union else 0.0


def _best_iou(boxes: Sequence[Box], true: Sequence[Box]) -> float | None:
    if not true:
        return None
    if not boxes or not all(map(math.isfinite, boxes[0])):
        return 0.0
    return max(box_iou(boxes[0], one) for one in true)


def _hits(boxes: Sequence[Box], true: Sequence[Box]) -> bool:
    return any(box_iou(box, one) > IOU_OF_A_HIT for box in boxes for one in true)


def _hits_merged(prediction: Prediction, true: Sequence[Box], mask: Mask | None) -> bool:
    boxes = prediction.boxes
    if not true:
        if mask is None:
            return False
        if not mask.any():
            return not boxes and not prediction.points
        true = (_box_of(mask),)
    if not boxes:
        return False
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return _hits([*boxes, (min(x1), min(y1), max(x2), max(y2))], true)


def _box_of(mask: Mask) -> Box:
    """Return a mask's box as in the published script: x2 and y2 are the last pixels."""
    x, y, width, height = Roi.around(mask)
    return float(x), float(y), float(x + width - 1), float(y + height - 1)


def _points_on(points: Sequence[Point], mask: Mask) -> int:
    height, width = mask.shape
    finite = (point for point in points if all(map(math.isfinite, point)))
    pixels = [(math.floor(x + 0.5), math.floor(y + 0.5)) for x, y in finite]
    return sum(0 <= x < width and 0 <= y < height and bool(mask[y, x]) for x, y in pixels)


def _points_in(points: Sequence[Point], boxes: Sequence[Box]) -> int:
    """Return how many points lie in a box, edges included as in the published scripts."""
    return sum(any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes) for x, y in points)


def innermost_point(mask: Mask) -> Point | None:
    """Return the pixel of a mask that is farthest from its outside; None for an empty mask.

    Outside the image is outside the mask.

    Args:
        mask: (H, W) bool.
    """
    if not mask.any():
        return None
    distances = cv2.distanceTransform(
        np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return float(x - 1), float(y - 1)


def wrong_object(
    masks: Iterable[Mask], labels: NDArray[np.int16], targets: Sequence[int]
) -> bool | None:
    """Return whether the marked objects differ from the targets; None without targets.

    Each mask is assigned to the object that it overlaps most, or to none.

    Args:
        masks: (H, W) bool each.
        labels: (H, W) instance ids, 0 for the background.
        targets: ids of the targets.
    """
    if not targets:
        return None
    return {_owner(mask, labels) for mask in masks} != set(targets)


def _owner(mask: Mask, labels: NDArray[np.int16]) -> int:
    covered = labels[mask]
    counts = np.bincount(covered[covered > 0])
    return int(counts.argmax()) if counts.any() else 0
