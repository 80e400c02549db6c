"""What small checkpoints answer in each dialect and task."""

from __future__ import annotations

from typing import Any

from segzero_ros.reasoning.dialects import DIALECTS
from segzero_ros.types import Task

THE_BOX, IS_IT_THERE = 'the red box', 'is there a red box?'


def task_pairs(make: Any, architecture: str) -> list[Any]:
    """Return pairs about one small scene: each dialect of an architecture, and each prompt.

    The queries are THE_BOX, for all tasks but `answer`, and IS_IT_THERE for that.

    Args:
        make: the module that makes small checkpoints.
        architecture: one of its ARCHITECTURES.
    """
    image = make.scene(160, 120, (40, 30, 80, 90, 'red'))
    square, thousandths = '[210, 210, 420, 630]', '[250, 250, 500, 750]'
    tagged = '<think>On the left.</think><answer>{}</answer>'
    fence = '```json\n[{}]\n```'
    boxes = {
        'vision_reasoner': tagged.format(f'[{{"bbox_2d": {square}, "point_2d": [315, 420]}}]'),
        'seg_zero': tagged.format(
            f'{{"bbox": {square}, "points_1": [315, 420], "points_2": [315, 525]}}'
        ),
        # An image of 160 by 120 is shown as 168 by 112.
        'qwen2_5_vl': fence.format('{"bbox_2d": [42, 28, 84, 84], "label": "box"}'),
        'qwen2_vl': fence.format(f'{{"bbox": {thousandths}, "label": "box"}}'),
        'embodied_r1_5': f'On the left. <answer>{{"boxes": {thousandths}}}</answer>',
    }
    points = {'embodied_r1_5': 'There. <answer>```json\n[{"point_2d": [375, 500]}]\n```</answer>'}
    fenced = fence.format(f'{{"bbox_2d": {thousandths}, "label": "box"}}')
    pointed = fence.format('{"point_2d": [375, 500], "label": "box"}')
    pairs = []
    for name, dialect in DIALECTS.items():
        if architecture not in dialect.architectures or dialect.recipe:
            continue
        pairs.append(make.Pair(image, THE_BOX, boxes.get(name, fenced), name))
        if dialect.tasks.get(Task.POINT):
            pairs.append(make.Pair(image, THE_BOX, points.get(name, pointed), name, Task.POINT))
        if Task.ANSWER in dialect.tasks:
            said = '<answer>Yes.</answer>' if name == 'embodied_r1_5' else 'Yes.'
            pairs.append(make.Pair(image, IS_IT_THERE, said, name, Task.ANSWER))
    return pairs
