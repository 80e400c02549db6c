"""A server that resizes images again is noticed by what it charges, and no other is blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import logging
import math
import threading

import numpy as np
import pytest
from scripted_server import (
    ANSWER,
    area_tokens,
    DONE,
    piece,
    pieces_of,
    Request,
    running,
    Server,
    TEXT_TOKENS,
    usage,
)

from segzero_ros.reasoning import openai_reasoner
from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.reasoning.resize_check import _others
from segzero_ros.types import Frame, MalformedAnswer, Query, ReasonerUnavailable

FRAME = Frame(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
QUERY = Query('the mug')
Size = tuple[int, int]
# What an image of a size costs, in tokens.
Charge = Callable[[Size], int]
LIST = '```json\n[{"bbox_2d": [10, 20, 300, 400], "label": "mug"}]\n```'


def resized(fewest: int, most: int) -> Charge:
    """Qwen's own resizing, between bounds on the tokens: llama.cpp's flags, vLLM's pixels."""

    def charge(size: Size) -> int:
        width, height = (round(side / 28) * 28 for side in size)
        area, pixels = width * height, size[0] * size[1]
        if area > most * 784:
            shrink = math.sqrt(pixels / (most * 784))
            width, height = (max(1, math.floor(side / shrink / 28)) * 28 for side in size)
        elif area < fewest * 784:
            grow = math.sqrt(fewest * 784 / pixels)
            width, height = (math.ceil(side * grow / 28) * 28 for side in size)
        return area_tokens((width, height))

    return charge


def of_positions(charge: Charge) -> Charge:
    """Builds of llama.cpp that count positions of an image: as many as its longer side."""
    return lambda size: round(math.sqrt(charge(size))) if size[0] == size[1] else max(size) // 28


def of_tiles(size: Size) -> int:
    """A hosted model: 170 for each tile of 512 pixels, at most 768 on the shorter side."""
    scale = min(1, 2048 / max(size), 768 / min(size))
    across, down = (math.ceil(side * scale / 512) for side in size)
    return 85 + 170 * across * down


ALONE = resized(4, 16384)


@contextmanager
def served(
    charge: Charge, owner: str = 'vllm', *, cached: bool = False, dialect: str = 'vision_reasoner'
) -> Iterator[tuple[Server, OpenAIReasoner]]:
    """Run a server that charges so; with `cached`, only for what it has not seen before."""
    answer = ANSWER if dialect == 'vision_reasoner' else LIST
    known: set[str] = set()
    with running() as server:

        def cost(request: Request) -> int:
            image, text = request.body['messages'][0]['content']
            total = len(text['text']) * 189 // 486
            url = image['image_url']['url']
            if not (cached and url in known):
                total += server.charge_for(request.image_size())
            known.add(url)
            return total

        def reply(request: Request) -> None:
            counted = piece(choices=[], usage=usage(cost(request)))
            request.stream([*pieces_of(answer), piece(finish='stop'), counted, DONE])

        server.charge_for = charge
        server.owner = owner
        server.answer = reply
        server.count = lambda request: request.charge(cost(request))
        reasoner = OpenAIReasoner(server.url, dialect=dialect)
        try:
            yield server, reasoner
        finally:
            reasoner.close()


@pytest.fixture(autouse=True)
def _no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.get_records('call') if record.levelname == 'ERROR']


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return sum('whether it resizes' in record.message for record in caplog.records)


LEFT_ALONE = {
    'vllm': (ALONE, 'vllm'),
    'vllm as documented': (resized(4, 1280), 'vllm'),
    'vllm, small images enlarged': (resized(256, 1280), 'vllm'),
    'vllm, just within both bounds': (resized(380, 910), 'vllm'),
    'vllm, no smaller and hardly larger': (resized(391, 1280), 'vllm'),
    'llama.cpp': (resized(8, 4096), 'llamacpp'),
    'llama.cpp, positions': (of_positions(resized(8, 4096)), 'llamacpp'),
    'ray': (ALONE, 'organization-owner'),
    'transformers serve': (ALONE, 'local'),
    'sglang': (ALONE, 'sglang'),
}


