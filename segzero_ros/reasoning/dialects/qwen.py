"""Qwen2.5-VL and Qwen2-VL as published: a fenced list of labelled boxes; decimals are cut off."""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from segzero_ros.reasoning.answers import Grammar, Scale
from segzero_ros.reasoning.dialects.base import (
    Dialect,
    grounded_object,
    lenient_object,
    number,
    pair,
    scaled,
    TaskFormat,
)
from segzero_ros.types import GroundedObject, Task


def _truncated(values: list[Any], scale: Scale) -> list[float]:
    return [float(int(value * factor)) for value, factor in scaled(values, scale)]


def _labelled_box(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    box = item['bbox'] if 'bbox' in item else item['bbox_2d']
    point = item.get('point', item.get('point_2d', []))
    return grounded_object(
        _truncated([*_four_numbers(box), *pair(point)], scale), item.get('label')
    )


def _lenient(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Parse one entry: a box, points or both."""
    return lenient_object(item, lambda values: _truncated(values, scale))


def _four_numbers(values: Any) -> list[Any]:
    if len(values) != 4:
        raise ValueError(f'a box of {len(values)} numbers')
    return [number(value) for value in values]


def _read_fenced(text: str, scale: Scale) -> list[GroundedObject]:
    """Parse the list as the published baseline does: a json fence, else up to the first `]`."""
    start = text.find('```json')
    end = text.find('```', start + 7)
    if start >= 0 and end >= 0:
        items = json.loads(text[start + 7 : end].strip())
    else:
        start = text.find('[')
        end = text.find(']', start)
        if start < 0 or end < 0:
            raise ValueError('there is no list')
        items = json.loads(text[start : end + 1])
    if not isinstance(items, list):
        raise TypeError('the answer is not a list')
    found = [_labelled_box(item, scale) for item in items if 'bbox' in item or 'bbox_2d' in item]
    if items and not found:
        raise ValueError('there is no box in the list')
    return found


_GRAMMAR = Grammar(_read_fenced, _lenient, tagged=False)

_TASKS = {Task.DETECT: None, Task.COUNT: None, Task.ANSWER: TaskFormat()}

# The published baseline takes the boxes for source pixels; here they are scaled from the resized
# image, in which the model answers.
QWEN2_5_VL = Dialect(
    name='qwen2_5_vl',
    prompt_prefix='Locate "',
    prompt_suffix='", report the bboxes coordinates in JSON format.',
    grammar=_GRAMMAR,
    architectures=('qwen2_5_vl',),
    resampling='bicubic',
    tasks=_TASKS,
)
# Qwen2-VL answers in thousandths of the image's sides.
QWEN2_VL = Dialect(
    name='qwen2_vl',
    prompt_prefix='Please identify "',
    prompt_suffix='" in the image. \n'
    'Return a JSON array where each object is represented as:\n'
    '{"bbox": [x1, y1, x2, y2], "label": label}\n\n'
    'Your response should be formatted as:\n'
    '```json\n[\n    {"bbox": [x1, y1, x2, y2], "label": label},\n    ...\n]\n```',
    grammar=_GRAMMAR,
    architectures=('qwen2_vl',),
    resampling='bicubic',
    frame='thousandths',
    tasks=_TASKS,
)
