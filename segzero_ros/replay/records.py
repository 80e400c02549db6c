"""Answers as lines of JSON: `results.jsonl`, which the other outputs are made from.

A line does not depend on the machine's clock: the same bag and models give the same bytes.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from segzero_ros.replay.coco_rle import from_rle, to_rle
from segzero_ros.types import (
    Answer,
    Frame,
    Pose3D,
    PoseStatus,
    Query,
    Roi,
    Segment,
    SegZeroError,
    Status,
    Task,
    Timing,
)

# Statuses with displays, as in the node.
WITH_DISPLAYS = (Status.OK, Status.NOT_FOUND)


class BadRecord(SegZeroError):
    """A line of results cannot be read; the message quotes it."""


class Record(NamedTuple):
    """One answered query.

    Attributes:
        answer: without its frame, and without times of this machine.
        time_ns: time of the query, by the recorder's clock.
        stamp_ns: stamp of the image; None without an image.
        frame_id: of the image.
        size: (height, width) of the image; (0, 0) without one.
    """

    answer: Answer
    time_ns: int
    stamp_ns: int | None
    frame_id: str
    size: tuple[int, int]


def record_of(answer: Answer, time_ns: int) -> Record:
    """Return the record of an answer to a query at `time_ns`."""
    frame, timing = answer.frame, answer.timing
    reproducible = Timing(frame_age=timing.frame_age, generated_tokens=timing.generated_tokens)
    values = {name: getattr(answer, name) for name in Answer.__dataclass_fields__}
    bare = Answer(**{**values, 'frame': None, 'timing': reproducible})
    if frame is None:
        return Record(bare, time_ns, None, '', (0, 0))
    return Record(bare, time_ns, frame.stamp_ns, frame.frame_id, (frame.height, frame.width))


def with_frame(record: Record, frame: Frame | None) -> Answer:
    """Return the record's answer with a frame."""
    values = {name: getattr(record.answer, name) for name in Answer.__dataclass_fields__}
    return Answer(**{**values, 'frame': frame})


def to_line(record: Record) -> str:
    """Return the JSON line of a record, without its line end."""
    answer = record.answer
    line = {
        'time_ns': record.time_ns,
        'stamp_ns': record.stamp_ns,
        'frame_id': record.frame_id,
        'query_id': answer.query.id,
        'query': answer.query.text,
        'task': answer.task.name,
        'status': answer.status.name,
        'message': answer.message,
        'reasoning': answer.reasoning,
        'answer': answer.answer,
        'count': answer.count,
        'raw_answer': answer.raw_answer,
        'reasoner': answer.reasoner,
        'segmenter': answer.segmenter,
        'image_size': list(record.size),
        'objects': [_object(segment, record.size) for segment in answer.segments],
        'frame_age': _number(answer.timing.frame_age),
        'generated_tokens': answer.timing.generated_tokens,
    }
    # ASCII, because a model may write an incomplete character.
    return json.dumps(line, allow_nan=False)


def from_line(line: str) -> Record:
    """Return the record of a line.

    Raises:
        BadRecord: it is invalid.
    """
    try:
        fields = json.loads(line)
        height, width = fields['image_size']
        # Files of earlier releases have no tasks.
        task = Task[fields.get('task', Task.SEGMENT.name)]
        answer = Answer(
            query=Query(fields['query'], fields['query_id'], task),
            task=task,
            status=Status[fields['status']],
            message=fields['message'],
            reasoning=fields['reasoning'],
            answer=fields.get('answer', ''),
            count=fields.get('count'),
            raw_answer=fields['raw_answer'],
            segments=tuple(_segment(found) for found in fields['objects']),
            reasoner=fields['reasoner'],
            segmenter=fields['segmenter'],
            timing=Timing(
                frame_age=_or_nan(fields['frame_age']),
                generated_tokens=fields['generated_tokens'],
            ),
        )
        return Record(
            answer, fields['time_ns'], fields['stamp_ns'], fields['frame_id'], (height, width)
        )
    except (ValueError, LookupError, TypeError) as error:
        raise BadRecord(f'{line[:80]!r} … is not a valid line of results: {error!r}') from error


def _object(segment: Segment, size: tuple[int, int]) -> dict[str, Any]:
    pose = segment.pose
    return {
        'id': segment.id,
        'label': segment.label,
        'score': _number(segment.score),
        'box': list(map(int, segment.box)),
        'box_from_mask': segment.box_from_mask,
        'points': [[float(x), float(y)] for x, y in segment.points],
        'mask_roi': list(map(int, segment.mask_roi)),
        'mask': {'size': list(size), 'counts': to_rle(segment.full_mask(*size))},
        'pose_status': segment.pose_status.name,
        'pose': None
        if pose is None
        else {
            'position': list(map(float, pose.position)),
            'orientation': list(map(float, pose.orientation)),
            'size': list(map(float, pose.size)),
        },
    }


def _segment(found: dict[str, Any]) -> Segment:
    roi = Roi(*found['mask_roi'])
    height, width = found['mask']['size']
    pose = found['pose']
    return Segment(
        id=found['id'],
        label=found['label'],
        score=_or_nan(found['score']),
        box=Roi(*found['box']),
        box_from_mask=found.get('box_from_mask', False),
        points=tuple((x, y) for x, y in found['points']),
        mask_roi=roi,
        mask=from_rle(found['mask']['counts'], height, width)[roi.slices].copy(),
        pose=None
        if pose is None
        else Pose3D(tuple(pose['position']), tuple(pose['orientation']), tuple(pose['size'])),
        pose_status=PoseStatus[found['pose_status']],
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
