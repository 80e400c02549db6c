"""What answers are worth: gIoU, cIoU, boxes, points, counts and "nothing there".

The same answers give different figures by different published procedures. `Convention` names what
they differ in; `CONVENTIONS` holds those of Seg-Zero's two scripts, VisionReasoner's and LISA's.
Imports `items` and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
import math
from typing import NamedTuple

import numpy as np

from segzero_ros.evaluation.items import Failure, Item


class Fate(Enum):
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
        2025-08-29), bbox_ap_merged (by that since), with_box, point_accuracy (share of the
        predicted points that lie on the true mask; our own), points, words (mean length of the
        reasoning); with conventions that keep empty truths n_acc, without_target, giou_no_target
        (gIoU where nothing meant and nothing found is 1); with LISA's giou_meter; where objects
        are counted count_mae, count_rmse, count_accuracy, counted; where objects are told apart
        wrong_object. NaN for a mean of nothing.
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
        **_point_figures(scored),
    }
    if convention.empty_union is not Fate.DROPPED:
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
