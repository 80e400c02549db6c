"""A server's key is nowhere but in the request to that server, whatever goes wrong."""

import base64
import threading

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from scripted_server import free_port, HALF, MODEL, piece, running, WELL

from segzero_ros.msg import SegmentationResult as Result

KEY = 'sk-nobody-may-read-this'
PASSWORD = 'nor-this'
CODED = base64.b64encode(f'me:{PASSWORD}'.encode()).decode()
# What each way of telling who asks has to keep.
SECRETS = {'key': (KEY,), 'password': (PASSWORD, CODED)}


def quoting(status):
    """Return a server that repeats in its refusal what it was sent."""

    def answer(request):
        said = f'not with {request.headers["Authorization"]}'
        request.reply(status, {'error': {'message': said, 'code': status}})

    return answer


def error_in_stream(request):
    request.stream(
        [*HALF, f'data: {{"error": {{"message": "bad {KEY} {PASSWORD} {CODED}"}}}}\n\n'.encode()]
    )


WRONG = {
    'not allowed': (quoting(401), 'OUR_KEY'),
    'not found': (quoting(404), '404'),
    'too much': (quoting(429), '429'),
    'broken': (quoting(500), '500'),
    'an error in the stream': (error_in_stream, '***'),
    'no JSON': (lambda request: request.stream([b'data: {nonsense\n\n']), ''),
    'half an answer': (lambda request: request.stream(HALF), 'broke off'),
    'babble': (lambda request: request.stream([piece('hm'), piece(finish='stop')]), 'parsed'),
}


@pytest.fixture(scope='module')
def server():
    with running() as made:
        yield made


@pytest.fixture(scope='module', params=['key', 'password'])
def secret(request):
    """How the server knows who asks."""
    return request.param


@pytest.fixture(scope='module')
def node(node_process, server, secret):
    url = server.url
    if secret == 'password':
        url = url.replace('http://', f'http://me:{PASSWORD}@')
    node = node_process(
        {
            'reasoner.backend': 'openai',
            'server.base_url': url,
            'reasoner.model': MODEL,
            'server.api_key_env': 'OUR_KEY',
        },
        profile='offline',
        arguments=['-r', f'__ns:=/{secret}', '--log-level', 'debug'],
        environment={'OUR_KEY': KEY} if secret == 'key' else None,
    )
    yield node
    node.kill()


@pytest.fixture(scope='module')
def heard(node, secret, new_client, as_image_message, red_and_blue):
    """A client that keeps everything that the node publishes."""
    client = new_client(secret)
    deep = QoSProfile(depth=1000)
    client.kept = [client.listen(Log, '/rosout', deep), client.results, client.reasoning]
    client.kept.append(client.listen(DiagnosticArray, '/diagnostics', deep))
    client.picture = as_image_message(red_and_blue)
    client.wait_for_server()
    client.wait_for_state('active')
    return client


@pytest.mark.parametrize('case', WRONG)
def test_no_error_of_a_server_lets_its_key_out(node, heard, server, case):
    server.answer, said = WRONG[case]
    result = heard.once(f'{case}?', heard.picture)
    assert result.status in (Result.ERROR, Result.MALFORMED_ANSWER)
    assert said in result.message
    server.answer = lambda request: request.stream(WELL)
    assert heard.once(f'after {case}?', heard.picture).status == Result.OK
    # It was sent, else this would prove nothing; the watch, which asks meanwhile, sends none.
    asked = [headers for _, headers, body in server.seen if body is not None]
    assert asked[-1]['Authorization'] in (f'Bearer {KEY}', f'Basic {CODED}')


def test_the_secret_is_in_no_log_result_or_diagnostics(node, heard, secret):
    heard.kept[-1].wait_for()
    everything = [node.output, *(str(list(inbox)) for inbox in heard.kept)]
    assert min(map(len, everything)) > 500
    assert not [word for word in SECRETS[secret] for text in everything if word in text]
    assert ('base_url holds a password' in node.output) == (secret == 'password')


def test_the_key_is_in_no_parameter(heard, secret):
    names = heard.call(ListParameters, 'perception/list_parameters', ListParameters.Request())
    request = GetParameters.Request(names=names.result.names)
    values = str(heard.call(GetParameters, 'perception/get_parameters', request).values)
    assert 'OUR_KEY' in values
    assert KEY not in values


@pytest.mark.parametrize('atomically', [True, False])
@pytest.mark.parametrize('name', ['server.base_url', 'server.api_key_env'])
def test_nobody_on_the_graph_can_have_another_secret_sent_or_sent_elsewhere(
    node, heard, server, name, atomically
):
    before = heard.get_parameter(name)
    wanted = [Parameter('track', value=True), Parameter(name, value='PATH')]
    messages = [parameter.to_parameter_msg() for parameter in wanted]
    for state in ('inactive', 'unconfigured'):
        if heard.state() != state:
            assert heard.transition('deactivate' if state == 'inactive' else 'cleanup')
        if atomically:
            request = SetParametersAtomically.Request(parameters=messages)
            service = 'perception/set_parameters_atomically'
            refused = heard.call(SetParametersAtomically, service, request).result
        else:
            request = SetParameters.Request(parameters=messages[1:])
            (refused,) = heard.call(SetParameters, 'perception/set_parameters', request).results
        assert not refused.successful
        assert 'start it with the new value' in refused.reason
        assert refused.reason.startswith(f'{name} is read-only')
    assert heard.get_parameter(name) == before
    assert not heard.get_parameter('track')
    request = DescribeParameters.Request(names=[name])
    described = heard.call(DescribeParameters, 'perception/describe_parameters', request)
    assert described.descriptors[0].read_only
    assert heard.transition('configure') and heard.transition('activate')
    server.answer = lambda request: request.stream(WELL)
    assert heard.once(f'after {name}?', heard.picture).status == Result.OK
    asked = [headers for _, headers, body in server.seen if body is not None]
    assert asked[-1]['Authorization'] in (f'Bearer {KEY}', f'Basic {CODED}')


def test_a_server_that_vanishes_in_mid_stream_and_comes_back_is_asked_again(
    node_process, new_client, as_image_message, red_and_blue
):
    port = free_port()
    namespace = 'vanishing'
    picture = as_image_message(red_and_blue)
    begun, gone = threading.Event(), threading.Event()

    def half(request):
        request.send_response(200)
        request.send_header('Content-Type', 'text/event-stream')
        request.end_headers()
        for event in HALF:
            request.wfile.write(event)
        begun.set()
        gone.wait(20)

    with running(port) as server:
        server.answer = half
        node_process(
            {'reasoner.backend': 'openai', 'server.base_url': server.url, 'reasoner.model': MODEL},
            profile='offline',
            arguments=['-r', f'__ns:=/{namespace}'],
        )
        client = new_client(namespace)
        client.wait_for_server()
        client.wait_for_state('active')
        handle = client.send_goal('is it there?', picture)
        assert begun.wait(20)
    gone.set()
    result = client.outcome(handle)[1]
    assert result.status == Result.MALFORMED_ANSWER
    assert result.raw_answer.startswith('<think>The mug')
    while_gone = client.once('anybody?', picture)
    assert while_gone.status == Result.ERROR
    assert 'No server answers' in while_gone.message
    assert client.state() == 'active'
    with running(port):
        assert client.once('back again?', picture).status == Result.OK
