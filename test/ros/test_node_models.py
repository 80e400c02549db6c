"""Every dialect with every segmenter and task, from launch arguments to the published message.

Small checkpoints of each architecture run in the node; served dialects are behind a real HTTP
server. What the launch file hands on as parameters is set by its own table.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scripted_server import DONE, piece, pieces_of, Request, running, usage
from task_pairs import IS_IT_THERE, task_pairs, THE_BOX

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.reasoning.dialects import Dialect, dialect_named, DIALECTS
from segzero_ros.reasoning.router import route_by_rules
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Task

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'perception.launch.py'
ARCHITECTURES = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'qwen3_5')
SEGMENTERS = {'sam2': 'tiny_sam2', 'sam3': 'tiny_sam3', 'grabcut': ''}
# `mini` has a checkpoint of its own, and no architecture a Molmo 2.
IN_PROCESS = tuple(
    (architecture, dialect.name, segmenter)
    for architecture in ARCHITECTURES
    for dialect in DIALECTS.values()
    if architecture in dialect.architectures and not dialect.recipe
    for segmenter in SEGMENTERS
)
POINTING = ('molmo2', 'embodied_r1_5')
SERVED = tuple(
    (name, segmenter)
    for name, dialect in DIALECTS.items()
    if not dialect.recipe
    for segmenter in (SEGMENTERS if name in POINTING else ('grabcut',))
)
# Of the red box, which all models give: x, y, width and height, and a point.
BOX, POINT = (40, 30, 40, 60), (60.0, 60.0)
# A text model beside them, which takes every query for a count.
ROUTER = 'TaskRouter-1.5B'
TASKS = (*(task.name.lower() for task in Task), 'auto', '')


class Said(NamedTuple):
    """What a model writes in reply to a prompt."""

    prompt: str
    answer: str


def launched(**arguments: str) -> dict[str, str]:
    """Return the parameters that the launch file makes of its arguments."""
    for node in ast.parse(LAUNCH_FILE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'TEXT_PARAMETERS':
            names = ast.literal_eval(node.value)
    return {names[argument]: text for argument, text in arguments.items() if text}


def test_all_dialects_and_segmenters_are_asked() -> None:
    assert {name for _, name, _ in IN_PROCESS} | {name for name, _ in SERVED} == set(DIALECTS) - {
        'mini'
    }
    assert len(IN_PROCESS) == 27


@pytest.fixture(scope='module')
def scene(make_tiny_checkpoints: Any) -> Any:
    """The image that all models are asked about."""
    return task_pairs(make_tiny_checkpoints, 'qwen3_5')[0].image


class Asking:
    """One node with one pair of models, asked for every task."""

    def __init__(self, client: Any, image: Any, dialect: Dialect, said: list[Said]):
        self.client = client
        self.image = image
        self.dialect = dialect
        self.answers = dict(said)

    def reload(self, node: Any, parameters: dict[str, Any]) -> None:
        """Load the models that the parameters name."""
        for name, value in parameters.items():
            assert self.client.set_parameter(name, value) == (True, '')
        assert self.client.transition('configure', 240), node.output[-2000:]
        assert self.client.transition('activate')

    def ask_for(self, name: str) -> Any:
        """Ask for a task by its name; check the answer, and that the same is published."""
        query = IS_IT_THERE if name == 'answer' else THE_BOX
        result = self.call(query, name)
        task = route_by_rules(query) if name == 'auto' else Task[(name or 'segment').upper()]
        self._check(result, query, task)
        return result

    def ask_what_the_router_answers_in_words(self) -> None:
        """Ask for `auto` with a question for words."""
        result = self.call(IS_IT_THERE, 'auto')
        self._check(result, IS_IT_THERE, Task.ANSWER)

    def call(self, query: str, task: str) -> Any:
        """Ask, and return the published result; it is the response's."""
        ask = SegmentOnce.Request(query=query, task=task, image=self.image)
        result = self.client.call(SegmentOnce, 'segment_once', ask, 240).result
        published = self.client.results.wait_for(lambda each: each.query_id == result.query_id)
        for field in ('query', 'task', 'status', 'message', 'answer', 'count', 'raw_answer'):
            assert getattr(published, field) == getattr(result, field)
        assert [each.mask for each in published.objects] == [each.mask for each in result.objects]
        return published

    def _check(self, result: Any, query: str, task: Task) -> None:
        assert result.task == task
        if task is not Task.SEGMENT and task not in self.dialect.tasks:
            assert result.status == Result.REJECTED
            assert f'cannot do the task {task.name.lower()!r}' in result.message
            return
        form = self.dialect.for_task(task)
        answer = self.answers[form.prompt(query)]
        assert (result.status, result.raw_answer) == (Result.OK, answer), result.message
        if task is Task.ANSWER:
            assert result.answer == 'Yes.' and not result.objects and result.count == -1
            return
        expected = form.parse(answer, result.image_width, result.image_height).objects
        assert result.answer == '' and len(result.objects) == len(expected) > 0
        assert result.count == (len(expected) if task is Task.COUNT else -1)
        for found, grounded in zip(result.objects, expected, strict=True):
            points = [(point.x, point.y) for point in found.points]
            assert points == [pytest.approx(point, abs=0.01) for point in grounded.points]
            has_mask = len(found.mask.data) > 0
            assert has_mask == (found.mask_roi.width > 0)
            assert task is Task.SEGMENT or not has_mask
            # Masks of random weights may be empty.
            assert found.bbox_from_mask == (grounded.box is None)
            if grounded.box is not None:
                box = found.bbox
                assert (box.x_offset, box.y_offset, box.width, box.height) == BOX
            else:
                assert points == [POINT]
                assert found.bbox == found.mask_roi or not has_mask


