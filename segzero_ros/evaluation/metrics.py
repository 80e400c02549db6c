"""Metrics: gIoU, cIoU, box AP, point accuracy, counts and "no target" accuracy.

Published procedures give different figures for the same answers. `Convention` holds what they
differ in; `CONVENTIONS` has those of Seg-Zero's two scripts, VisionReasoner's, LISA's and
ConverSeg's.
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
    """How a convention counts a sample that could not be compared."""

    PENALISED = 'penalised'  # intersection 0, union the true area
    DROPPED = 'dropped'  # not counted
    ZERO = 'zero'  # IoU 0
    ONE = 'one'  # IoU 1


@dataclass(frozen=True)
class Convention:
    """A published evaluation procedure.

    Attributes:
        source: the published script.
        ignored_are_target: ignored pixels are part of the target, else they are not counted.
        answer_failed: how an unparsable answer counts.
        segmenter_failed: how a sample counts whose boxes gave no mask.
        other_size: how masks of different sizes count.
        empty_union: how an empty true mask with an empty answer counts.
        epsilon: added to each union.
        sum_epsilon: added to the sum of unions.
    """

    source: str
    ignored_are_target: bool
    answer_failed: Outcome
    segmenter_failed: Outcome
    other_size: Outcome
    empty_union: Outcome
    epsilon: float = 0.0
    sum_epsilon: float = 0.0


CONVENTIONS = {
    'seg_zero': Convention(
        'Seg-Zero, evaluation.py',
        ignored_are_target=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.DROPPED,
        empty_union=Outcome.DROPPED,
    ),
    'seg_zero_multi': Convention(
        'Seg-Zero, evaluation_visionreasoner.py',
        ignored_are_target=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.DROPPED,
        other_size=Outcome.DROPPED,
        empty_union=Outcome.DROPPED,
    ),
    'vision_reasoner': Convention(
        'VisionReasoner, evaluation_segmentation.py',
        ignored_are_target=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.PENALISED,
        empty_union=Outcome.ZERO,
    ),
    'lisa': Convention(
        'LISA, train_ds.py',
        ignored_are_target=False,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.PENALISED,
        empty_union=Outcome.ONE,
        epsilon=1e-5,
        sum_epsilon=1e-10,
    ),
    'converseg': Convention(
        'ConverSeg, eval.py',
        ignored_are_target=True,
        answer_failed=Outcome.PENALISED,
        segmenter_failed=Outcome.PENALISED,
        other_size=Outcome.PENALISED,
        empty_union=Outcome.ONE,
    ),
}


class Scored(NamedTuple):
    """A measurement as counted by a convention."""

    item: Measurement
    intersection: int
    union: int
    iou: float


def score(items: Sequence[Measurement], convention: Convention) -> list[Scored]:
    """Return the scores of samples; those without a mask, or that it drops, are omitted."""
    scored = (_score(item, convention) for item in items)
    return [one for one in scored if one is not None]


def _score(item: Measurement, convention: Convention) -> Scored | None:
    overlap = item.whole if convention.ignored_are_target else item.valid
    if overlap is None:
        return None
    outcome = _outcome(item, convention)
    if outcome is Outcome.DROPPED:
        return None
    intersection, union = overlap.intersection, overlap.union
    if outcome is Outcome.PENALISED:
        intersection, union = 0, overlap.true
    elif not union and convention.empty_union is Outcome.DROPPED:
        return None
    if not union:
        # An empty answer is correct only if it is no failure.
        right = convention.empty_union is Outcome.ONE and item.failure is Failure.NONE
        return Scored(item, 0, 0, 1.0 if right else 0.0)
    return Scored(item, intersection, union, intersection / (union + convention.epsilon))


def _outcome(item: Measurement, convention: Convention) -> Outcome | None:
    if item.failure is Failure.SEGMENTER:
        return convention.segmenter_failed
    if item.failure is not Failure.NONE:
        return convention.answer_failed
    return None if item.same_size else convention.other_size


def figures(items: Sequence[Measurement], convention: Convention) -> dict[str, float]:
    """Return a convention's figures, fractions from 0 to 1, and the numbers of samples.

    The figures equal those of the published scripts to the last digit. These print 0 for the
    fraction of an empty set: check the counts `with_box`, `without_target` and `counted`.

    Returns:
        samples, scored, failed (of all), dropped, giou, ciou, bbox_ap (rule before 2025-08-29),
        bbox_ap_merged (rule since then), with_box, point_accuracy (fraction of the predicted
        points on the true mask; not published), points, words (mean length of the reasoning);
        predicted_boxes; with true boxes box_iou (mean IoU of the first predicted box);
        with conventions that keep empty truths n_acc, without_target, giou_no_target (an empty
        answer without a target has gIoU 1); with LISA's convention giou_meter; with counted
        objects count_mae, count_rmse, count_accuracy, counted; with instance labels wrong_object.
        NaN for an empty mean.
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
        'predicted_boxes': sum(item.boxes for item in items),
        **_point_figures(scored),
    }
    if convention.empty_union is not Outcome.DROPPED:
        found.update(_empty_figures(scored))
    if convention.epsilon:
        # LISA's meter divides by n + 1e-5 when it reduces over its processes.
        found['giou_meter'] = float(np.sum([one.iou for one in scored])) / (len(scored) + 1e-5)
    ious = [item.box_iou for item in items if item.box_iou is not None]
    if ious:
        found['box_iou'] = _mean(ious)
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
    """Return the measurements with true boxes but no true mask, which count only in bbox AP."""
    return [item for item in items if item.whole is None and item.true_boxes]


