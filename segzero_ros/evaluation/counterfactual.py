"""HalluSegBench's figures: what a model marks that is not in the image.

Each pair has an image, an edited one in which an object was exchanged, and the labels of both
objects. Asking for a label of the other image is asking for nothing: NOT_FOUND is right.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from segzero_ros.evaluation.image_files import COUNTERFACTUAL, FACTUAL, pair_group
from segzero_ros.evaluation.measurements import Overlap
from segzero_ros.evaluation.metrics import CONVENTIONS, score
from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.types import Status

# Weight of the pixels on the object in the confusion mask score.
_ALPHA = 3


def counterfactual_figures(rows: Sequence[SampleRecord]) -> dict[str, float]:
    """Return the figures of the published scripts, and how often NOT_FOUND was right.

    Answers that failed have IoU 0 where something is meant, and are left out where nothing is, as
    they have marked nothing; they are not right there.

    Returns:
        iou_factual, iou_counterfactual (each label in its own image); delta_iou_textual and
        delta_iou_visual (iou_factual minus the IoU of what the other label marks, and minus that
        of what the label marks in the edited image); confusion_factual and
        confusion_counterfactual (confusion mask scores in each image); not_found_factual and
        not_found_counterfactual (share of the questions about nothing in each image that were
        answered NOT_FOUND); asked_for_nothing. NaN for an empty mean.
    """
    by_kind = {
        (label, image): [row for row in rows if pair_group(label, image) in row.group]
        for label in (FACTUAL, COUNTERFACTUAL)
        for image in (FACTUAL, COUNTERFACTUAL)
    }
    own = {kind: _mean_iou(by_kind[kind, kind]) for kind in (FACTUAL, COUNTERFACTUAL)}
    textual = by_kind[COUNTERFACTUAL, FACTUAL]
    visual = by_kind[FACTUAL, COUNTERFACTUAL]
    return {
        'iou_factual': own[FACTUAL],
        'iou_counterfactual': own[COUNTERFACTUAL],
        'delta_iou_textual': own[FACTUAL] - _mean(_distracted_ious(textual)),
        'delta_iou_visual': own[FACTUAL] - _mean(_distracted_ious(visual)),
        'confusion_factual': _mean(_confusions(textual)),
        'confusion_counterfactual': _mean(_confusions(visual)),
        'not_found_factual': _not_found(textual),
        'not_found_counterfactual': _not_found(visual),
        'asked_for_nothing': len(textual) + len(visual),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _mean_iou(rows: Sequence[SampleRecord]) -> float:
    items = [row.item for row in rows]
    return _mean([one.iou for one in score(items, CONVENTIONS['vision_reasoner'])])


def _distracted(rows: Sequence[SampleRecord]) -> list[Overlap]:
    return [row.item.distracted for row in rows if row.item.distracted is not None]


def _distracted_ious(rows: Sequence[SampleRecord]) -> list[float]:
    return [one.intersection / one.union if one.union else 0.0 for one in _distracted(rows)]


def _confusions(rows: Sequence[SampleRecord]) -> list[float]:
    """Return the confusion mask scores: pixels on the object count three times those beside it."""
    return [
        (_ALPHA * one.intersection + one.union - one.true) / (_ALPHA * one.true)
        if one.true
        else 0.0
        for one in _distracted(rows)
    ]


def _not_found(rows: Sequence[SampleRecord]) -> float:
    return _mean([float(row.status is Status.NOT_FOUND) for row in rows])
