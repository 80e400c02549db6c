"""What answers are worth: gIoU, cIoU, boxes, points, counts and "nothing there".

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

from segzero_ros.evaluation.measurements import Failure, Measurement


class Outcome(Enum):
    """What a convention makes of a sample that could not be compared."""

    PENALISED = 'penalised'  # intersection 0, union the true area
    DROPPED = 'dropped'  # counted nowhere
    ZERO = 'zero'  # IoU 0
    ONE = 'one'  # IoU 1


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
    answer_failed: Outcome
    segmenter_failed: Outcome
    other_size: Outcome
    empty_union: Outcome
    epsilon: float = 0.0
    sum_epsilon: float = 0.0


CONVENTIONS = {
    'seg_zero': Convention(
        'Seg-Zero, evaluation.py',
        ignored_are_meant=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.DROPPED,
        empty_union=Outcome.DROPPED,
    ),
    'seg_zero_multi': Convention(
        'Seg-Zero, evaluation_visionreasoner.py',
        ignored_are_meant=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.DROPPED,
        other_size=Outcome.DROPPED,
        empty_union=Outcome.DROPPED,
    ),
    'vision_reasoner': Convention(
        'VisionReasoner, evaluation_segmentation.py',
        ignored_are_meant=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.PENALISED,
        empty_union=Outcome.ZERO,
    ),
    'lisa': Convention(
        'LISA, train_ds.py',
        ignored_are_meant=False,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.PENALISED,
        empty_union=Outcome.ONE,
        epsilon=1e-5,
        sum_epsilon=1e-10,
    ),
}


class Scored(NamedTuple):
    """An item as a convention counts it."""

    item: Measurement
    intersection: int
    union: int
    iou: float


def score(items: Sequence[Measurement], convention: Convention) -> list[Scored]:
    """Return what a convention counts; samples that it drops, or without a mask, are left out."""
    scored = (_score(item, convention) for item in items)
    return [one for one in scored if one is not None]


def _score(item: Measurement, convention: Convention) -> Scored | None:
    overlap = item.whole if convention.ignored_are_meant else item.valid
    if overlap is None:
        return None
    fate = _fate(item, convention)
    if fate is Outcome.DROPPED:
        return None
    intersection, union = overlap.intersection, overlap.union
    if fate is Outcome.PENALISED:
        intersection, union = 0, overlap.true
    elif not union and convention.empty_union is Outcome.DROPPED:
        return None
    if not union:
        # "Nothing there" is right only where somebody said it.
        right = convention.empty_union is Outcome.ONE and item.failure is Failure.NONE
        return Scored(item, 0, 0, 1.0 if right else 0.0)
    return Scored(item, intersection, union, intersection / (union + convention.epsilon))


def _fate(item: Measurement, convention: Convention) -> Outcome | None:
    if item.failure is Failure.SEGMENTER:
        return convention.segmenter_failed
    if item.failure is not Failure.NONE:
        return convention.answer_failed
    return None if item.same_size else convention.other_size


def figures(items: Sequence[Measurement], convention: Convention) -> dict[str, float]:
    """Return a convention's figures, shares from 0 to 1, and how many samples they are about.

    Figures that the published scripts print are theirs to the last digit, also where they print 0
    for a share of nothing: look at the counts `with_box`, `without_target`, `counted` then.

    Returns:
        samples, scored, failed (of all), dropped, giou, ciou, bbox_ap (by the rule of before
        2025-08-29), bbox_ap_merged (by that since), with_box, point_accuracy (share of the
        predicted points that lie on the true mask; our own), points, words (mean length of the
        reasoning); with conventions that keep empty truths n_acc, without_target, giou_no_target
        (gIoU where nothing meant and nothing found is 1); with LISA's giou_meter; where objects
        are counted count_mae, count_rmse, count_accuracy, counted; where objects are told apart
        wrong_object. NaN for a mean of nothing.
    """
    masked = [item for item in items if item.whole is not None]
    scored = score(masked, convention)
    boxed = boxes_alone(items)
    found = {
        'samples': len(items),
        'scored': len(scored),
        'failed': sum(item.failure is not Failure.NONE for item in items),
        'dropped': len(masked) - len(scored),
        'giou': _mean([one.iou for one in scored]),
        'ciou': _ratio(scored, convention),
        **_box_figures([*(one.item for one in scored), *boxed]),
        'boxes_alone': len(boxed),
        **_point_figures(scored),
    }
    if convention.empty_union is not Outcome.DROPPED:
        found.update(_nothing_figures(scored))
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


def boxes_alone(items: Sequence[Measurement]) -> list[Measurement]:
    """Return the items whose truth is boxes without masks: they count in the bbox APs alone."""
    return [item for item in items if item.whole is None and item.true_boxes]


def _box_figures(items: Sequence[Measurement]) -> dict[str, float]:
    return {
        'bbox_ap': _share(sum(item.box_hit for item in items), len(items)),
        'bbox_ap_merged': _share(sum(item.box_hit_merged for item in items), len(items)),
        'with_box': sum(item.true_boxes > 0 for item in items),
    }


def _nothing_figures(scored: Sequence[Scored]) -> dict[str, float]:
    empty = [one.item.whole is not None and one.item.whole.true == 0 for one in scored]
    right = [
        nothing and one.item.same_size and not one.item.boxes and _said(one.item)
        for nothing, one in zip(empty, scored, strict=True)
    ]
    ious = [1.0 if found else one.iou for found, one in zip(right, scored, strict=True)]
    return {
        'n_acc': _share(sum(right), sum(empty)),
        'without_target': sum(empty),
        'giou_no_target': _mean(ious),
    }


def _said(item: Measurement) -> bool:
    """Return whether there is an answer; text that cannot be read has no box, as published."""
    return item.failure is not Failure.CRASH


def _point_figures(scored: Sequence[Scored]) -> dict[str, float]:
    points = sum(one.item.points for one in scored)
    right = sum(one.item.points_on_target for one in scored)
    return {'point_accuracy': _share(right, points), 'points': points}


def _count_figures(items: Sequence[Measurement]) -> dict[str, float]:
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
    items: Sequence[Measurement],
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
    drawn = {
        'giou': _resampled([(one.iou, 1) for one in scored], resamples, seed),
        'ciou': _resampled([(one.intersection, one.union) for one in scored], resamples, seed),
    }
    boxed = [*(one.item for one in scored), *boxes_alone(items)]
    for name in ('bbox_ap', 'bbox_ap_merged'):
        hits = [(float(getattr(item, name.replace('bbox_ap', 'box_hit'))), 1) for item in boxed]
        drawn[name] = _resampled(hits, resamples, seed)
    tail = 50 * (1 - level)
    return {name: _between(values, tail) for name, values in drawn.items() if values}


def _resampled(parts: Sequence[tuple[float, float]], resamples: int, seed: int) -> list[float]:
    """Return, for each resample, the sum of the parts' first over that of their second."""
    if not parts:
        return []
    rng = np.random.default_rng(seed)
    column = np.array(parts, np.float64)
    sums = (
        column[rng.integers(len(column), size=len(column))].sum(axis=0) for _ in range(resamples)
    )
    return [float(part / whole) if whole else 0.0 for part, whole in sums]


def _between(values: Sequence[float], tail: float) -> tuple[float, float]:
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)


def bootstrap(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval of a mean: percentiles over resamples; NaN of nothing."""
    if not values:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    column = np.array(values, np.float64)
    means = [
        float(column[rng.integers(len(column), size=len(column))].mean()) for _ in range(resamples)
    ]
    return _between(means, 50 * (1 - level))
