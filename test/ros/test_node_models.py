"""Small checkpoints of every architecture, with every segmenter and task, in the real node."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Task


class Models(NamedTuple):
    """A dialect, the fixture of its checkpoint, and a segmenter with the fixture of its own."""

    dialect: str
    reasoner: str
    segmenter: str
    masks: str = ''


MODELS = (
    Models('vision_reasoner', 'tiny_qwen2_5_vl', 'sam2', 'tiny_sam2'),
    Models('vision_reasoner', 'tiny_qwen2_vl', 'grabcut'),
    Models('qwen3_vl', 'tiny_qwen3_vl', 'sam3', 'tiny_sam3'),
    Models('qwen3_5', 'tiny_qwen3_5', 'sam2', 'tiny_sam2'),
)


@pytest.fixture(scope='module')
def node(node_process):
    return node_process(
        {'autostart': False, 'device': 'cpu', 'offline': True, 'limits.answer_time': 0.0},
        profile='robot',
        arguments=['-r', '__ns:=/models'],
        environment={'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'},
    )


@pytest.fixture(scope='module')
def client(node, new_client):
    client = new_client('/models')
    client.wait_for_server()
    return client


def pairs_of(make: Any, models: Models) -> list[Any]:
    if models.dialect == 'vision_reasoner':
        return list(make.example_pairs())
    return list(make.qwen3_pairs(models.dialect))


# The small models are trained on the spot.
@pytest.mark.timeout(900)
@pytest.mark.parametrize('models', MODELS, ids=lambda models: models.reasoner)
def test_every_task_comes_from_parameters_to_the_published_message(
    node, client, make_tiny_checkpoints, as_image_message, request, models
) -> None:
    dialect = dialect_named(models.dialect)
    parameters = {
        'reasoner.model': str(request.getfixturevalue(models.reasoner)),
        'reasoner.dialect': models.dialect,
        'reasoner.max_new_tokens': 160,
        'segmenter.backend': models.segmenter,
    }
    if models.masks:
        parameters['segmenter.model'] = str(request.getfixturevalue(models.masks))
    for name, value in parameters.items():
        assert client.set_parameter(name, value) == (True, '')
    assert client.transition('configure', 240), node.output[-2000:]
    assert client.transition('activate')
    pair = pairs_of(make_tiny_checkpoints, models)[0]
    height, width = pair.image.shape[:2]
    expected = dialect.parse(pair.answer, width, height).objects
    for task in Task:
        ask = SegmentOnce.Request(
            query=pair.query, task=task.name.lower(), image=as_image_message(pair.image)
        )
        result = client.call(SegmentOnce, 'segment_once', ask, 240).result
        assert result.task == task
        if task not in (Task.SEGMENT, *dialect.tasks):
            assert result.status == Result.REJECTED
            assert f'cannot do the task {task.name.lower()!r}' in result.message
            continue
        if dialect.for_task(task).prompt(pair.query) != dialect.prompt(pair.query):
            # The model never learnt this prompt: whatever it writes, the node does not fail.
            assert result.status in (Result.OK, Result.NOT_FOUND, Result.MALFORMED_ANSWER)
            assert result.raw_answer
            assert bool(result.answer) == (task is Task.ANSWER and result.status == Result.OK)
            continue
        assert result.status == Result.OK, result.message
        assert result.raw_answer == pair.answer
        assert len(result.objects) == len(expected)
        assert result.count == (len(expected) if task is Task.COUNT else -1)
        for found, grounded in zip(result.objects, expected, strict=True):
            assert found.bbox.x_offset == round(grounded.box[0])
            assert [(point.x, point.y) for point in found.points] == list(grounded.points)
            assert bool(len(found.mask.data)) == (found.mask_roi.width > 0)
            assert task is Task.SEGMENT or not len(found.mask.data)
    published = client.results.wait_for(lambda result: result.query == pair.query)
    assert published.reasoner == parameters['reasoner.model']
    assert client.transition('deactivate')
    assert client.transition('cleanup', 60)
    client.results.forget()
