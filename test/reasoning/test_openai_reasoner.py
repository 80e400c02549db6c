"""The reasoner behind a server: a real one with a real model, and one that does all wrong."""

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
import gc
import gzip
import io
import logging
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from PIL import Image
import pytest
from scripted_server import (
    ANSWER,
    DONE,
    free_port,
    HALF,
    MODEL,
    piece,
    pieces_of,
    Request,
    running,
    Server,
    THINKING,
    WELL,
)

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning import model_server
from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.types import (
    Cancelled,
    Frame,
    GroundedObject,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
)

# In a picture of 200 by 100 pixels.
FOUND = (
    GroundedObject((20.0, 10.0, 100.0, 50.0), ((60.0, 30.0),), 'Something to drink from?'),
    GroundedObject((0.0, 0.0, 200.0, 100.0), ((0.0, 0.0),), 'Something to drink from?'),
)
FRAME = Frame(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8))
QUERY = Query('Something to drink from?', 'q1')
PROMPT_BEGIN = 'Please find "something to drink from" with bboxs and points.Compare'


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def reasoner(server: Server) -> Iterator[OpenAIReasoner]:
    made = OpenAIReasoner(server.url, MODEL)
    yield made
    made.close()


def answers_again(server: Server, reasoner: OpenAIReasoner) -> bool:
    """Whether the next query is answered, now that the server behaves."""
    server.answer = lambda request: request.stream(WELL)
    return reasoner.reason(FRAME, QUERY).objects == FOUND


def test_the_answer_is_told_piece_by_piece_and_returned_whole(server, reasoner):
    words: list[str] = []
    objects: list[GroundedObject] = []
    grounding = reasoner.reason(FRAME, QUERY, words.append, on_object=objects.append)
    assert grounding.objects == FOUND == tuple(objects)
    assert grounding.reasoning == 'The mug is the only vessel here.' == ''.join(words)
    assert len(words) > 3
    assert grounding.raw_answer == ANSWER
    assert grounding.generated_tokens == 41
    assert grounding.note == ''
    assert reasoner.name == f'{MODEL} at {server.url}'


def test_the_request_is_greedy_with_the_published_prompt_and_the_squashed_picture(
    server, reasoner
):
    reasoner.reason(FRAME, QUERY)
    path, _, body = server.seen[-1]
    assert path == '/v1/chat/completions'
    assert body['model'] == MODEL and body['temperature'] == 0 and body['stream'] is True
    assert body['max_tokens'] == 1024
    assert 'repetition_penalty' not in body and 'response_format' not in body
    (message,) = body['messages']
    picture, text = message['content']
    assert message['role'] == 'user'
    assert text['text'].startswith(PROMPT_BEGIN)
    kind, _, data = picture['image_url']['url'].partition(',')
    assert kind == 'data:image/png;base64'
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    squashed = Image.fromarray(FRAME.image).resize((840, 840), Image.Resampling.BILINEAR)
    assert np.array_equal(sent, np.asarray(squashed))


STREAMS = {
    'answered': WELL,
    'nothing found': [*pieces_of('<think>No.</think><answer>[]</answer>'), piece(finish='stop')],
    'cannot be read': [piece('I cannot see it.'), piece(finish='stop'), DONE],
    'broken off': HALF,
    'goes on talking': [*pieces_of(ANSWER), piece('By the way, '), piece('it rains.')],
}


