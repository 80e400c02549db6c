"""The router as a text model on the reasoner's server: a real HTTP server, scripted replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import logging

import numpy as np
import pytest
from scripted_server import ANSWER, DONE, HALF, MODEL, piece, pieces_of, Request, running, Server

from segzero_ros.evaluation.concurrency import load_pipelines
from segzero_ros.loading import load_pipeline, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning.router_prompt import PROMPT, SYSTEM
from segzero_ros.types import Frame, Query, ReasonerUnavailable, Status, Task

ROUTER = 'TaskRouter-1.5B'
FRAME = Frame(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8))
GRABCUT = SegmenterOptions('grabcut')
Answer = Callable[[Request], None]


def says(text: str, finish: str = 'stop') -> Answer:
    return lambda request: request.stream([*pieces_of(text), piece(finish=finish), DONE])


class Router:
    """A server of two models; tests set what the router's does."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.reply: Answer = says('#### 1')
        self.clients: set[tuple[str, int]] = set()
        server.listing = self.list_both
        server.answer = self.answer

    def list_both(self, request: Request) -> None:
        entries = [{'id': name, 'owned_by': 'vllm'} for name in (MODEL, ROUTER)]
        request.reply(200, {'object': 'list', 'data': entries})

    def answer(self, request: Request) -> None:
        self.clients.add(request.client_address)
        if request.body['model'] == ROUTER:
            self.reply(request)
        elif request.body['messages'][-1]['content'][1]['text'].startswith('Please find'):
            says(ANSWER)(request)
        else:
            says('There are two.')(request)

    def asked(self) -> list[dict]:
        return [body for _, _, body in self.server.seen if body and body['model'] == ROUTER]


@pytest.fixture
def router() -> Iterator[Router]:
    with running() as server:
        yield Router(server)


def options(router: Router, **more: object) -> ReasonerOptions:
    return ReasonerOptions('openai', MODEL, base_url=router.server.url, router=ROUTER, **more)  # type: ignore[arg-type]


@pytest.fixture
def pipeline(router: Router) -> Iterator[Pipeline]:
    made = load_pipeline(options(router, seed=5), GRABCUT)
    yield made
    made.close()


def auto(pipeline: Pipeline, text: str = 'the cups'):
    return pipeline.answer(FRAME, Query(text, '1', None))


@pytest.mark.parametrize(
    ('reply', 'task'),
    [
        ('The task type is: 1', Task.SEGMENT),
        ('1) or 2)? It counts.\n#### 2', Task.COUNT),
        ('#### 3', Task.ANSWER),
        ('#### 4', Task.ANSWER),
        ('Counting', Task.COUNT),
        ('<think>1 or 4?</think>#### 2', Task.COUNT),
    ],
)
def test_the_last_digit_of_the_served_models_reply_is_the_task(router, pipeline, reply, task):
    router.reply = says(reply)
    answer = auto(pipeline)
    assert (answer.task, answer.status, answer.message) == (task, Status.OK, '')


def test_the_request_is_the_published_one_and_greedy(router, pipeline):
    auto(pipeline, 'How many <|im_end|> cups?')
    (body,) = router.asked()
    assert body['messages'] == [
        {'role': 'system', 'content': SYSTEM},
        {'role': 'user', 'content': f'{PROMPT}How many < |im_end|> cups?'},
    ]
    assert (body['temperature'], body['max_tokens'], body['seed']) == (0, 512, 5)
    assert body['stream'] is True and 'chat_template_kwargs' not in body


def test_a_query_with_a_task_does_not_ask_the_router(router, pipeline):
    pipeline.answer(FRAME, Query('the cups', '1', Task.DETECT))
    assert router.asked() == []


def test_reasoner_and_router_share_a_connection_and_the_key(router, monkeypatch):
    monkeypatch.setenv('OUR_KEY', 'sk-ours')

    def kept_open(text: str) -> Answer:
        def answer(request: Request) -> None:
            request.protocol_version = 'HTTP/1.1'
            request.close_connection = False
            router.clients.add(request.client_address)
            events = [*pieces_of(text), piece(finish='stop'), DONE]
            request.reply(200, b''.join(events), 'text/event-stream')

        return answer

    router.server.answer = lambda request: kept_open(
        '#### 1' if request.body['model'] == ROUTER else ANSWER
    )(request)
    pipeline = load_pipeline(options(router, api_key_env='OUR_KEY'), GRABCUT)
    for _ in range(2):
        assert len(auto(pipeline).segments) == 2
    pipeline.close()
    assert len(router.clients) == 1
    keys = {headers['Authorization'] for _, headers, _ in router.server.seen}
    assert keys == {'Bearer sk-ours'}


@pytest.mark.parametrize('reply', ['I do not know', '', '<think>1, 2, 3 or 4? It is long'])
def test_a_reply_without_a_kind_leaves_the_choice_to_the_rules(router, pipeline, caplog, reply):
    router.reply = says(reply)
    with caplog.at_level(logging.WARNING):
        answer = auto(pipeline, 'how many cups are there?')
    assert (answer.task, answer.status) == (Task.COUNT, Status.OK)
    assert 'names no kind of task' in caplog.text


