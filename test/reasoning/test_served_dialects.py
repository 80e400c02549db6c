"""Qwen3-VL, Qwen3.5 and Molmo 2 behind a server, and dialects that are not the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import logging
from typing import Any

import numpy as np
import pytest
from scripted_server import DONE, piece, pieces_of, Request, running, Server, usage

from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.dialects.fitting import warn_of_other_name
from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.types import (
    Frame,
    GroundedObject,
    MalformedAnswer,
    Query,
    ReasonerUnavailable,
    Task,
)

FRAME = Frame(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
QUERY = Query('the mug')
LIST = '```json\n[{"bbox_2d": [100, 200, 500, 1000], "label": "mug"}]\n```'
TAGGED = '<think>x</think><answer>[{"bbox_2d": [84,84,420,420], "point_2d": [1,2]}]</answer>'
MUG = GroundedObject((64.0, 96.0, 320.0, 480.0), (), 'mug')


def cells_of(grid: int) -> Callable[[tuple[int, int]], int]:
    """What an image costs a model of this grid that resizes it to multiples of that."""
    return lambda size: round(size[0] / grid) * round(size[1] / grid)


def of_tiles(size: tuple[int, int]) -> int:
    """What an image costs a hosted model."""
    return 85 + 170 * -(-size[0] // 512) * -(-size[1] // 512)


@contextmanager
def served(
    name: str,
    dialect: str,
    answer: str = LIST,
    charge: Callable[[tuple[int, int]], int] | None = None,
    finish: str = 'stop',
    refuses: str = '',
    **options: Any,
) -> Iterator[tuple[Server, OpenAIReasoner]]:
    """Run a server with a model of this name, which answers so."""
    charge = charge or cells_of(32)
    with running() as server:
        server.shown = []

        def reply(request: Request) -> None:
            if refuses and refuses in request.body:
                request.reply(422, {'error': {'message': f'Unexpected field: {refuses}'}})
                return
            server.shown.append(request.image_size())
            counted = piece(choices=[], usage=usage(100 + charge(request.image_size())))
            request.stream([*pieces_of(answer), piece(finish=finish), counted, DONE])

        entry = {'id': name, 'object': 'model', 'created': 0, 'owned_by': 'vllm'}
        server.listing = lambda request: request.reply(200, {'object': 'list', 'data': [entry]})
        server.answer = reply
        server.count = lambda request: request.charge(100 + charge(request.image_size()))
        reasoner = OpenAIReasoner(server.url, dialect=dialect, **options)
        try:
            yield server, reasoner
        finally:
            reasoner.close()


def bodies(server: Server) -> list[dict[str, Any]]:
    return [body for _, _, body in server.seen if body is not None]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_served_qwen3_vl_gets_its_prompt_and_a_picture_on_its_grid(caplog: Any) -> None:
    with served('Qwen/Qwen3-VL-8B-Instruct', 'qwen3_vl') as (server, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects == (MUG,)
        frame = Frame(np.zeros((1080, 1920, 3), np.uint8))
        reasoner.reason(frame, Query('the mug', task=Task.POINT))
        first, second = bodies(server)
        assert 'chat_template_kwargs' not in first
        assert server.shown == [(640, 480), (1504, 832)]
        assert first['messages'][0]['content'][1]['text'] == dialect_named('qwen3_vl').prompt(
            'the mug'
        )
        assert second['messages'][0]['content'][1]['text'] == (
            'Locate the mug in this image. Output the point coordinates in JSON format.'
        )
        # Two short requests tell once that the model sees cells of 32.
        assert len(server.counted) == 2
    assert not warnings(caplog)


@pytest.mark.parametrize('name', ['Qwen/Qwen3.5-4B', 'qwen3.6-27b'])
def test_a_served_qwen3_5_is_asked_without_thinking(name: str, caplog: Any) -> None:
    with served(name, 'qwen3_5') as (server, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects == (MUG,)
        assert [body['chat_template_kwargs'] for body in bodies(server)] == [
            {'enable_thinking': False}
        ]
        assert all('chat_template_kwargs' in body for body in server.counted)
    assert not warnings(caplog)


def test_a_server_that_refuses_the_field_is_asked_once_more_without_it(caplog: Any) -> None:
    thought = f'Left, [1, 2].</think>\n\n{LIST}'
    field = 'chat_template_kwargs'
    with served('Qwen3.5-4B', 'qwen3_5', thought, refuses=field) as (server, reasoner):
        for _ in range(2):
            grounding = reasoner.reason(FRAME, QUERY)
            assert grounding.objects == (MUG,) and grounding.reasoning == 'Left, [1, 2].'
        assert [field in body for body in bodies(server)] == [True, False, False]
    assert ['may think' in message for message in warnings(caplog)] == [True]


def test_a_served_thinking_model_has_answered_only_after_its_reasoning(caplog: Any) -> None:
    name = 'Qwen/Qwen3-VL-8B-Thinking'
    with (
        served(name, 'qwen3_vl', f'Perhaps\n{LIST}', finish='length') as (_, reasoner),
        pytest.raises(MalformedAnswer, match=r'before the reasoning does.*stopped at 1024 tokens'),
    ):
        reasoner.reason(FRAME, QUERY)
    assert ['reasoner.max_new_tokens:=2048' in one for one in warnings(caplog)] == [True]
    caplog.clear()
    text = f'Perhaps [1, 2].</think>{LIST}'
    with served(name, 'qwen3_vl', text, max_new_tokens=4096) as (_, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects == (MUG,)
    assert not warnings(caplog)


def test_a_served_molmo_answers_in_points_or_says_that_there_are_none(caplog: Any) -> None:
    points = '<points coords="1 1 500 250">mug</points>'
    with served('allenai/Molmo2-4B', 'molmo2', points, of_tiles) as (server, reasoner):
        (found,) = reasoner.reason(FRAME, QUERY).objects
        assert found == GroundedObject(None, ((320.0, 120.0),), 'mug')
        assert not server.counted
    with served('allenai/Molmo2-4B', 'molmo2', 'There are none.', of_tiles) as (_, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects == ()
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ('charge', 'dialect', 'answer', 'right'),
    [
        (cells_of(32), 'vision_reasoner', TAGGED, 'qwen3_vl or qwen3_5 or embodied_r1_5'),
        (cells_of(32), 'qwen2_5_vl', LIST, 'qwen3_vl or qwen3_5 or embodied_r1_5'),
        (cells_of(28), 'qwen3_vl', LIST, 'vision_reasoner or seg_zero or qwen2_5_vl or qwen2_vl'),
        (cells_of(28), 'qwen3_5', LIST, 'vision_reasoner or seg_zero or qwen2_5_vl or qwen2_vl'),
    ],
)
def test_a_model_of_another_family_is_found_by_what_it_charges_whatever_its_name(
    charge: Any, dialect: str, answer: str, right: str
) -> None:
    with served('reasoner', dialect, answer, charge) as (_, reasoner):
        for _ in range(2):
            with pytest.raises(ReasonerUnavailable, match='is of another family') as error:
                reasoner.reason(FRAME, QUERY)
            assert f'Set reasoner.dialect to {right}' in str(error.value)


@pytest.mark.parametrize('charge', [cells_of(32), of_tiles, lambda _: 0])
def test_a_server_that_counts_otherwise_is_not_taken_for_another_family(charge: Any) -> None:
    with served('reasoner', 'qwen3_vl', LIST, charge) as (server, reasoner):
        for _ in range(3):
            assert reasoner.reason(FRAME, QUERY).objects == (MUG,)
        assert len(server.counted) == 2


@pytest.mark.parametrize(
    ('name', 'dialect', 'said'),
    [
        ('Qwen/Qwen3-VL-8B-Instruct', 'vision_reasoner', 'reasoner.dialect:=qwen3_vl'),
        ('qwen3-vl:8b', 'qwen2_5_vl', 'reasoner.dialect:=qwen3_vl'),
        ('/models/Qwen3VL-4B-q4.gguf', 'qwen3_5', 'reasoner.dialect:=qwen3_vl'),
        ('nvidia/Cosmos-Reason2-2B', 'vision_reasoner', 'reasoner.dialect:=qwen3_vl'),
        ('Qwen/Qwen3.6-27B', 'qwen3_vl', 'reasoner.dialect:=qwen3_5'),
        ('IffYuan/Embodied-R1.5', 'qwen3_vl', 'reasoner.dialect:=embodied_r1_5'),
        ('allenai/Molmo2-4B', 'vision_reasoner', 'reasoner.dialect:=molmo2'),
        ('Ricky06662/VisionReasoner-7B', 'qwen3_vl', 'reasoner.dialect:=vision_reasoner'),
        ('Ricky06662/Seg-Zero-7B', 'vision_reasoner', 'reasoner.dialect:=seg_zero'),
        ('Qwen/Qwen2.5-VL-7B-Instruct', 'qwen3_vl', 'reasoner.dialect:=qwen2_5_vl'),
        ('Qwen/Qwen2-VL-7B-Instruct', 'qwen2_5_vl', 'reasoner.dialect:=qwen2_vl'),
        ('allenai/Molmo-7B-D-0924', 'molmo2', 'no dialect of this release reads'),
        ('allenai/MolmoPoint-8B', 'molmo2', 'no dialect of this release reads'),
        ('google/gemma-4-E4B-it', 'vision_reasoner', 'no dialect of this release reads'),
    ],
)
def test_a_name_of_another_family_is_warned_of_with_the_cure(
    name: str, dialect: str, said: str, caplog: Any
) -> None:
    warn_of_other_name(name, dialect_named(dialect))
    (message,) = warnings(caplog)
    assert said in message and name in message


@pytest.mark.parametrize(
    ('name', 'dialect'),
    [
        ('Ricky06662/VisionReasoner-7B', 'vision_reasoner'),
        ('Ricky06662/Visurf-7B-Best-on-gRefCOCO', 'vision_reasoner'),
        ('my-qwen2.5-vl-7b-finetune', 'vision_reasoner'),
        ('my-qwen3-vl-8b-pointing', 'embodied_r1_5'),
        ('Qwen/Qwen3-VL-8B-Thinking', 'qwen3_vl'),
        ('Qwen/Qwen3-8B', 'vision_reasoner'),
        ('reasoner', 'vision_reasoner'),
        ('mini', 'mini'),
        ('/home/me/qwen3-vl/tests/VisionReasoner-7B', 'vision_reasoner'),
    ],
)
def test_other_names_are_not(name: str, dialect: str, caplog: Any) -> None:
    warn_of_other_name(name, dialect_named(dialect))
    assert not warnings(caplog)


def test_a_served_name_of_another_family_is_warned_of_while_connecting(caplog: Any) -> None:
    with served('Qwen/Qwen3-VL-8B-Instruct', 'vision_reasoner', TAGGED):
        assert ['reasoner.dialect:=qwen3_vl' in one for one in warnings(caplog)] == [True]