@pytest.mark.parametrize('case', STREAMS)
@pytest.mark.parametrize('keeps_alive', [True, False], ids=['keeps alive', 'closes'])
def test_nothing_of_a_stream_is_still_running_once_it_is_answered(
    server, monkeypatch, caplog, case, keeps_alive
):
    loops = []

    def new_loop() -> asyncio.AbstractEventLoop:
        loops.append(make_loop())
        return loops[-1]

    make_loop = asyncio.new_event_loop
    monkeypatch.setattr(model_server.asyncio, 'new_event_loop', new_loop)

    def answer(request: Request) -> None:
        events = [*STREAMS[case], DONE] if case == 'nothing found' else STREAMS[case]
        if keeps_alive:
            request.protocol_version = 'HTTP/1.1'
            request.close_connection = False
            request.reply(200, b''.join(events), 'text/event-stream')
        else:
            request.stream(events)

    server.answer = answer
    made = OpenAIReasoner(server.url, MODEL)
    for _ in range(2):
        with suppress(MalformedAnswer):
            made.reason(FRAME, QUERY)
        assert asyncio.all_tasks(loops[0]) == set()
    made.close()
    assert asyncio.all_tasks(loops[0]) == set()
    del made
    loops.clear()
    gc.collect()
    assert 'destroyed' not in caplog.text


def test_one_connection_serves_many_queries(server, reasoner):
    clients = set()

    def answer(request: Request) -> None:
        clients.add(request.client_address)
        request.protocol_version = 'HTTP/1.1'
        request.close_connection = False
        content = b''.join(WELL)
        request.reply(200, content, 'text/event-stream')

    server.answer = answer
    for _ in range(3):
        assert reasoner.reason(FRAME, QUERY).objects == FOUND
    assert len(clients) == 1


def test_without_a_count_of_tokens_the_pieces_are_counted(server, reasoner):
    def answer(request: Request) -> None:
        if 'stream_options' in server.seen[-1][2]:
            request.reply(422, {'detail': "Unexpected fields: {'stream_options'}"})
        else:
            request.stream([*pieces_of(ANSWER), piece(finish='stop'), DONE])

    server.answer = answer
    for _ in range(2):
        assert reasoner.reason(FRAME, QUERY).generated_tokens == len(pieces_of(ANSWER))
    # The second query knew it beforehand.
    assert len([path for path, _, body in server.seen if body]) == 3


@pytest.mark.parametrize('field', ['reasoning', 'reasoning_content'])
def test_thinking_that_the_server_sends_apart_is_put_back_into_its_tags(server, reasoner, field):
    thought = THINKING.removeprefix('<think>').removesuffix('</think>')
    apart = [
        piece(choices=[{'index': 0, 'delta': {field: part}, 'finish_reason': None}])
        for part in (thought[:9], thought[9:])
    ]
    answer = pieces_of(ANSWER.removeprefix(THINKING))
    server.answer = lambda request: request.stream([*apart, *answer, piece(finish='stop'), DONE])
    words: list[str] = []
    grounding = reasoner.reason(FRAME, QUERY, words.append)
    assert grounding.raw_answer == ANSWER
    assert grounding.reasoning == thought == ''.join(words)
    assert grounding.objects == FOUND


def test_a_model_that_goes_on_talking_after_its_answer_is_not_waited_for(server, reasoner):
    def answer(request: Request) -> None:
        request.stream([*pieces_of(ANSWER), piece('By the way, ')])
        if request.hung_up():
            server.done.set()

    server.answer = answer
    assert reasoner.reason(FRAME, QUERY).objects == FOUND
    assert server.done.wait(20)


def cancelled_after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@pytest.mark.parametrize('sent', [[], pieces_of(ANSWER)[:3]], ids=['at once', 'half way'])
def test_a_silent_server_is_left_soon_after_the_cancel_and_told_so(server, reasoner, sent):
    def answer(request: Request) -> None:
        if sent:
            request.stream(sent)
        if request.hung_up():
            server.done.set()

    server.answer = answer
    asked = time.monotonic()
    with pytest.raises(Cancelled) as caught:
        reasoner.reason(FRAME, QUERY, cancelled=cancelled_after(0.5))
    # 0.2 s are promised; the rest is for a busy machine.
    assert time.monotonic() - asked < 0.5 + 0.2 + 0.5
    assert caught.value.raw_answer == ANSWER[: 7 * len(sent)]
    assert server.done.wait(20)
    assert answers_again(server, reasoner)