@pytest.fixture(scope='module')
def start(
    node_process: Any,
    new_client: Any,
    as_image_message: Any,
    scene: Any,
) -> Callable[..., Any]:
    """Give what starts a node as the launch file does, and what asks it."""

    def started(namespace: str, profile: str, own: dict[str, Any], **arguments: str) -> Any:
        node = node_process(
            own | launched(**arguments),
            profile=profile,
            arguments=['-r', f'__ns:=/{namespace}'],
            environment={'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'},
        )
        client = new_client(f'/{namespace}')
        client.wait_for_server()
        image = as_image_message(scene)
        return node, lambda dialect, said: Asking(client, image, dialect, said)

    return started


@pytest.fixture(scope='module')
def in_process(start: Callable[..., Any]) -> Any:
    own = {'autostart': False, 'offline': True, 'limits.answer_time': 0.0}
    return start('models', 'robot', own | {'reasoner.max_new_tokens': 160}, device='cpu')


def masks_of(request: Any, segmenter: str) -> str:
    """Return the path of a segmenter's checkpoint; empty if it needs none."""
    fixture = SEGMENTERS[segmenter]
    return str(request.getfixturevalue(fixture)) if fixture else ''


def parameters_of(dialect: str, segmenter: str, reasoner: str, masks: str) -> dict[str, Any]:
    given = launched(reasoner_model=reasoner, segmenter_model=masks)
    return {'reasoner.dialect': dialect, 'segmenter.backend': segmenter, **given}


def ask_for_every_task(asking: Asking, reasoner: str, segmenter: str) -> None:
    for name in TASKS:
        result = asking.ask_for(name)
        assert (result.reasoner, result.segmenter) == (reasoner, segmenter)
    asking.ask_what_the_router_answers_in_words()
    assert asking.client.transition('deactivate')
    assert asking.client.transition('cleanup', 60)
    asking.client.results.forget()


# The small models are trained on the spot.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(('architecture', 'name', 'segmenter'), IN_PROCESS)
def test_every_task_comes_from_parameters_to_the_published_message(
    in_process: Any,
    tiny_of_tasks: Callable[[str], Path],
    make_tiny_checkpoints: Any,
    request: Any,
    architecture: str,
    name: str,
    segmenter: str,
) -> None:
    node, asking_of = in_process
    folder = str(tiny_of_tasks(architecture))
    pairs = task_pairs(make_tiny_checkpoints, architecture)
    said = [Said(pair.prompt, pair.answer) for pair in pairs if pair.dialect == name]
    asking = asking_of(dialect_named(name), said)
    masks = masks_of(request, segmenter)
    asking.reload(node, parameters_of(name, segmenter, folder, masks))
    ask_for_every_task(asking, folder, Path(masks).name or segmenter)


