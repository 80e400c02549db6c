"""An answer, measured once: overlap with the truth, boxes, points and counts, in whole numbers.

Every figure of every convention is computed from items. So items can be written down, joined and
counted again, and the figures are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segzero_ros.evaluation.samples import Sample
from segzero_ros.types import Box, Mask, Point, Roi

IOU_OF_A_HIT = 0.5


class Failure(str, Enum):
    """Why there is no answer, as far as the conventions tell it apart."""

    NONE = ''
    ANSWER = 'answer'  # the model's text cannot be read
    SEGMENTER = 'segmenter'  # the reasoner gave boxes, but the segmenter made no mask of them
    CRASH = 'crash'  # the reasoner failed or ran out of time, whatever it had said by then


@dataclass(frozen=True, eq=False)
class Prediction:
    """An answer as it is measured.

    Attributes:
        mask: (H, W) bool, the union of all masks; None after a failure.
        boxes: the reasoning model's boxes (x1, y1, x2, y2), unclipped.
        points: its points (x, y).
        failure: why there is no answer.
        words: how many words the reasoning has.
    """

    mask: Mask | None
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    failure: Failure = Failure.NONE
    words: int = 0


class Overlap(NamedTuple):
    """Pixels: of both masks, of either, and of the true one."""

    intersection: int
    union: int
    true: int


@dataclass(frozen=True)
class Measurement:
    """One answer, measured.

    Attributes:
        failure: why there is no answer.
        same_size: whether the masks could be compared.
        whole: overlap where ignored pixels count as meant; None without a true mask.
        valid: overlap where ignored pixels count nowhere.
        boxes: how many boxes were predicted.
        true_boxes: how many the data set gives.
        box_hit: whether a predicted box meets the data set's, by the rule of before 2025-08-29.
        box_hit_merged: the same by the rule since then: also all predicted boxes together, and
            against the true mask's box where the data set gives none.
        points: how many points were predicted.
        points_on_target: how many of them lie on the true mask.
        count: how many objects are meant; None where it is not known.
        words: how many words the reasoning has.
        wrong_object: whether an object was marked that is not meant, or one meant was not; None
            where the data set does not tell objects apart.
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


def measure(sample: Sample, prediction: Prediction) -> Measurement:
    """Compare an answer with the truth."""
    mask, true = prediction.mask, sample.mask
    same_size = mask is None or true is None or mask.shape == true.shape
    compared = mask if same_size else None
    whole = valid = meant = None
    if true is not None:
        meant = true if sample.ignore is None else true | sample.ignore
        whole = valid = _overlap(compared, meant)
        if sample.ignore is not None:
            valid = _valid_overlap(compared, true, sample.ignore)
    return Measurement(
        failure=prediction.failure,
        same_size=same_size,
        whole=whole,
        valid=valid,
        boxes=len(prediction.boxes),
        true_boxes=len(sample.boxes),
        # Masks of different sizes are an error to the published script, which then counts no box.
        box_hit=same_size and _hits(prediction.boxes, sample.boxes),
        box_hit_merged=(
            same_size
            and prediction.failure is not Failure.CRASH
            and _hits_merged(prediction.boxes, sample.boxes, meant)
        ),
        points=len(prediction.points),
        points_on_target=0 if true is None else _points_on(prediction.points, true),
        count=sample.count,
        words=prediction.words,
    )


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


def _hits(boxes: Sequence[Box], true: Sequence[Box]) -> bool:
    return any(box_iou(box, one) > IOU_OF_A_HIT for box in boxes for one in true)


def _hits_merged(boxes: Sequence[Box], true: Sequence[Box], mask: Mask | None) -> bool:
    if not true:
        if mask is None:
            return False
        if not mask.any():
            return not boxes
        true = (_box_of(mask),)
    if not boxes:
        return False
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return _hits([*boxes, (min(x1), min(y1), max(x2), max(y2))], true)


def _box_of(mask: Mask) -> Box:
    """Return a mask's box as the published script does: x2 and y2 are the last pixels."""
    x, y, width, height = Roi.around(mask)
    return float(x), float(y), float(x + width - 1), float(y + height - 1)


def _points_on(points: Sequence[Point], mask: Mask) -> int:
    height, width = mask.shape
    finite = (point for point in points if all(map(math.isfinite, point)))
    pixels = [(math.floor(x + 0.5), math.floor(y + 0.5)) for x, y in finite]
    return sum(0 <= x < width and 0 <= y < height and bool(mask[y, x]) for x, y in pixels)


def wrong_object(
    masks: Iterable[Mask], labels: NDArray[np.int16], targets: Sequence[int]
) -> bool | None:
    """Return whether the marked objects are other than the meant ones; None where none is meant.

    A mask belongs to the object that it overlaps most, or to none.
    """
    if not targets:
        return None
    return {_owner(mask, labels) for mask in masks} != set(targets)


def _owner(mask: Mask, labels: NDArray[np.int16]) -> int:
    covered = labels[mask]
    counts = np.bincount(covered[covered > 0])
    return int(counts.argmax()) if counts.any() else 0
