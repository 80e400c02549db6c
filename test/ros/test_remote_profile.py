"""The node with its reasoning model behind a server: a real one, and one that does all wrong."""

from action_msgs.msg import GoalStatus
import numpy as np
import pytest
from scripted_server import ANSWER, free_port, HALF, MODEL, piece, running, WELL
from std_msgs.msg import String

from segzero_ros.msg import SegmentationResult as Result


@pytest.fixture(scope='module')
def remote_node(node_process, new_client, tiny_sam2):
    """Start a node of the remote profile; give it and a client that hears it."""

    def start(namespace: str, base_url: str, model: str, **parameters):
        node = node_process(
            {
                'server.base_url': base_url,
                'reasoner.model': model,
                'segmenter.model': str(tiny_sam2),
                'device': 'cpu',
                **parameters,
            },
            profile='remote',
            arguments=['-r', f'__ns:=/{namespace}'],
        )
        return node, new_client(f'/{namespace}')

    return start


@pytest.fixture(scope='module')
def server():
    with running() as made:
        yield made


@pytest.fixture(scope='module')
def client(remote_node, server):
    _, client = remote_node('scripted', server.url, MODEL, **{'limits.answer_time': 2.0})
    client.wait_for_server()
    client.wait_for_state('active', 120)
    return client


@pytest.fixture(scope='module')
def picture(as_image_message, red_and_blue):
    return as_image_message(red_and_blue)


# The model is trained on the spot and the server loads torch: minutes on a busy machine.
@pytest.mark.timeout(600)
def test_a_real_model_behind_a_real_server_answers_over_the_action(
    remote_node, transformers_server, tiny_qwen2_5_vl, make_tiny_checkpoints, as_image_message
):
    pair = make_tiny_checkpoints.example_pairs()[0]
    node, client = remote_node('real', transformers_server, str(tiny_qwen2_5_vl))
    client.wait_for_server()
    client.wait_for_state('active', 120)
    feedback = client.new_inbox()
    handle = client.send_goal(pair.query, as_image_message(pair.image, 'optical'), feedback)
    status, result = client.outcome(handle, 60)
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Result.OK), result.message
    assert result.raw_answer == pair.answer
    assert result.reasoner == f'{tiny_qwen2_5_vl} at {transformers_server}'
    assert result.segmenter == 'tiny_sam2.pt'
    assert result.header.frame_id == 'optical'
    assert ''.join(message.reasoning_delta for message in feedback) == result.reasoning
    (found,) = result.objects
    box = found.bbox
    inside = pair.image[box.y_offset : box.y_offset + box.height, box.x_offset :][:, : box.width]
    assert np.mean(inside == (200, 30, 30)) > 0.95
    assert found.mask.height * found.mask.width == len(found.mask.data) > 0
    assert result.timing.generated_tokens > 10
    assert node.stop()[1] < 5


def silent(request):
    request.stream(HALF)
    request.hung_up()


def die(request):
    """Stop in the middle of a piece, as a server does whose process is killed."""
    request.stream([*HALF, piece('never')[:20]])
    request.connection.close()


WRONG = {
    'an error inside': (
        lambda request: request.reply(500, {'error': {'message': 'out of memory'}}),
        Result.ERROR,
        'out of memory',
    ),
    'another model': (
        lambda request: request.reply(404, {'message': 'no such model'}),
        Result.ERROR,
        'no such model',
    ),
    'nobody at home': (
        lambda request: request.connection.close(),
        Result.ERROR,
        'No server answers',
    ),
    'another kind of server': (
        lambda request: request.reply(200, b'<html>Welcome</html>', 'text/html'),
        Result.ERROR,
        'base_url',
    ),
    'silence': (silent, Result.TIMEOUT, 'within 2 s'),
    'half an answer': (
        lambda request: request.stream(HALF),
        Result.MALFORMED_ANSWER,
        'broke off',
    ),
    'death in the middle': (die, Result.MALFORMED_ANSWER, 'broke'),
    'broken JSON': (
        lambda request: request.stream([*HALF, b'data: {"choices": [\n\n']),
        Result.MALFORMED_ANSWER,
        'no JSON',
    ),
    'JSON of something else': (
        lambda request: request.stream([*HALF, b'data: {"weather": "fine"}\n\n']),
        Result.MALFORMED_ANSWER,
        'no piece of a chat completion',
    ),
    'no answer': (
        lambda request: request.stream([piece('I see nothing.'), piece(finish='stop')]),
        Result.MALFORMED_ANSWER,
        'cannot be parsed',
    ),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_a_server_does_wrong_has_its_own_status_and_the_next_query_is_answered(
    client, server, picture, case
):
    server.answer, status, said = WRONG[case]
    result = client.once(f'{case}?', picture)
    assert (result.status, len(result.objects)) == (status, 0)
    assert said in result.message
    # One line for whoever reads it, and what was written until then is not lost.
    assert '\n' not in result.message and 'Traceback' not in result.message
    assert ANSWER.startswith(result.raw_answer) or case == 'no answer'
    server.answer = lambda request: request.stream(WELL)
    result = client.once(f'after {case}?', picture)
    assert result.status == Result.OK, result.message
    assert len(result.objects) == 2


def test_a_goal_is_cancelled_while_the_server_is_silent(client, server, picture):
    server.answer = silent
    feedback = client.new_inbox()
    handle = client.send_goal('wait for ever', picture, feedback)
    feedback.wait_for(lambda message: message.reasoning_delta)
    assert client.wait(handle.cancel_goal_async()).goals_canceling
    status, result = client.outcome(handle)
    assert (status, result.status) == (GoalStatus.STATUS_CANCELED, Result.CANCELED)
    assert result.timing.total < 2.0
    server.answer = lambda request: request.stream(WELL)
    assert client.once('and now?', picture).status == Result.OK


def test_a_node_whose_server_is_not_there_says_so_and_can_be_configured_once_it_is(
    remote_node, picture
):
    port = free_port()
    url = f'http://127.0.0.1:{port}/v1'
    node, client = remote_node('early', url, MODEL, autostart=False)
    assert not client.transition('configure', 60)
    node.wait_for_output(f'No server answers at {url}')
    with running(port):
        assert client.transition('configure', 60)
        assert client.transition('activate')
        assert client.once('are you there now?', picture).status == Result.OK


def test_a_server_that_vanishes_while_nobody_asks_is_in_the_diagnostics(remote_node):
    port = free_port()
    with running(port) as made:
        _, client = remote_node('vanishing', made.url, MODEL)
        client.wait_for_server()
        client.wait_for_state('active', 120)
        lines = client.listen(String, 'status')
        lines.wait_for(lambda message: message.data.startswith('ERROR | camera: '))
    gone = lines.wait_for(lambda message: 'No server answers' in message.data)
    assert gone.data.startswith('ERROR | models: ')
    assert 'Start it again' in gone.data
    lines.forget()
    with running(port):
        lines.wait_for(lambda message: 'No server answers' not in message.data)