@pytest.mark.parametrize('dialect', ['vision_reasoner', 'qwen2_5_vl'])
@pytest.mark.parametrize('name', LEFT_ALONE)
def test_a_server_that_leaves_images_alone_is_believed(name, dialect, caplog):
    charge, owner = LEFT_ALONE[name]
    with served(charge, owner, dialect=dialect) as (server, reasoner):
        for text in ('the mug', 'something that a person could pour hot tea into, please', 'it'):
            assert reasoner.reason(FRAME, Query(text)).objects
        asked = len(server.counted)
        assert reasoner.reason(FRAME, QUERY).objects and len(server.counted) == asked
        if charge is ALONE:
            assert asked == 1
    assert not warned(caplog)


RESIZED = {
    'llama.cpp --image-min-tokens 1024': (resized(1024, 4096), 'llamacpp', 'image-min-tokens'),
    'llama.cpp --image-max-tokens 512': (resized(8, 512), 'llamacpp', 'image-max-tokens of 900'),
    'llama.cpp, positions': (of_positions(resized(1024, 4096)), 'llamacpp', 'image-min-tokens'),
    'vllm, max_pixels 602112': (resized(4, 768), 'vllm', 'max_pixels": 1003520'),
    'vllm, max_pixels 200704': (resized(4, 256), 'vllm', 'max_pixels": 1003520'),
    'vllm, min_pixels 1003520': (resized(1280, 16384), 'vllm', 'min_pixels": 3136'),
    'vllm, one size': (resized(1024, 1024), 'vllm', 'min_pixels": 3136'),
    'vllm, one token less': (resized(4, 899), 'vllm', 'max_pixels'),
    'ray': (resized(4, 768), 'organization-owner', 'image processor keep images of 900'),
    'transformers serve': (resized(1024, 16384), 'local', 'image processor keep images of 900'),
    'sglang': (resized(4, 768), 'sglang', 'preprocessor_config.json'),
}


@pytest.mark.parametrize('name', RESIZED)
def test_a_server_that_resizes_is_named_with_the_cure_and_found_again_once_cured(name, caplog):
    charge, owner, hint = RESIZED[name]
    with served(charge, owner) as (server, reasoner):
        for _ in range(2):
            with pytest.raises(
                ReasonerUnavailable, match='resizes the image of 840x840'
            ) as caught:
                reasoner.reason(FRAME, QUERY)
            assert hint in str(caught.value) and server.url in str(caught.value)
        server.charge_for = ALONE
        assert reasoner.reason(FRAME, QUERY).objects
    assert not warned(caplog)


def test_the_message_says_how_many_tokens_the_model_saw():
    seen = pytest.raises(ReasonerUnavailable, match=r'\(1024 tokens instead of 900\)')
    with served(resized(1024, 4096), 'llamacpp') as (_, reasoner), seen:
        reasoner.reason(FRAME, QUERY)


@pytest.mark.parametrize('bounds', [(1024, 4096), (4, 256), (400, 16384)])
def test_pictures_that_keep_their_shape_are_checked_too(bounds):
    with served(resized(*bounds), dialect='qwen2_5_vl') as (_, reasoner):
        with pytest.raises(ReasonerUnavailable, match='image of 644x476 pixels'):
            reasoner.reason(FRAME, QUERY)
        square = Frame(np.zeros((560, 560, 3), np.uint8))
        if bounds[0] <= 400 <= bounds[1]:
            assert reasoner.reason(square, QUERY).objects
        else:
            with pytest.raises(ReasonerUnavailable, match='image of 560x560 pixels'):
                reasoner.reason(square, QUERY)