def test_a_cancel_takes_effect_within_one_token_of_a_fast_stream(server, reasoner):
    told: list[str] = []
    server.answer = lambda request: request.stream(WELL)
    with pytest.raises(Cancelled):
        reasoner.reason(FRAME, QUERY, told.append, cancelled=lambda: len(told) >= 2)
    assert len(told) == 2
    assert answers_again(server, reasoner)


def test_a_server_that_stalls_runs_into_the_time_limit(server):
    server.answer = lambda request: (request.stream(pieces_of(ANSWER)[:4]), request.hung_up())
    reasoner = OpenAIReasoner(server.url, MODEL, time_limit=0.4)
    with pytest.raises(ReasonerTimeout, match=r'within 0.4 s; it had written 4 tokens') as caught:
        reasoner.reason(FRAME, QUERY)
    assert caught.value.raw_answer == ANSWER[:28]
    assert answers_again(server, reasoner)
    reasoner.close()


def break_off(request: Request) -> None:
    """Promise more than comes."""
    request.protocol_version = 'HTTP/1.1'
    request.send_response(200)
    request.send_header('Content-Type', 'text/event-stream')
    request.send_header('Content-Length', '100000')
    request.end_headers()
    request.wfile.write(b''.join(pieces_of(ANSWER)[:6]))
    request.close_connection = True


MALFORMED = {
    'the connection breaks': (break_off, 'broke in the middle'),
    'the stream ends early': (lambda request: request.stream(HALF), 'broke off in the middle'),
    'an event is no JSON': (
        lambda request: request.stream([*HALF, b'data: {"choices": [\n\n']),
        'no JSON',
    ),
    'an event is another JSON': (
        lambda request: request.stream([*HALF, b'data: {"weather": "fine"}\n\n']),
        'no piece of a chat completion',
    ),
    'the answer is no answer': (
        lambda request: request.stream([piece('I cannot see it.'), piece(finish='stop'), DONE]),
        'cannot be parsed',
    ),
    'the answer is too long': (
        lambda request: request.stream([piece('<think>Well'), piece(finish='length'), DONE]),
        'max_new_tokens',
    ),
}


@pytest.mark.parametrize('case', MALFORMED)
def test_an_answer_that_cannot_be_read_carries_what_there_is(server, reasoner, case):
    server.answer, said = MALFORMED[case]
    with pytest.raises(MalformedAnswer, match=said) as caught:
        reasoner.reason(FRAME, QUERY)
    assert caught.value.raw_answer
    assert ANSWER.startswith(caught.value.raw_answer) or 'answer is' in case
    assert answers_again(server, reasoner)


def test_of_a_list_cut_off_by_the_token_limit_the_complete_objects_are_kept(server, reasoner):
    cut = ANSWER[: ANSWER.index('840,840')]
    server.answer = lambda request: request.stream([piece(cut), piece(finish='length'), DONE])
    grounding = reasoner.reason(FRAME, QUERY)
    assert grounding.objects == FOUND[:1]
    assert 'cut off' in grounding.note


UNAVAILABLE = {
    'an error inside': (500, {'error': {'message': 'CUDA out of memory'}}, 'CUDA out of memory'),
    'it is still loading': (503, {'detail': 'Loading model'}, 'Loading model'),
    'the key is wrong': (401, {'error': 'Unauthorized'}, 'OPENAI_API_KEY'),
    'the model is another': (
        404,
        {'message': f'The model `{MODEL}` does not exist.'},
        'does not exist',
    ),
    'the picture is too large': (400, {'message': 'at most 0 image(s)'}, 'at most 0 image'),
    'it is overloaded': (429, {'message': 'queue full'}, 'replicas'),
    'a page instead': (200, b'<html>Welcome to the router</html>', 'base_url'),
    'an empty stream': (200, b'', 'base_url'),
}


