"""The profile `offline` does every task that it can about a simulated depth camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segzero_ros.ros.client import PerceptionClient
from segzero_ros.simulation import make_scene
from segzero_ros.types import Answer, Roi, Status, Task

CAMERA = Path(__file__).resolve().parents[2] / 'scripts' / 'camera_sim'
SCENE = make_scene(3)


@pytest.fixture(scope='module')
def client(node_process: Any) -> Any:
    camera = node_process(
        {'source': 'scene', 'item': 'scene_3'},
        script=CAMERA,
        arguments=['-r', '__ns:=/offline_tasks'],
    )
    node = node_process(profile='offline', arguments=['-r', '__ns:=/offline_tasks'])
    with PerceptionClient('offline_tasks') as client:
        assert client.wait_for_node(40.0) == 'active', node.output
        assert client.wait_for_image(40.0), camera.output
        yield client


def answer_to(client: Any, text: str, task: str) -> Answer:
    return client.ask(text, task=task).answer


def masks_of(kind: str) -> list[np.ndarray]:
    return [SCENE.mask(index) for index, item in enumerate(SCENE.objects) if item.kind == kind]


def test_what_is_there_is_counted(client: Any) -> None:
    answer = answer_to(client, 'how many mugs are there?', 'auto')
    assert (answer.status, answer.task) == (Status.OK, Task.COUNT)
    assert answer.count == len(masks_of('mug')) == len(answer.segments)


def test_yes_and_no_are_told_from_what_is_there(client: Any) -> None:
    assert answer_to(client, 'is there a bowl?', 'auto').answer.startswith('Yes')
    assert answer_to(client, 'is there a blue bowl?', 'auto').answer.startswith('No')


def test_what_a_thing_is_for_finds_the_things_that_serve(client: Any) -> None:
    answer = answer_to(client, 'something to drink from', 'segment')
    truth = np.logical_or.reduce(masks_of('mug'))
    found = np.logical_or.reduce([one.full_mask(*truth.shape) for one in answer.segments])
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    assert 'open at the top' in answer.reasoning


def test_a_place_to_put_something_is_a_point_on_what_holds_it(client: Any) -> None:
    answer = answer_to(client, 'where do I put the apple?', 'auto')
    assert answer.task is Task.POINT
    bowls = masks_of('bowl')
    assert len(answer.segments) == len(bowls)
    for segment in answer.segments:
        (x, y) = segment.points[0]
        assert any(bowl[int(y), int(x)] for bowl in bowls)
        assert segment.pose is not None
        assert not segment.mask.size


def test_a_candidate_is_chosen(client: Any) -> None:
    boxes = [Roi.around(mask) for mask in (*masks_of('bowl'), *masks_of('mug'))]
    reply = client.ask('both mugs', candidates=boxes)
    wanted = {Roi.around(mask) for mask in masks_of('mug')}
    assert {segment.box for segment in reply.answer.segments} == wanted