@pytest.mark.parametrize('size', [(840, 840), (644, 476), (224, 224), (1288, 728), (1932, 420)])
def test_whatever_the_bounds_resized_images_are_never_believed_and_others_hardly_ever_blamed(size):
    believed = blamed = alone = 0
    for fewest in (4, 8, *range(16, 1400, 23)):
        for most in (*range(fewest + 16, 2200, 61), 16384):
            charge = resized(fewest, most)
            costs = {other: charge(other) for other in _others(size)}
            matches = [
                charge(size) - cost == area_tokens(size) - area_tokens(other)
                for other, cost in costs.items()
            ]
            if charge(size) != area_tokens(size):
                believed += any(matches)
            else:
                alone += 1
                blamed += not any(matches)
    assert believed == 0 and blamed <= 0.01 * alone and alone > 100


def test_shares_of_the_sides_cannot_shift_and_are_not_checked():
    with served(resized(1024, 4096), dialect='qwen2_vl') as (server, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects
        assert not server.counted


def test_a_server_that_is_started_anew_with_other_flags_is_noticed():
    with served(ALONE, 'llamacpp') as (server, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects
        server.charge_for = resized(1024, 4096)
        with pytest.raises(ReasonerUnavailable, match='resizes'):
            reasoner.reason(FRAME, Query('the blue cup'))


def test_another_replica_with_other_flags_is_noticed():
    with served(ALONE) as (server, reasoner):
        count = server.count
        server.charge_for = resized(1024, 4096)

        def aright(request: Request) -> None:
            server.charge_for = ALONE
            count(request)
            server.charge_for = resized(1024, 4096)

        server.count = aright
        with pytest.raises(ReasonerUnavailable, match=r'\(1024 tokens instead of 900\)'):
            reasoner.reason(FRAME, QUERY)


def test_a_server_that_charges_only_for_what_it_has_not_cached_is_believed(caplog):
    with served(ALONE, cached=True) as (server, reasoner):
        for _ in range(2):
            assert reasoner.reason(FRAME, QUERY).objects
        asked = len(server.counted)
        for text in ('the cup', 'a pen', 'the mug'):
            assert reasoner.reason(FRAME, Query(text)).objects
        assert len(server.counted) == asked
    assert not warned(caplog)
    with served(resized(1024, 4096), cached=True) as (server, reasoner):
        for _ in range(2):
            with pytest.raises(ReasonerUnavailable, match='resizes'):
                reasoner.reason(FRAME, QUERY)


HOSTED = {
    'tiles': (of_tiles, 'system'),
    'a share of the pixels': (lambda size: size[0] * size[1] // 750, 'anthropic'),
    'always the same': (lambda size: 258, 'google'),
    'nothing for images': (lambda size: 0, 'vllm'),
    'one position': (lambda size: 1, 'llamacpp'),
    'many tiles': (lambda size: 3328, 'somebody'),
}


@pytest.mark.parametrize('name', HOSTED)
def test_what_charges_otherwise_is_asked_no_more_and_that_is_said_once(name, caplog):
    charge, owner = HOSTED[name]
    with served(charge, owner) as (server, reasoner):
        assert reasoner.reason(FRAME, QUERY).objects
        asked = len(server.counted)
        for _ in range(3):
            assert reasoner.reason(FRAME, QUERY).objects
        assert len(server.counted) == asked < 12
    assert warned(caplog) == 1


@pytest.mark.parametrize('refused', [True, False])
def test_a_server_without_usage_is_believed_and_that_is_said_once(refused, caplog):
    with served(ALONE) as (server, reasoner):

        def uncounted(request: Request) -> None:
            request.stream([*pieces_of(ANSWER), piece(finish='stop'), DONE])

        def count(request: Request) -> None:
            if refused:
                request.reply(400, {'error': {'message': 'max_tokens is too small'}})
            else:
                uncounted(request)

        server.answer, server.count = uncounted, count
        for _ in range(5):
            assert reasoner.reason(FRAME, QUERY).objects
        asked = len(server.counted)
        assert reasoner.reason(FRAME, QUERY).objects and len(server.counted) == asked < 12
    assert warned(caplog) == 1


@pytest.mark.parametrize(('charge', 'right'), [(ALONE, True), (resized(1024, 4096), False)])
def test_where_streams_are_not_counted_whole_answers_are(charge, right):
    with served(charge) as (server, reasoner):
        whole = server.count

        def count(request: Request) -> None:
            if request.body.get('stream'):
                request.stream([piece('.'), DONE])
            else:
                whole(request)

        server.count = count
        server.answer = lambda request: request.stream(
            [*pieces_of(ANSWER), piece(finish='stop'), DONE]
        )
        for _ in range(2):
            if right:
                assert reasoner.reason(FRAME, QUERY).objects
            else:
                with pytest.raises(ReasonerUnavailable, match='resizes'):
                    reasoner.reason(FRAME, QUERY)


@pytest.mark.parametrize(
    ('image', 'right'), [(900, True), (1024, False), (729, False), (1600, False)]
)
def test_a_known_server_whose_count_no_image_changes_is_held_to_what_the_prompt_can_cost(
    image, right
):
    with served(ALONE) as (server, reasoner):
        counted = piece(choices=[], usage=usage(TEXT_TOKENS + image))
        events = [*pieces_of(ANSWER), piece(finish='stop'), counted, DONE]
        server.answer = server.count = lambda request: request.stream(events)
        if right:
            assert reasoner.reason(FRAME, QUERY).objects
        else:
            with pytest.raises(ReasonerUnavailable, match='resizes'):
                reasoner.reason(FRAME, QUERY)


def test_an_answer_without_objects_needs_no_check():
    with served(resized(1024, 4096)) as (server, reasoner):
        server.answer = lambda request: request.stream(
            [*pieces_of('<think>No.</think><answer>[]</answer>'), piece(finish='stop'), DONE]
        )
        assert reasoner.reason(FRAME, QUERY).objects == () and not server.counted


@pytest.mark.parametrize(
    'nonsense',
    [
        '<think>The left.</think><left.',
        # A closed answer ends the stream before its finish.
        '<think>Left.</think><answer>[{"bbox_2d": [1, 2]}]</answer> And so on.',
    ],
)
def test_what_a_model_writes_about_a_resized_image_need_be_no_answer(nonsense):
    with served(resized(1024, 4096), 'llamacpp') as (server, reasoner):

        def reply(request: Request) -> None:
            cost = len(request.body['messages'][0]['content'][1]['text']) * 189 // 486
            charged = usage(cost + server.charge_for(request.image_size()))
            counted = piece(choices=[], usage=charged)
            request.stream([*pieces_of(nonsense), piece(finish='stop'), counted, DONE])

        server.answer = reply
        with pytest.raises(ReasonerUnavailable, match='--image-min-tokens'):
            reasoner.reason(FRAME, QUERY)
        server.charge_for = ALONE
        with pytest.raises(MalformedAnswer):
            reasoner.reason(FRAME, QUERY)


def test_a_slow_server_gets_as_long_to_count_as_it_took_to_answer(monkeypatch, caplog):
    monkeypatch.setattr(openai_reasoner, 'COUNT_LIMIT', 0.1)
    with served(resized(1024, 4096), 'llamacpp') as (server, reasoner):
        answer, count = server.answer, server.count
        pause = threading.Event()
        server.answer = lambda request: (pause.wait(2.0), answer(request))
        server.count = lambda request: (pause.wait(0.5), count(request))
        with pytest.raises(ReasonerUnavailable, match='resizes the image'):
            reasoner.reason(FRAME, QUERY)
        assert not warned(caplog)


# The server loads torch: minutes on a busy machine.
@pytest.mark.timeout(600)
def test_a_real_server_is_believed(
    transformers_server, tiny_qwen2_5_vl, make_tiny_checkpoints, caplog
):
    caplog.set_level(logging.WARNING)
    reasoner = OpenAIReasoner(transformers_server, str(tiny_qwen2_5_vl))
    pair = make_tiny_checkpoints.example_pairs()[0]
    try:
        assert reasoner.reason(Frame(pair.image), Query(pair.query)).objects
    finally:
        reasoner.close()
    assert not warned(caplog)