def _box_figures(items: Sequence[Measurement]) -> dict[str, float]:
    return {
        'bbox_ap': _share(sum(item.box_hit for item in items), len(items)),
        'bbox_ap_merged': _share(sum(item.box_hit_merged for item in items), len(items)),
        'with_box': sum(item.true_boxes > 0 for item in items),
    }


def _empty_figures(scored: Sequence[Scored]) -> dict[str, float]:
    empty = [one.item.whole is not None and one.item.whole.true == 0 for one in scored]
    right = [
        is_empty and one.item.same_size and not _has_objects(one.item) and _has_answer(one.item)
        for is_empty, one in zip(empty, scored, strict=True)
    ]
    ious = [1.0 if found else one.iou for found, one in zip(right, scored, strict=True)]
    return {
        'n_acc': _share(sum(right), sum(empty)),
        'without_target': sum(empty),
        'giou_no_target': _mean(ious),
    }


def _has_objects(item: Measurement) -> bool:
    """Return whether the answer has objects; some models give points without boxes."""
    return bool(item.boxes or item.points)


def _has_answer(item: Measurement) -> bool:
    """Return whether there is an answer; an unparsable one counts as empty, as published."""
    return item.failure is not Failure.CRASH


def _point_figures(scored: Sequence[Scored]) -> dict[str, float]:
    points = sum(one.item.points for one in scored)
    right = sum(one.item.points_on_target for one in scored)
    return {'point_accuracy': _share(right, points), 'points': points}


def _count_figures(items: Sequence[Measurement]) -> dict[str, float]:
    # In the published script a crash counts as 1, an unparsable answer as 0.
    errors = [_counted(item) - item.count for item in items if item.count is not None]
    if not errors:
        return {}
    return {
        'count_mae': _mean([abs(error) for error in errors]),
        'count_rmse': math.sqrt(_mean([error * error for error in errors])),
        'count_accuracy': _mean([error == 0 for error in errors]),
        'counted': len(errors),
    }


def _counted(item: Measurement) -> int:
    if item.failure is Failure.CRASH:
        return 1
    return item.boxes if item.answered_count is None else item.answered_count


class PointScore(NamedTuple):
    """The points metric: the mean, over samples, of the share of points on the target.

    Attributes:
        samples: number of samples.
        unreadable: how many answers cannot be read.
        left_out: the mean without those; NaN without any other.
        left_out_between: its 95 % bootstrap interval.
        counted: the mean with those as 0.
        counted_between: its 95 % bootstrap interval.
    """

    samples: int
    unreadable: int
    left_out: float
    left_out_between: tuple[float, float]
    counted: float
    counted_between: tuple[float, float]


def point_score(items: Sequence[Measurement]) -> PointScore:
    """Return the points metric, with both denominators that are in use.

    RoboRefer's and FlagEval's scripts leave an answer out that cannot be read; others count it as
    0. An answer in which nothing is found, and one that never came, count as 0 in both.
    """
    pointed = [item for item in items if item.is_pointed]
    shares = [_share(item.points_on_target, item.points) for item in pointed]
    read = [
        share
        for item, share in zip(pointed, shares, strict=True)
        if item.failure is not Failure.ANSWER
    ]
    return PointScore(
        samples=len(pointed),
        unreadable=len(pointed) - len(read),
        left_out=_mean(read),
        left_out_between=bootstrap(read),
        counted=_mean(shares),
        counted_between=bootstrap(shares),
    )


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
        convention: how they are counted.
        level: fraction of the resamples inside an interval.
        resamples: number of resamples, each with replacement and as large as the scored samples.
        seed: of the random generator.
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
    """Return, for each resample, the sum of the first values over the sum of the second."""
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
    """Return the bootstrap interval of a mean; NaN for no values. See `intervals`."""
    if not values:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    column = np.array(values, np.float64)
    means = [
        float(column[rng.integers(len(column), size=len(column))].mean()) for _ in range(resamples)
    ]
    return _between(means, 50 * (1 - level))
