"""Answered samples as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
import json
import math
from typing import Any

import numpy as np

from segzero_ros.evaluation.measurements import (
    Failure,
    innermost_point,
    measure,
    Measurement,
    Overlap,
    Prediction,
    wrong_object,
)
from segzero_ros.evaluation.samples import DataError, Sample
from segzero_ros.replay.coco_rle import to_rle
from segzero_ros.types import Answer, Box, GroundedObject, Mask, Point, Stage, Status, Task

_STAGES = ('reasoning', 'encoding', 'segmenting', 'total')


@dataclass(frozen=True)
class SampleRecord:
    """One answered sample.

    Attributes:
        index: in the data set.
        image_id: id of the image in the data set.
        ann_id: id of the annotation in the data set.
        text: the query.
        group: names of the groups that it belongs to in reports.
        status: of the answer.
        message: of the answer.
        reasoning: the reasoning text.
        raw_answer: the model's complete text.
        item: the measurements.
        boxes: the predicted boxes (x1, y1, x2, y2), unclipped; None for NaN and infinity.
        points: the predicted points.
        mask: the union of the predicted masks as COCO RLE; None after a failure.
        seconds: by stage.
        tokens: number of generated tokens.
        task: the name of what was asked.
        answer: the answer in words, for the task ANSWER.
        size: (width, height) of the image.
        category: id of the targets' category; empty without categories.
        true_boxes: the true boxes.
        crowds: boxes of crowds.
        points_from_masks: whether the points are the masks' innermost, as the model gave none.
    """

    index: int
    image_id: str
    ann_id: str
    text: str
    group: tuple[str, ...]
    status: Status
    message: str
    reasoning: str
    raw_answer: str
    item: Measurement
    boxes: tuple[tuple[float | None, ...], ...]
    points: tuple[tuple[float | None, ...], ...]
    mask: dict[str, Any] | None
    seconds: dict[str, float]
    tokens: int
    task: str = Task.SEGMENT.name
    answer: str = ''
    size: tuple[int, int] = (0, 0)
    category: str = ''
    true_boxes: tuple[Box, ...] = ()
    crowds: tuple[Box, ...] = ()
    points_from_masks: bool = False


def make_record(
    index: int,
    sample: Sample,
    answer: Answer,
    objects: list[GroundedObject],
    *,
    routed: bool = False,
) -> tuple[SampleRecord, Prediction]:
    """Measure an answer.

    Args:
        index: of the sample.
        sample: the sample.
        answer: the answer to it.
        objects: the reasoner's objects, before their boxes were clipped.
        routed: whether the router chose the task.
    """
    height, width = sample.image.shape[:2]
    failure = _failure(answer)
    # Objects that were generated before a failure do not count.
    valid = [] if failure in (Failure.ANSWER, Failure.CRASH) else objects
    boxes = tuple(found.box for found in valid if found.box is not None)
    points = tuple(point for found in valid for point in found.points)
    inner: tuple[Point, ...] = ()
    if sample.task is Task.POINT and not points and failure is Failure.NONE:
        inner = _innermost(answer, height, width)
    prediction = Prediction(
        mask=None if failure is not Failure.NONE else _union(answer, height, width),
        boxes=boxes,
        points=points or inner,
        failure=failure,
        words=len(answer.reasoning.split()),
        task=answer.task,
        # A router that chose a task without masks has missed the target.
        has_masks=answer.task is Task.SEGMENT or routed,
        count=len(valid) if answer.count is None and valid and not boxes else answer.count,
    )
    item = measure(sample, prediction)
    if sample.labels is not None and prediction.has_masks:
        wrong = wrong_object(_masks(answer, height, width), sample.labels, sample.targets)
        item = Measurement(**{**vars(item), 'wrong_object': wrong})
    row = SampleRecord(
        index=index,
        image_id=sample.image_id,
        ann_id=sample.ann_id,
        text=sample.text,
        group=sample.group,
        status=answer.status,
        message=answer.message,
        reasoning=answer.reasoning,
        raw_answer=answer.raw_answer,
        item=item,
        boxes=tuple(_numbers(box) for box in prediction.boxes),
        points=tuple(_numbers(point) for point in prediction.points),
        mask=_coded(prediction.mask),
        seconds={stage: getattr(answer.timing, stage) for stage in _STAGES},
        tokens=answer.timing.generated_tokens,
        task=answer.task.name,
        answer=answer.answer,
        size=(width, height),
        category=sample.category,
        true_boxes=sample.boxes,
        crowds=sample.crowds,
        points_from_masks=bool(inner),
    )
    return row, prediction


def _failure(answer: Answer) -> Failure:
    if answer.status in (Status.OK, Status.NOT_FOUND):
        return Failure.NONE
    if answer.failed_in is Stage.SEGMENTING:
        # Also if no box is usable: the published code passes them to the segmenter.
        return Failure.SEGMENTER
    return Failure.ANSWER if answer.status is Status.MALFORMED_ANSWER else Failure.CRASH


def _masks(answer: Answer, height: int, width: int) -> Iterator[Mask]:
    return (segment.full_mask(height, width) for segment in answer.segments)


def _union(answer: Answer, height: int, width: int) -> Mask:
    union = np.zeros((height, width), np.bool_)
    for mask in _masks(answer, height, width):
        union |= mask
    return union


def _innermost(answer: Answer, height: int, width: int) -> tuple[Point, ...]:
    points = (innermost_point(mask) for mask in _masks(answer, height, width))
    return tuple(point for point in points if point is not None)


def _numbers(values: tuple[float, ...]) -> tuple[float | None, ...]:
    return tuple(float(value) if math.isfinite(value) else None for value in values)


def _coded(mask: Mask | None) -> dict[str, Any] | None:
    return None if mask is None else {'size': list(mask.shape), 'counts': to_rle(mask)}


def to_line(row: SampleRecord) -> str:
    """Return the JSON line of a record, without its line end; ASCII, as models write any text."""
    return json.dumps({**asdict(row), 'status': row.status.name}, allow_nan=False)


def from_line(line: str) -> SampleRecord:
    """Return the record of a line; raise DataError if it is invalid."""
    try:
        fields = json.loads(line)
        item = fields['item']
        for name in ('whole', 'valid', 'distracted'):
            item[name] = None if item[name] is None else Overlap(*item[name])
        item['failure'] = Failure(item['failure'])
        fields['item'] = Measurement(**item)
        fields['status'] = Status[fields['status']]
        for name in ('boxes', 'points', 'true_boxes', 'crowds'):
            fields[name] = tuple(tuple(numbers) for numbers in fields[name])
        fields['group'] = tuple(fields['group'])
        fields['size'] = tuple(fields['size'])
        return SampleRecord(**fields)
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f'{line[:80]!r} … is not a valid line of results: {error!r}') from error
