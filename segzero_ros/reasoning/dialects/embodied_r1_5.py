"""Embodied-R1.5, a Qwen3-VL for robots: one box or points in thousandths, in `<answer>`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import json
from typing import Any

from segzero_ros.reasoning.answers import Grammar, Scale
from segzero_ros.reasoning.dialects.base import TaskFormat
from segzero_ros.reasoning.dialects.qwen3_vl import (
    entries,
    QWEN3_VL,
    read_leniently,
    read_object,
    unfenced,
)
from segzero_ros.types import GroundedObject, Task

_BOXES = 'boxes'

_INSTRUCTION = (
    '\nPlease answer this question based on the visual content.You FIRST think about the '
    'reasoning process as an internal monologue and then provide the final answer.At the end, '
    'you must output the final answer in the format:\n<answer><your_answer_here></answer>\n'
)
_BOX_SUFFIX = (
    "Please provide only the bounding box as JSON with key 'boxes' within the "
    '<answer>...</answer> tags.\nExample:\n<answer>{"boxes": [35, 227, 437, 932]}</answer>'
)
_POINT_SUFFIX = (
    'Please pointing to answer the question within the <answer>...</answer> tags.\nExample:\n'
    '<answer>```json\n[{"point_2d": [230, 138]}]\n```</answer>'
)


def _read(text: str, scale: Scale) -> list[GroundedObject]:
    _, start, rest = text.partition('<answer>')
    answer, end, _ = rest.partition('</answer>')
    if not start or not end:
        raise ValueError('there is no <answer> … </answer>')
    value = json.loads(unfenced(answer))
    items = [value] if isinstance(value, dict) and _BOXES in value else entries(value)
    return [found for item in items for found in _objects(item, scale)]


def _objects(item: Mapping[str, Any], scale: Scale) -> list[GroundedObject]:
    """Parse one entry: a point, or under `boxes` one flat list of four numbers, or several."""
    return [read_object(each, scale) for each in _split(item)]


def _split(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one entry for each box under `boxes`."""
    others = {key: value for key, value in item.items() if key != _BOXES}
    if _BOXES not in item:
        return [others]
    boxes = item[_BOXES]
    if not isinstance(boxes, list):
        raise TypeError('the boxes are not a list')
    if boxes and not (isinstance(boxes[0], list) and len(boxes[0]) != 2):
        boxes = [boxes]
    return [{'bbox_2d': box, **others} for box in boxes]


_GRAMMAR = Grammar(
    _read,
    read_leniently,
    tagged=True,
    thinks=True,
    begins=('<answer>', '```', '[', '{'),
    split=_split,
)

# It was taught one box or points; a list of boxes to count it was not.
EMBODIED_R1_5 = replace(
    QWEN3_VL,
    name='embodied_r1_5',
    prompt_prefix='',
    prompt_suffix=_INSTRUCTION + _BOX_SUFFIX,
    grammar=_GRAMMAR,
    tasks={
        Task.DETECT: None,
        Task.ANSWER: TaskFormat(prompt_suffix=_INSTRUCTION.rstrip()),
        Task.POINT: TaskFormat(prompt_suffix=_INSTRUCTION + _POINT_SUFFIX, grammar=_GRAMMAR),
    },
)