@pytest.fixture(scope='module')
def served_answers(make_tiny_checkpoints: Any) -> dict[str, list[Said]]:
    """What the served model of each dialect writes."""
    make = make_tiny_checkpoints
    molmo2 = dialect_named('molmo2')
    answers = {
        'molmo2': [
            Said(molmo2.prompt(THE_BOX), '<points coords="1 1 375 500">box</points>'),
            Said(molmo2.for_task(Task.ANSWER).prompt(IS_IT_THERE), 'Yes.'),
        ]
    }
    for architecture in ARCHITECTURES:
        for pair in task_pairs(make, architecture):
            answers.setdefault(pair.dialect, []).append(Said(pair.prompt, pair.answer))
    return answers


@pytest.fixture(scope='module')
def served(start: Callable[..., Any], served_answers: dict[str, list[Said]]) -> Iterator[Any]:
    """Give a node of the profile `remote`, and a server with a model for each dialect."""

    def charge(request: Request) -> int:
        cell = dialect_named(request.body['model']).grid
        width, height = request.image_size()
        return 100 + round(width / cell) * round(height / cell)

    def answer(request: Request) -> None:
        if request.body['model'] == ROUTER:
            request.stream([*pieces_of('It asks how many.\n#### 2'), piece(finish='stop'), DONE])
            return
        prompt = request.body['messages'][0]['content'][1]['text']
        text = dict(served_answers[request.body['model']])[prompt]
        counted = piece(choices=[], usage=usage(charge(request)))
        request.stream([*pieces_of(text), piece(finish='stop'), counted, DONE])

    with running() as server:
        entries = [
            {'id': name, 'object': 'model', 'created': 0} for name in (*served_answers, ROUTER)
        ]
        server.listing = lambda request: request.reply(200, {'object': 'list', 'data': entries})
        server.answer = answer
        server.count = lambda request: request.charge(charge(request))
        node, asking_of = start(
            'served',
            'remote',
            {'autostart': False, 'offline': True},
            base_url=server.url,
            device='cpu',
        )
        yield node, asking_of, server.url


@pytest.mark.timeout(300)
@pytest.mark.parametrize(('name', 'segmenter'), SERVED)
def test_every_task_of_a_served_dialect_comes_to_the_published_message(
    served: Any,
    served_answers: dict[str, list[Said]],
    request: Any,
    name: str,
    segmenter: str,
) -> None:
    node, asking_of, url = served
    asking = asking_of(dialect_named(name), served_answers[name])
    masks = masks_of(request, segmenter)
    asking.reload(node, parameters_of(name, segmenter, name, masks))
    ask_for_every_task(asking, f'{name} at {url}', Path(masks).name or segmenter)


@pytest.mark.timeout(300)
def test_a_router_on_the_server_chooses_the_task_of_auto(
    served: Any, served_answers: dict[str, list[Said]]
) -> None:
    node, asking_of, _ = served
    name = 'vision_reasoner'
    asking = asking_of(dialect_named(name), served_answers[name])
    parameters = parameters_of(name, 'grabcut', name, '')
    asking.reload(node, parameters | {'reasoner.router': ROUTER})
    result = asking.call(THE_BOX, 'auto')
    assert (result.task, result.count) == (Task.COUNT, 1) and 'rules' not in result.message
    assert asking.client.transition('deactivate')
    assert asking.client.transition('cleanup', 60)
    assert asking.client.set_parameter('reasoner.router', 'another') == (True, '')
    assert not asking.client.transition('configure', 60)
    node.wait_for_output("does not serve the model asked for .'another'.")
    assert asking.client.set_parameter('reasoner.router', '') == (True, '')
