"""VisionReasoner: a list of boxes with one point each; halves are rounded up."""

from __future__ import annotations

from collections.abc import Mapping
import json
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
    TaskFormat,
)
from segzero_ros.types import GroundedObject, Task


def _half_up(values: list[Any], scale: Scale) -> list[float]:
    return [float(int(value * factor + 0.5)) for value, factor in scaled(values, scale)]


def _list_item(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse one entry as the published code does: the first four and two numbers count."""
    box, point = item['bbox_2d'], item['point_2d']
    return grounded_object(_half_up([box[0], box[1], box[2], box[3], point[0], point[1]], scale))


def _list_item_lenient(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse one entry: a box with a point, or one of them alone."""
    try:
        return _list_item(item, scale)
    except UNREADABLE:
        return lenient_object(item, lambda values: _half_up(values, scale))


def _read_list(text: str, scale: Scale) -> list[GroundedObject]:
    start = text.find('<answer>')
    end = text.find('</answer>', start + len('<answer>'))
    if start < 0 or end < 0:
        raise ValueError('there is no <answer> … </answer>')
    return [_list_item(item, scale) for item in json.loads(text[start + 8 : end].strip())]


LIST_GRAMMAR = Grammar(_read_list, _list_item_lenient)

# VisionReasoner-7B and checkpoints trained like it; the question is cleaned as in its evaluation.
VISION_REASONER = Dialect(
    name='vision_reasoner',
    prompt_prefix='Please find "',
    prompt_suffix='" with bboxs and points.'
    'Compare the difference between object(s) and find the most closely matched object(s).'
    + TAG_INSTRUCTION
    + 'Output the bbox(es) and point(s) inside the interested object(s) in JSON format.'
    'i.e., <think> thinking process here </think>'
    '<answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
    '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>',
    grammar=LIST_GRAMMAR,
    architectures=QWEN_ARCHITECTURES,
    strip_chars='."?!',
    lowercase=True,
    square=SQUARE,
    schema={'type': 'array', 'items': coordinates_schema(bbox_2d=4, point_2d=2)},
    # Its published code detects, counts and segments with one prompt, and asks in bare words.
    tasks={Task.DETECT: None, Task.COUNT: None, Task.POINT: None, Task.ANSWER: TaskFormat()},
)
