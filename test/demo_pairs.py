"""The demo's questions as lessons: a small checkpoint can learn what they should be answered."""

from types import ModuleType
from typing import Any

from segzero_ros.cli.demo_questions import Question, QUESTIONS
from segzero_ros.ros.camera_sim.sources import open_source
from segzero_ros.simulation import make_scene
from segzero_ros.types import Box, Status


def demo_pairs(make_tiny_checkpoints: ModuleType) -> list[Any]:
    """Return a `Pair` for each of the demo's questions, with the boxes of what it means."""
    made = []
    for question in QUESTIONS:
        image = open_source(question.source, '').frame(question.item).image
        boxes = [tuple(map(round, box)) for box in _boxes(question)]
        answer = make_tiny_checkpoints.written(image, f'I look for: {question.text}.', *boxes)
        made.append(make_tiny_checkpoints.Pair(image, question.text, answer))
    return made


def _boxes(question: Question) -> tuple[Box, ...]:
    """Return the boxes drawn by hand, or those that are true of the generated scene."""
    if question.source == 'photograph' or question.status is not Status.OK:
        return question.boxes
    scene = make_scene(int(question.item.removeprefix('scene_')))
    targets = next(each.targets for each in scene.sentences if each.text == question.text)
    return tuple(scene.objects[index].box for index in targets)
