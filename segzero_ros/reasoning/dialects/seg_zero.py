"""Seg-Zero: one box with two points; decimals are cut off, then halves go to the even number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import json
import re
from typing import Any

from segzero_ros.reasoning.answers import Grammar, Scale, UNREADABLE
from segzero_ros.reasoning.dialects.base import (
    coordinates_schema,
    Dialect,
    grounded_object,
    lenient_object,
    QWEN_ARCHITECTURES,
    scaled,
    SQUARE,
    TAG_INSTRUCTION,
)
from segzero_ros.types import GroundedObject, Task

_THINK = re.compile(r'<think>([^<]+)</think>')


def _half_to_even(values: list[Any], scale: Scale) -> list[float]:
    return [float(round(int(value) * factor)) for value, factor in scaled(values, scale)]


def _single(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse the object as the published code does: any key that contains the name counts."""
    box = next((item[key] for key in item if 'bbox' in key.lower()), ())
    points = [item[key] for key in item if 'points' in key.lower()][:2]
    if len(box) != 4:
        raise ValueError('there is no box of four numbers')
    if len(points) != 2:
        raise ValueError('there are no two points')
    (x1, y1), (x2, y2) = ((point[0], point[1]) for point in points)
    return grounded_object(_half_to_even([*box, x1, y1, x2, y2], scale))


def _single_lenient(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse the object; the box is required, points are not."""
    try:
        return _single(item, scale)
    except UNREADABLE:
        found = lenient_object(item, lambda values: _half_to_even(values, scale))
    if found.box is None:
        raise KeyError('bbox')
    return replace(found, points=found.points[:2])


def _read_single(text: str, scale: Scale) -> list[GroundedObject]:
    found = _single(json.loads(_first_braces(text)), scale)
    if _THINK.search(text) is None:
        raise ValueError('there is no reasoning in <think> </think>')
    return [found]


def _first_braces(text: str) -> str:
    """Return the first match of `{[^}]+}`, found in linear time."""
    start = text.find('{')
    while start >= 0:
        end = text.find('}', start + 1)
        if end < 0:
            break
        if end > start + 1:
            return text[start : end + 1]
        start = text.find('{', end)
    raise ValueError('there is no {…}')


# Seg-Zero-7B, -Best-on-ReasonSegTest and 3B.
SEG_ZERO = Dialect(
    name='seg_zero',
    prompt_prefix="Please find '",
    prompt_suffix="' with bbox and points."
    'Compare the difference between objects and find the most closely matched one.'
    + TAG_INSTRUCTION
    + 'Output the one bbox and points of two largest inscribed circles inside the interested '
    'object in JSON format.'
    'i.e., <think> thinking process here </think>'
    "<answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>",
    grammar=Grammar(_read_single, _single_lenient, single=True),
    architectures=QWEN_ARCHITECTURES,
    strip_chars='.',
    lowercase=True,
    square=SQUARE,
    schema=coordinates_schema(bbox=4, points_1=2, points_2=2),
    tasks={Task.DETECT: None, Task.POINT: None},
)