@pytest.mark.parametrize('case', UNAVAILABLE)
def test_a_server_that_refuses_is_quoted_and_asked_once(server, reasoner, case):
    status, body, said = UNAVAILABLE[case]
    kind = 'text/html' if isinstance(body, bytes) else 'application/json'
    server.answer = lambda request: request.reply(status, body, kind)
    before = len(server.seen)
    with pytest.raises(ReasonerUnavailable, match=said) as caught:
        reasoner.reason(FRAME, QUERY)
    assert server.url in str(caught.value)
    assert len(server.seen) == before + 1
    assert answers_again(server, reasoner)


def test_an_error_in_the_stream_is_quoted(server, reasoner):
    event = b'data: {"error": {"message": "EngineDeadError"}}\n\n'
    server.answer = lambda request: request.stream([*HALF, event])
    with pytest.raises(ReasonerUnavailable, match='EngineDeadError'):
        reasoner.reason(FRAME, QUERY)
    assert answers_again(server, reasoner)


def test_a_listener_that_fails_is_not_taken_for_the_server(server, reasoner):
    def fail(_: str) -> None:
        raise AttributeError('in the listener')

    with pytest.raises(AttributeError, match='in the listener'):
        reasoner.reason(FRAME, QUERY, fail)
    assert answers_again(server, reasoner)


def test_a_server_that_comes_up_while_it_is_asked_is_found():
    port = free_port()
    with ExitStack() as stack:
        timer = threading.Timer(0.6, lambda: stack.enter_context(running(port)))
        timer.start()
        reasoner = OpenAIReasoner(f'http://127.0.0.1:{port}/v1', MODEL)
        assert reasoner.reason(FRAME, QUERY).objects == FOUND
        reasoner.close()
        timer.join()


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(ReasonerUnavailable) as caught:
        OpenAIReasoner(*args, **options)
    return str(caught.value)


def test_a_server_that_is_not_there_is_named_with_the_cure(server):
    url = f'http://127.0.0.1:{free_port()}/v1'
    text = refused(url, MODEL)
    assert url in text and 'docs/serving.md' in text


def test_a_server_that_goes_away_is_named_and_found_again(server, reasoner):
    server.listing = server.answer = lambda request: request.connection.close()
    with pytest.raises(ReasonerUnavailable, match='No server answers'):
        reasoner.reason(FRAME, QUERY)
    assert answers_again(server, reasoner)


def test_a_time_limit_that_ends_while_nobody_is_there_says_that_nobody_is_there(server):
    made = OpenAIReasoner(server.url, MODEL, time_limit=0.4)
    server.answer = lambda request: request.connection.close()
    with pytest.raises(ReasonerUnavailable, match='No server answers'):
        made.reason(FRAME, QUERY)
    assert answers_again(server, made)
    server.answer = lambda request: request.hung_up()
    with pytest.raises(ReasonerTimeout, match=r'within 0\.4 s'):
        made.reason(FRAME, QUERY)
    made.close()


def test_a_model_that_is_not_served_is_answered_with_the_served_ones(server):
    text = refused(server.url, 'VisionReasoner-3B')
    assert "'VisionReasoner-3B'" in text and f"'{MODEL}'" in text and server.url in text


def test_without_a_name_the_only_served_model_is_taken(server):
    made = OpenAIReasoner(server.url)
    assert made.name.startswith(MODEL)
    made.close()


def test_a_server_without_a_list_is_trusted_and_that_is_said(server, caplog):
    server.listing = lambda request: request.reply(404, {'detail': 'Not Found'})
    with caplog.at_level(logging.WARNING):
        made = OpenAIReasoner(server.url, 'any')
    assert 'lists no models' in caplog.text
    assert made.reason(FRAME, QUERY).objects == FOUND
    made.close()
    assert 'none was named' in refused(server.url)


