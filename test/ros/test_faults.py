"""What goes wrong while the node runs is answered, and the node recovers without a restart."""

from collections.abc import Iterator

from action_msgs.msg import GoalStatus
import pytest

from segzero_ros.msg import SegmentationResult as Result

GOOD = (Result.OK, Result.NOT_FOUND)


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node({'time_limit': 1.0, 'queue_size': 50}, arguments=['-r', '__ns:=/faulty'])


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client('faulty')
    client.wait_for_server()
    client.wait_for_state('active')
    client.good = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status == Result.OK, 'a frame')
    return client


@pytest.fixture(autouse=True)
def recovers(request) -> Iterator[None]:
    """See that the node lives, is active by itself and answers, whatever was done to it."""
    node, client = (request.getfixturevalue(name) for name in ('node', 'client'))
    yield
    assert node.running, node.output
    client.wait_for_state('active')
    client.until(lambda: client.once('all well?').status == Result.OK, 'a good answer')


@pytest.mark.parametrize('text', ['run out of memory', 'run out of memory later'])
def test_a_gpu_without_memory_is_an_error_and_the_next_query_is_answered(client, text):
    result = client.once(text)
    assert result.status == Result.ERROR
    assert 'out of memory' in result.message
    assert client.once('smaller').status == Result.OK


@pytest.fixture
def impatient(client) -> Iterator[None]:
    """Leave models behind soon."""
    client.set_parameter('stuck_after', 1.0)
    yield
    client.set_parameter('stuck_after', 60.0)


@pytest.mark.parametrize('text', ['get stuck', 'segment for ever'])
@pytest.mark.usefixtures('impatient')
def test_models_past_their_time_are_left_behind_and_loaded_anew(node, client, text):
    client.results.forget()
    loaded = node.output.count('Loading')
    client.say(text)
    client.say('waiting behind it')
    result = client.results.wait_for(lambda r: r.query == text)
    assert result.status == Result.TIMEOUT
    assert 'time_limit allows 1 s' in result.message
    waiting = client.results.wait_for(lambda r: r.query == 'waiting behind it')
    assert waiting.status in (Result.CANCELED, Result.OK)
    client.until(lambda: node.output.count('Loading') > loaded, 'the models are loaded anew')
    client.wait_for_state('active')
    client.until(lambda: client.once('well again?').status == Result.OK, 'a good answer')
    assert len([r for r in client.results if r.query == text]) == 1


@pytest.mark.usefixtures('impatient')
def test_models_that_ignore_a_cancel_are_left_behind(client):
    feedback = client.new_inbox()
    handle = client.send_goal('get stuck', feedback=feedback)
    feedback.wait_for(lambda message: message.stage == 1)
    client.wait(handle.cancel_goal_async())
    ended, result = client.outcome(handle)
    assert (ended, result.status) == (GoalStatus.STATUS_CANCELED, Result.CANCELED)
    assert 'did not stop' in result.message


@pytest.mark.usefixtures('impatient')
def test_deactivation_comes_to_an_end_although_the_models_are_stuck(client):
    feedback = client.new_inbox()
    handle = client.send_goal('get stuck', feedback=feedback)
    feedback.wait_for(lambda message: message.stage == 1)
    assert client.transition('deactivate')
    assert client.outcome(handle)[1].status == Result.CANCELED
    # The models are loaded anew by and by; then the node can be activated as ever.
    client.until(lambda: client.state() == 'inactive' and client.transition('activate'), 'active')
