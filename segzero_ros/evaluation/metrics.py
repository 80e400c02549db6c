"""What answers are worth: gIoU, cIoU, boxes, points, counts and "nothing there".

An answer is measured once, into an `Item` that holds whole numbers only; every figure of every
convention is computed from items. So items can be written down, joined and counted again, and the
figures are the same. Imports `samples`, `types` and NumPy.

The same answers give different figures by different published procedures. `Convention` names what
they differ in; `CONVENTIONS` holds those of Seg-Zero's two scripts, VisionReasoner's and LISA's.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    SEGMENTER = 'segmenter'  # there are boxes, but the segmenter failed
    CRASH = 'crash'  # the reasoner failed or ran out of time


class Fate(Enum):
    """What a convention makes of a sample that could not be compared."""

    PENALISED = 'penalised'  # intersection 0, union the true area
    DROPPED = 'dropped'  # counted nowhere
    ZERO = 'zero'  # IoU 0
    ONE = 'one'  # IoU 1


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
class Item:
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


@dataclass(frozen=True)
class Convention:
    """A published procedure.

    Attributes:
        source: what publishes it.
        ignored_are_meant: ignored pixels count as meant, else nowhere.
        answer_failed: what becomes of an unreadable answer.
        segmenter_failed: what becomes of a sample whose boxes gave no mask.
        other_size: what becomes of masks of different sizes.
        empty_union: what becomes of an empty true mask that was answered with an empty one.
        epsilon: added to each union.
        sum_epsilon: added to the sum of unions.
    """

    source: str
    ignored_are_meant: bool
    answer_failed: Fate
    segmenter_failed: Fate
    other_size: Fate
    empty_union: Fate
    epsilon: float = 0.0
    sum_epsilon: float = 0.0


CONVENTIONS = {
    'seg_zero': Convention(
        'Seg-Zero, evaluation.py',
        ignored_are_meant=True,
        answer_failed=Fate.PENALISED,
        segmenter_failed=Fate.PENALISED,
        other_size=Fate.DROPPED,
        empty_union=Fate.DROPPED,
    ),
    'seg_zero_multi': Convention(
        'Seg-Zero, evaluation_visionreasoner.py',
        ignored_are_meant=True,
        answer_failed=Fate.PENALISED,
        segmenter_failed=Fate.DROPPED,
        other_size=Fate.DROPPED,
        empty_union=Fate.DROPPED,
    ),
    'vision_reasoner': Convention(
        'VisionReasoner, evaluation_segmentation.py',
        ignored_are_meant=True,
        answer_failed=Fate.PENALISED,
        segmenter_failed=Fate.PENALISED,
        other_size=Fate.PENALISED,
        empty_union=Fate.ZERO,
    ),
    'lisa': Convention(
        'LISA, train_ds.py',
        ignored_are_meant=False,
        answer_failed=Fate.PENALISED,
        segmenter_failed=Fate.PENALISED,
        other_size=Fate.PENALISED,
        empty_union=Fate.ONE,
        epsilon=1e-5,
        sum_epsilon=1e-10,
    ),
}


def measure(sample: Sample, prediction: Prediction) -> Item:
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
    return Item(
        failure=prediction.failure,
        same_size=same_size,
        whole=whole,
        valid=valid,
        boxes=len(prediction.boxes),
        true_boxes=len(sample.boxes),
        # Masks of different sizes are an error to the published script, which then counts no box.
        box_hit=same_size and _hits(prediction.boxes, sample.boxes),
        box_hit_merged=same_size and _hits_merged(prediction.boxes, sample.boxes, meant),
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


class Scored(NamedTuple):
    """An item as a convention counts it."""

    item: Item
    intersection: int
    union: int
    iou: float


def score(items: Sequence[Item], convention: Convention) -> list[Scored]:
    """Return what a convention counts; samples that it drops, or without a mask, are left out."""
    scored = (_score(item, convention) for item in items)
    return [one for one in scored if one is not None]


def _score(item: Item, convention: Convention) -> Scored | None:
    overlap = item.whole if convention.ignored_are_meant else item.valid
    if overlap is None:
        return None
    fate = _fate(item, convention)
    if fate is Fate.DROPPED:
        return None
    intersection, union = overlap.intersection, overlap.union
    if fate is Fate.PENALISED:
        intersection, union = 0, overlap.true
    elif not union and convention.empty_union is Fate.DROPPED:
        return None
    if not union:
        return Scored(item, 0, 0, 1.0 if convention.empty_union is Fate.ONE else 0.0)
    return Scored(item, intersection, union, intersection / (union + convention.epsilon))


def _fate(item: Item, convention: Convention) -> Fate | None:
    if item.failure is Failure.SEGMENTER:
        return convention.segmenter_failed
    if item.failure is not Failure.NONE:
        return convention.answer_failed
    return None if item.same_size else convention.other_size


def figures(items: Sequence[Item], convention: Convention) -> dict[str, float]:
    """Return a convention's figures, shares from 0 to 1, and how many samples they are about.

    Figures that the published scripts print are theirs to the last digit, also where they print 0
    for a share of nothing: look at the counts `with_box`, `without_target`, `counted` then.

    Returns:
        samples, scored, failed (of all), dropped, giou, ciou, bbox_ap (by the rule of before
        2025-08-29), bbox_ap_merged (by that since), with_box, n_acc, without_target,
        giou_no_target (gIoU where nothing meant and nothing found is 1), point_accuracy (share of
        the predicted points that lie on the true mask; our own), points, words (mean length of
        the reasoning); with LISA's convention giou_meter; where objects are counted count_mae,
        count_rmse, count_accuracy, counted; where objects are told apart wrong_object. NaN for a
        mean of nothing.
    """
    masked = [item for item in items if item.whole is not None]
    scored = score(masked, convention)
    found = {
        'samples': len(items),
        'scored': len(scored),
        'failed': sum(item.failure is not Failure.NONE for item in items),
        'dropped': len(masked) - len(scored),
        'giou': _mean([one.iou for one in scored]),
        'ciou': _ratio(scored, convention),
        **_box_figures(scored),
        **_nothing_figures(scored),
        **_point_figures(scored),
    }
    if convention.epsilon:
        # LISA's meter divides by n + 1e-5 when it joins the figures of its processes.
        found['giou_meter'] = float(np.sum([one.iou for one in scored])) / (len(scored) + 1e-5)
    found.update(_count_figures(items))
    found['words'] = _mean([item.words for item in items if item.words])
    wrong = [item.wrong_object for item in items if item.wrong_object is not None]
    if wrong:
        found['wrong_object'] = _mean(wrong)
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _ratio(scored: Sequence[Scored], convention: Convention) -> float:
    intersection = sum(one.intersection for one in scored)
    union = sum(one.union for one in scored)
    return intersection / (union + convention.sum_epsilon) if union else 0.0


def _box_figures(scored: Sequence[Scored]) -> dict[str, float]:
    return {
        'bbox_ap': _share(sum(one.item.box_hit for one in scored), len(scored)),
        'bbox_ap_merged': _share(sum(one.item.box_hit_merged for one in scored), len(scored)),
        'with_box': sum(one.item.true_boxes > 0 for one in scored),
    }


def _nothing_figures(scored: Sequence[Scored]) -> dict[str, float]:
    empty = [one.item.whole is not None and one.item.whole.true == 0 for one in scored]
    right = [
        nothing and one.item.same_size and not one.item.boxes
        for nothing, one in zip(empty, scored, strict=True)
    ]
    ious = [1.0 if found else one.iou for found, one in zip(right, scored, strict=True)]
    return {
        'n_acc': _share(sum(right), sum(empty)),
        'without_target': sum(empty),
        'giou_no_target': _mean(ious),
    }


def _point_figures(scored: Sequence[Scored]) -> dict[str, float]:
    points = sum(one.item.points for one in scored)
    right = sum(one.item.points_on_target for one in scored)
    return {'point_accuracy': _share(right, points), 'points': points}


def _count_figures(items: Sequence[Item]) -> dict[str, float]:
    # An answer that crashed counts as 1 in the published script, an unreadable one as 0.
    errors = [
        (1 if item.failure is Failure.CRASH else item.boxes) - item.count
        for item in items
        if item.count is not None
    ]
    if not errors:
        return {}
    return {
        'count_mae': _mean([abs(error) for error in errors]),
        'count_rmse': math.sqrt(_mean([error * error for error in errors])),
        'count_accuracy': _mean([error == 0 for error in errors]),
        'counted': len(errors),
    }


def intervals(
    items: Sequence[Item],
    convention: Convention,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return bootstrap intervals of gIoU, cIoU and both bbox APs: percentiles over resamples.

    Args:
        items: the measured answers.
        convention: by which they count.
        level: the share of resamples inside an interval.
        resamples: how often as many samples are drawn, with replacement, as are scored.
        seed: the same seed and items give the same intervals.
    """
    scored = score(items, convention)
    if not scored:
        return {}
    columns = {
        'giou': np.array([one.iou for one in scored]),
        'bbox_ap': np.array([float(one.item.box_hit) for one in scored]),
        'bbox_ap_merged': np.array([float(one.item.box_hit_merged) for one in scored]),
    }
    overlap = np.array([(one.intersection, one.union) for one in scored], np.float64)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in (*columns, 'ciou')}
    for _ in range(resamples):
        chosen = rng.integers(len(scored), size=len(scored))
        for name, values in columns.items():
            drawn[name].append(float(values[chosen].mean()))
        intersection, union = overlap[chosen].sum(axis=0)
        drawn['ciou'].append(float(intersection / union) if union else 0.0)
    tail = 50 * (1 - level)
    return {name: _between(values, tail) for name, values in drawn.items()}


def _between(values: Sequence[float], tail: float) -> tuple[float, float]:
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)


def wrong_object(
    masks: Sequence[Mask], labels: NDArray[np.int16], targets: Sequence[int]
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