@pytest.mark.parametrize(
    'status, body, said',
    [
        (200, b'<html>', 'OpenAI-compatible'),
        (200, b'[1, 2]', 'OpenAI-compatible'),
        (200, b'{"models": []}', 'OpenAI-compatible'),
        (500, b'oops', '500'),
        (401, b'{"error": "no key"}', 'OPENAI_API_KEY'),
    ],
)
def test_a_list_that_is_none_is_named(server, status, body, said):
    for kind in ('application/json', 'text/html'):
        server.listing = lambda request, kind=kind: request.reply(status, body, kind)
        text = refused(server.url, MODEL)
        assert server.url in text and said in text


@pytest.mark.parametrize(
    'url', ['', 'localhost:8000', 'ftp://x/v1', 'http://', 'http://x:99999/v1']
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url):
    assert 'base_url' in refused(url, MODEL)


def test_wrong_options_are_answered_with_the_right_ones(server):
    assert 'seg_zero' in refused(server.url, MODEL, dialect='esperanto')
    assert 'strict' in refused(server.url, MODEL, answer_parser='loose')


def test_the_key_comes_from_the_named_variable_and_appears_nowhere(server, monkeypatch, caplog):
    monkeypatch.setenv('OUR_KEY', 'sk-very-secret')
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-of-somebody-else')
    caplog.set_level(logging.DEBUG)
    made = OpenAIReasoner(server.url, MODEL, api_key_env='OUR_KEY')
    made.reason(FRAME, QUERY)
    assert {seen[1]['Authorization'] for seen in server.seen} == {'Bearer sk-very-secret'}
    server.answer = lambda request: request.reply(401, {'error': 'wrong key'})
    with pytest.raises(ReasonerUnavailable) as caught:
        made.reason(FRAME, QUERY)
    assert 'OUR_KEY' in str(caught.value)
    assert 'secret' not in caplog.text + str(caught.value) + made.name
    made.close()


@pytest.mark.parametrize('around', ['\n', '\r\n', ' '])
def test_a_line_end_read_along_with_the_key_is_no_part_of_it(server, monkeypatch, around):
    monkeypatch.setenv('OUR_KEY', f'sk-very-secret{around}')
    OpenAIReasoner(server.url, MODEL, api_key_env='OUR_KEY').close()
    assert server.seen[-1][1]['Authorization'] == 'Bearer sk-very-secret'


@pytest.mark.parametrize(
    'key', ['sk-very\nsecret', 'sk-very\rsecret', 'sk-very-secrét', 'secret\x7f!']
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_quoted(
    server, monkeypatch, caplog, key
):
    monkeypatch.setenv('OUR_KEY', key)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ReasonerUnavailable, match='OUR_KEY') as caught:
        OpenAIReasoner(server.url, MODEL, api_key_env='OUR_KEY')
    assert 'secr' not in caplog.text + str(caught.value) + repr(caught.value.__cause__)
    assert not server.seen


def test_a_key_in_the_place_of_its_variables_name_is_refused_without_being_quoted(server, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ReasonerUnavailable, match='api_key_env') as caught:
        OpenAIReasoner(server.url, MODEL, api_key_env='sk-very-secret')
    assert 'secret' not in caplog.text + str(caught.value)