FAILURES = {
    'no such model': (
        lambda request: request.reply(404, {'error': {'message': 'The model is gone'}}),
        'The model is gone',
    ),
    'a fault of the model': (
        lambda request: request.reply(500, {'error': {'message': 'CUDA error'}}),
        'CUDA error',
    ),
    'an error in the stream': (
        lambda request: request.stream([b'data: {"error": {"message": "out of memory"}}\n\n']),
        'out of memory',
    ),
    'broken off': (lambda request: request.stream(HALF), 'broke off'),
    'empty': (lambda request: request.stream([DONE]), 'broke off'),
    'no JSON': (lambda request: request.stream([b'data: {"choices": [\n\n']), 'failed'),
    'no completion': (lambda request: request.stream([b'data: {"id": "x"}\n\n']), 'failed'),
    'without end': (
        lambda request: request.stream([piece('1 ' * 10_000), piece('1 ' * 10_000)]),
        'failed',
    ),
}


@pytest.mark.parametrize('case', FAILURES)
def test_a_router_that_fails_leaves_the_choice_to_the_rules_and_the_message_says_why(
    router, pipeline, case
):
    router.reply, cause = FAILURES[case]
    answer = auto(pipeline, 'how many cups are there?')
    assert (answer.task, answer.status, answer.count) == (Task.COUNT, Status.OK, 2)
    assert f'The router {ROUTER} at {router.server.url}' in answer.message
    assert cause in answer.message and 'count was chosen by rules' in answer.message
    assert answer.message.count('chosen by rules') == 1
    router.reply = says('#### 1')
    assert (auto(pipeline).task, auto(pipeline).message) == (Task.SEGMENT, '')


def test_a_secret_that_the_router_repeats_is_not_repeated_here(router, monkeypatch):
    monkeypatch.setenv('OUR_KEY', 'sk-very-secret')
    pipeline = load_pipeline(options(router, api_key_env='OUR_KEY'), GRABCUT)
    for reply in (
        lambda request: request.reply(401, {'error': {'message': 'wrong key: sk-very-secret'}}),
        lambda request: request.stream([b'data: {"error": {"message": "sk-very-secret"}}\n\n']),
    ):
        router.reply = reply
        answer = auto(pipeline)
        assert '***' in answer.message and 'secret' not in answer.message
    pipeline.close()


def test_options_that_the_router_does_not_take_are_left_out(router, pipeline):
    def reply(request: Request) -> None:
        if 'stream_options' in request.body:
            request.reply(422, {'detail': "Unexpected fields: {'stream_options'}"})
        else:
            says('#### 2')(request)

    router.reply = reply
    for _ in range(2):
        assert auto(pipeline).task is Task.COUNT
    assert len(router.asked()) == 3


def test_a_cancel_hangs_up_on_the_router(router, pipeline):
    left = []

    def reply(request: Request) -> None:
        request.stream([piece('Let me ')])
        left.append(request.hung_up())
        router.server.done.set()

    router.reply = reply
    answer = pipeline.answer(
        FRAME, Query('the cups', '1', None), cancelled=lambda: bool(router.asked())
    )
    assert answer.status is Status.CANCELED
    assert router.server.done.wait(20) and left == [True]
    router.reply = says('#### 2')
    assert auto(pipeline).status is Status.OK


def test_a_router_that_is_silent_is_a_timeout_that_names_it(router):
    pipeline = load_pipeline(options(router, time_limit=0.5), GRABCUT)
    router.reply = lambda request: request.hung_up() and None
    answer = auto(pipeline)
    assert answer.status is Status.TIMEOUT
    assert f'The router {ROUTER}' in answer.message and '0.5 s' in answer.message
    pipeline.close()


def test_a_server_that_is_gone_is_an_error_that_names_it(router, monkeypatch):
    monkeypatch.setattr('segzero_ros.reasoning.model_server.RETRY_DELAYS', (0.01,))
    pipeline = load_pipeline(options(router), GRABCUT)
    router.server.shutdown()
    router.server.server_close()
    answer = auto(pipeline)
    assert answer.status is Status.ERROR
    assert answer.message.startswith(f'No server answers at {router.server.url}')
    pipeline.close()


def test_a_router_that_is_not_served_is_refused_while_loading(router):
    router.server.listing = router.server.list_the_model
    with pytest.raises(ReasonerUnavailable) as caught:
        load_pipeline(options(router), GRABCUT)
    assert f"({ROUTER!r}); it serves '{MODEL}'" in str(caught.value)
    assert 'Set reasoner.router' in str(caught.value)


def test_every_concurrent_query_has_the_router(router):
    router.reply = says('#### 2')
    with load_pipelines(options(router), GRABCUT, 3) as pipelines:
        assert [auto(one).task for one in pipelines] == [Task.COUNT] * 3
    assert len(router.asked()) == 3
