"""Qwen3-VL, Instruct and Thinking, and Cosmos-Reason2: fenced boxes or points in thousandths.

They see 32 by 32 pixels as one token and answer in thousandths of the image's sides, so what they
say cannot be read as an answer of Qwen2.5-VL: boxes would look plausible and be off.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from segzero_ros.reasoning.answers import Grammar, Scale, UNREADABLE
from segzero_ros.reasoning.dialects.base import (
    Dialect,
    in_source,
    lenient_object,
    numbers,
    TaskFormat,
)
from segzero_ros.types import Box, GroundedObject, Point, Task

_BOXES, _POINTS = ('bbox_2d', 'bbox'), ('point_2d', 'point')
_FENCE = '```'

GRID_OF_32 = 32


def read_object(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse one entry: a box, a point, or both.

    Raises:
        TypeError, KeyError, ValueError: it has neither, or a box that is none.
    """
    boxes, points = ([item[key] for key in keys if key in item] for keys in (_BOXES, _POINTS))
    if not boxes and not points:
        raise KeyError(_BOXES[0])
    box: Box | None = None
    if boxes:
        x1, y1, x2, y2 = in_source(numbers(boxes[0], 4), scale)
        box = x1, y1, x2, y2
    label = item.get('label')
    return GroundedObject(
        box, _points(points, scale, needed=not boxes), label if isinstance(label, str) else ''
    )


def read_leniently(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse one entry as `read_object`; numbers may be text, and points or corners pairs."""
    return lenient_object(item, lambda values: in_source(values, scale))


def _points(given: list[Any], scale: Scale, *, needed: bool) -> tuple[Point, ...]:
    """Return the point; beside a box, one that cannot be read is left out."""
    if not given:
        return ()
    try:
        x, y = in_source(numbers(given[0], 2), scale)
    except UNREADABLE:
        if needed:
            raise
        return ()
    return ((x, y),)


def read_json(text: str, scale: Scale) -> list[GroundedObject]:
    """Parse the JSON in the first fence, or without a fence that at the text's end.

    Raises:
        TypeError, KeyError, ValueError: there is none, or an entry cannot be read.
    """
    return [read_object(item, scale) for item in entries(json.loads(unfenced(text)))]


def unfenced(text: str) -> str:
    """Return what stands in the first fence, or without one all from the first bracket on."""
    _, fence, body = text.partition(_FENCE)
    if fence:
        return body.partition(_FENCE)[0].strip().removeprefix('json')
    starts = [at for at in map(text.find, '[{') if at >= 0]
    if not starts:
        raise ValueError('there is no list')
    return text[min(starts) :].strip()


def entries(value: Any) -> list[Mapping[str, Any]]:
    """Return the entries of an answer: a list of them, one alone, or a list under a name.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, dict) and not any(key in value for key in (*_BOXES, *_POINTS)):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else None
    found = [value] if isinstance(value, dict) else value
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise TypeError('the answer is not a list of objects')
    return found


QWEN3_VL = Dialect(
    name='qwen3_vl',
    prompt_prefix='Locate every object that matches the description "',
    prompt_suffix='" in the image. Report bbox coordinates in JSON format.',
    grammar=Grammar(read_json, read_leniently, tagged=False, thinks=True),
    architectures=('qwen3_vl',),
    resampling='bicubic',
    frame='thousandths',
    # What a Thinking model needs; an answer of an Instruct model has a few hundred.
    max_new_tokens=2048,
    grid=GRID_OF_32,
    min_pixels=65_536,
    max_pixels=1280 * GRID_OF_32**2,
    tasks={
        Task.DETECT: None,
        Task.COUNT: None,
        Task.ANSWER: TaskFormat(),
        Task.POINT: TaskFormat(
            'Locate ',
            ' in this image. Output the point coordinates in JSON format.',
            Grammar(read_json, read_leniently, tagged=False, thinks=True),
        ),
    },
)