def test_a_server_without_a_key_gets_none_of_somebody_else(server, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-of-somebody-else')
    monkeypatch.delenv('OUR_KEY', raising=False)
    OpenAIReasoner(server.url, MODEL, api_key_env='OUR_KEY').close()
    assert server.seen[-1][1]['Authorization'] == 'Bearer none'


def test_a_password_in_the_address_is_not_published(server):
    made = OpenAIReasoner(server.url.replace('http://', 'http://me:pass@'), MODEL)
    assert 'pass' not in made.name
    made.close()


def const_of(request: Request) -> str:
    """The word that a request for a constrained answer asks for."""
    thinking = request.body['response_format']['format']['elements'][0]
    return thinking['content']['value']


def obey(request: Request) -> None:
    """Write what the format of the request demands, as vLLM does."""
    word = const_of(request)
    request.whole(f'<think>{word}</think><answer>"{word}"</answer>')


@pytest.mark.parametrize('owner', ['vllm', 'organization-owner', ''], ids=repr)
def test_an_answer_is_constrained_where_the_server_does_it_whatever_its_name(server, owner):
    server.owner = owner
    server.answer = obey
    made = OpenAIReasoner(server.url, MODEL, constrain_answer=True)
    assert len(server.seen) == 2
    server.answer = lambda request: request.stream(WELL)
    assert made.reason(FRAME, QUERY).objects == FOUND
    constraint = server.seen[-1][2]['response_format']
    assert constraint['type'] == 'structural_tag'
    assert constraint['format']['type'] == 'sequence'
    thinking, blanks, answer = constraint['format']['elements']
    any_text = {'type': 'any_text'}
    assert thinking == {'type': 'tag', 'begin': '<think>', 'content': any_text, 'end': '</think>'}
    for text in ('', ' ', '\n', '\n\n'):
        assert re.fullmatch(blanks['pattern'], text)
    assert not re.fullmatch(blanks['pattern'], '\n' * 9), 'blanks must come to an end'
    assert (answer['begin'], answer['end']) == ('<answer>', '</answer>')
    item = answer['content']['json_schema']['items']
    assert item['required'] == ['bbox_2d', 'point_2d']
    assert item['properties']['bbox_2d']['minItems'] == 4
    made.close()


def test_a_dialect_without_tags_is_not_constrained(server):
    server.answer = obey
    assert 'qwen2_5_vl' in refused(server.url, MODEL, 'qwen2_5_vl', constrain_answer=True)


NOT_CONSTRAINED = {
    'ignores the format': (lambda request: request.whole(ANSWER), 'writes something else'),
    'thinks apart': (
        # Behind a parser of reasoning the grammar begins after the thinking.
        lambda request: request.whole(f'"{const_of(request)}"'),
        'reasoning-parser',
    ),
    'answers nothing': (lambda request: request.whole(''), 'writes something else'),
    'refuses the format': (
        lambda request: request.reply(400, {'error': {'message': 'response_format: unknown'}}),
        'response_format: unknown',
    ),
    'knows no such field': (
        lambda request: request.reply(422, {'detail': 'Unexpected fields'}),
        'Unexpected fields',
    ),
}


@pytest.mark.parametrize('case', NOT_CONSTRAINED)
def test_a_server_that_does_not_constrain_is_refused_by_what_it_does(server, case):
    server.answer, said = NOT_CONSTRAINED[case]
    text = refused(server.url, MODEL, constrain_answer=True)
    assert said in text and 'Switch server.constrain_answer off' in text and server.url in text


def test_a_server_that_fails_while_it_is_tried_is_named_for_what_failed(server):
    server.answer = lambda request: request.reply(500, {'error': {'message': 'CUDA error'}})
    assert 'CUDA error' in refused(server.url, MODEL, constrain_answer=True)


def test_the_factory_hands_every_option_on(server):
    options = ReasonerOptions(
        'openai', MODEL, 'seg_zero', base_url=server.url, max_new_tokens=77, seed=5
    )
    made = load_reasoner(options)
    single = (
        '<think>It.</think><answer>{"bbox": [84,84,420,420], "points_1": [252,252], '
        '"points_2": [168,168]}</answer>'
    )
    server.answer = lambda request: request.stream([piece(single), piece(finish='stop'), DONE])
    (found,) = made.reason(FRAME, QUERY).objects
    assert found.box == (20.0, 10.0, 100.0, 50.0) and len(found.points) == 2
    body = server.seen[-1][2]
    assert body['max_tokens'] == 77 and body['seed'] == 5
    assert body['messages'][0]['content'][1]['text'].startswith("Please find 'something")
    made.close()


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openai', None)
    monkeypatch.delitem(sys.modules, 'segzero_ros.reasoning.openai_reasoner')
    monkeypatch.delitem(sys.modules, 'segzero_ros.reasoning.server_errors')
    with pytest.raises(ReasonerUnavailable, match='scripts/install_models openai'):
        load_reasoner(ReasonerOptions('openai', MODEL, base_url='http://127.0.0.1:9/v1'))


@pytest.mark.skipif(not shutil.which('openssl'), reason='needs openssl to make a certificate')
def test_an_encrypted_server_is_trusted_only_with_its_certificate(server, tmp_path, monkeypatch):
    certificate, key = tmp_path / 'certificate.pem', tmp_path / 'key.pem'
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2']
    command += ['-keyout', str(key), '-out', str(certificate), '-subj', '/CN=localhost']
    command += ['-addext', 'subjectAltName=DNS:localhost']
    subprocess.run(command, check=True, capture_output=True)
    encrypted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encrypted.load_cert_chain(certificate, key)
    server.socket = encrypted.wrap_socket(server.socket, server_side=True)
    url = f'https://localhost:{server.server_port}/v1'
    monkeypatch.delenv('SSL_CERT_FILE', raising=False)
    assert 'CERTIFICATE_VERIFY_FAILED' in refused(url, MODEL)
    monkeypatch.setenv('SSL_CERT_FILE', str(certificate))
    made = OpenAIReasoner(url, MODEL)
    assert made.reason(FRAME, QUERY).objects == FOUND
    made.close()


def test_a_secret_that_the_server_repeats_is_not_repeated_here(server, monkeypatch):
    monkeypatch.setenv('OUR_KEY', 'sk-very-secret')
    made = OpenAIReasoner(server.url, MODEL, api_key_env='OUR_KEY')
    for status in (401, 400, 500):
        server.answer = lambda request, status=status: request.reply(
            status, {'error': {'message': 'wrong key: sk-very-secret'}}
        )
        with pytest.raises(ReasonerUnavailable, match=r'wrong key: \*\*\*') as caught:
            made.reason(FRAME, QUERY)
        assert 'secret' not in str(caught.value)
    event = b'data: {"error": {"message": "sk-very-secret is over its quota"}}\n\n'
    server.answer = lambda request: request.stream([event])
    with pytest.raises(ReasonerUnavailable, match=r'\*\*\* is over its quota'):
        made.reason(FRAME, QUERY)
    made.close()


def test_a_password_in_an_address_that_is_none_is_not_repeated():
    said = refused('htp://me:pass@host/v1', MODEL)
    assert 'pass' not in said and '***@host' in said


def for_ever(chunk: bytes) -> Callable[[Request], None]:
    """A server that sends the same again and again, until the client hangs up."""

    def answer(request: Request) -> None:
        request.send_response(200)
        request.send_header('Content-Type', 'text/event-stream')
        request.end_headers()
        while True:
            request.wfile.write(chunk)

    return answer


def test_a_model_that_never_ends_is_stopped_at_what_its_tokens_can_be(server):
    made = OpenAIReasoner(server.url, MODEL, max_new_tokens=20)
    server.answer = for_ever(piece('bla ' * 10))
    with pytest.raises(MalformedAnswer, match='more than 1280 characters') as caught:
        made.reason(FRAME, QUERY)
    assert 1000 < len(caught.value.raw_answer) <= 1280
    assert answers_again(server, made)
    made.close()


@pytest.mark.parametrize('chunk', [b'x' * 65536, b': keep alive\n\n' * 5000])
def test_a_server_that_floods_is_left(server, reasoner, monkeypatch, chunk):
    monkeypatch.setattr(model_server, 'MAX_RESPONSE_BYTES', 3_000_000)
    server.answer = for_ever(chunk)
    with pytest.raises(ReasonerUnavailable, match='more than 3 MB'):
        reasoner.reason(FRAME, QUERY)
    assert answers_again(server, reasoner)


def test_a_list_of_models_without_end_is_left(server, monkeypatch):
    monkeypatch.setattr(model_server, 'MAX_RESPONSE_BYTES', 3_000_000)
    server.listing = for_ever(b'["x",' * 10_000)
    assert 'more than 3 MB' in refused(server.url, MODEL)


def test_what_comes_compressed_is_not_inflated(server, reasoner):
    server.answer = lambda request: request.reply(
        200, gzip.compress(bytes(50_000_000)), headers={'Content-Encoding': 'gzip'}
    )
    with pytest.raises(ReasonerUnavailable, match='compressed'):
        reasoner.reason(FRAME, QUERY)
    assert server.seen[-1][1]['Accept-Encoding'] == 'identity'
    assert answers_again(server, reasoner)


def test_nothing_of_a_query_stays_behind_when_the_next_one_begins(server, reasoner):
    for _ in range(3):
        server.answer = lambda request: request.stream(HALF)
        with pytest.raises(MalformedAnswer):
            reasoner.reason(FRAME, QUERY)
        grounding = reasoner.reason(FRAME, QUERY) if answers_again(server, reasoner) else None
        assert grounding is not None and grounding.raw_answer == ANSWER


@pytest.fixture(scope='module')
def served(transformers_server, tiny_qwen2_5_vl) -> Iterator[OpenAIReasoner]:
    made = OpenAIReasoner(transformers_server, str(tiny_qwen2_5_vl))
    yield made
    made.close()


@pytest.fixture(scope='module')
def pairs(make_tiny_checkpoints) -> list:
    """Pictures and queries that the small checkpoint knows, with its answers."""
    return make_tiny_checkpoints.example_pairs()


# The model is trained on the spot and the server loads torch: minutes on a busy machine.
@pytest.mark.timeout(600)
def test_a_real_server_with_a_real_model_answers_over_the_network(served, pairs):
    for pair in pairs[:2]:
        words: list[str] = []
        grounding = served.reason(Frame(pair.image), Query(pair.query), words.append)
        assert grounding.raw_answer == pair.answer
        (found,) = grounding.objects
        assert 0 <= found.box[0] < found.box[2] <= pair.image.shape[1]
        assert len(words) > 1 and ''.join(words) == grounding.reasoning
        assert grounding.generated_tokens > 10


@pytest.mark.timeout(600)
def test_a_real_server_answers_as_the_same_weights_do_in_process(served, pairs, tiny_qwen2_5_vl):
    options = ReasonerOptions('transformers', str(tiny_qwen2_5_vl), device='cpu', time_limit=300.0)
    inside = load_reasoner(options)
    for pair in pairs:
        frame, query = Frame(pair.image), Query(pair.query)
        over, here = served.reason(frame, query), inside.reason(frame, query)
        assert over.raw_answer == here.raw_answer == pair.answer
        assert over.objects == here.objects
    inside.close()


def test_a_real_server_that_finds_nothing_says_so(served, pairs):
    pair = pairs[-1]
    grounding = served.reason(Frame(pair.image), Query(pair.query))
    assert grounding.objects == () and grounding.raw_answer == pair.answer


def test_a_real_server_stops_when_it_is_cancelled_and_answers_the_next(served, pairs):
    pair = pairs[0]
    told: list[str] = []
    with pytest.raises(Cancelled):
        served.reason(Frame(pair.image), Query(pair.query), told.append, lambda: len(told) > 1)
    assert served.reason(Frame(pair.image), Query(pair.query)).raw_answer == pair.answer


def test_a_real_server_refuses_another_model(transformers_server, pairs):
    made = OpenAIReasoner(transformers_server, 'Ricky06662/VisionReasoner-7B')
    with pytest.raises(ReasonerUnavailable, match='pinned'):
        made.reason(Frame(pairs[0].image), QUERY)
    made.close()
