"""What hangs beside a query holds up neither the node, nor a transition, nor the process."""

from collections.abc import Iterator
from contextlib import contextmanager

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest

from segzero_ros.msg import SegmentationResult as Result

HANGS = 'This hangs.'


@pytest.fixture(scope='module')
def start(scripted_node, new_client, red_and_blue):
    """Give a function that starts a node with a camera; it returns both."""

    def make(namespace):
        node = scripted_node({'track': True}, arguments=['-r', f'__ns:=/{namespace}'])
        client = new_client(namespace)
        client.wait_for_server()
        client.wait_for_state('active')
        client.camera(red_and_blue)
        client.until(lambda: client.once('is there a picture?').status == Result.OK, 'a frame')
        return node, client

    return make


@pytest.fixture(scope='module')
def hanging(start):
    return start('hanging')


@contextmanager
def hanging_again(node, client) -> Iterator[None]:
    """Wait at the end until a model hangs that did not at the beginning."""
    before = node.output.count(HANGS)
    yield
    client.until(lambda: node.output.count(HANGS) > before, 'something hangs')


def hang_in_tracker(node, client):
    """Have objects followed by a tracker that hangs."""
    with hanging_again(node, client):
        assert client.once('hang while followed').status == Result.OK


def hang_in_encoder(node, client, picture):
    """Ask about a picture with which the encoder hangs, and give that up."""
    with hanging_again(node, client):
        handle = client.send_goal('the middle', picture)
    client.wait(handle.cancel_goal_async())
    assert client.outcome(handle)[0] == GoalStatus.STATUS_CANCELED


def begin(client, transition):
    """Begin a transition; return the future of its response."""
    number = getattr(Transition, f'TRANSITION_{transition.upper()}')
    request = ChangeState.Request(transition=Transition(id=number))
    before = client.state()
    future = client.call_async(ChangeState, 'perception/change_state', request)
    client.until(lambda: client.state() != before, 'it has begun')
    return future


@contextmanager
def impatient(client) -> Iterator[None]:
    """Let models be abandoned soon."""
    assert client.set_parameter('advanced.watchdog_timeout', 0.5)[0]
    yield
    assert client.set_parameter('advanced.watchdog_timeout', 60.0)[0]


def end(client, future):
    """See that a transition is held up, but not for longer than `advanced.watchdog_timeout`."""
    assert not future.done()
    with impatient(client):
        assert client.wait(future).success


def check_well(client):
    """See that the node is active, by itself or once told, and answers."""
    client.until(
        lambda: (
            client.state() == 'active'
            or (client.state() == 'inactive' and client.transition('activate'))
        ),
        'it is active',
    )
    client.until(lambda: client.once('well again?').status == Result.OK, 'a good answer')


def test_a_tracker_that_hangs_is_abandoned_and_the_node_answers_again(hanging):
    node, client = hanging
    tracked = client.listen(Result, 'tracked')
    hang_in_tracker(node, client)
    waiting = client.send_goal('waiting behind it')
    with impatient(client):
        result = client.outcome(waiting)[1]
    assert result.status == Result.CANCELED
    assert 'being reloaded' in result.message
    node.wait_for_output('No heartbeat from answering or tracking')
    node.wait_for_output(r'scripted_node.py.* in step')
    check_well(client)
    # Following goes on as well, with a tracker of the new models.
    answer = client.once('follow this')
    tracked.wait_for(lambda message: message.query_id == answer.query_id)


def test_deactivation_does_not_wait_for_a_tracker_that_hangs(hanging):
    node, client = hanging
    hang_in_tracker(node, client)
    end(client, begin(client, 'deactivate'))
    # Before other models are loaded there is nothing to activate, and nothing is half activated.
    if not client.transition('activate'):
        node.wait_for_output('NotConfigured: The models did not finish|Cannot activate while')
    check_well(client)
    assert 'AssertionError' not in node.output


def test_deactivation_does_not_wait_for_a_tracker_that_cannot_be_closed(hanging):
    node, client = hanging
    tracked = client.listen(Result, 'tracked')
    answer = client.once('hang when let go')
    tracked.wait_for(lambda message: message.query_id == answer.query_id)
    with hanging_again(node, client):
        deactivating = begin(client, 'deactivate')
    end(client, deactivating)
    check_well(client)


def test_cleanup_does_not_wait_for_an_encoder_that_hangs(hanging, as_image_message, red_and_blue):
    node, client = hanging
    hang_in_encoder(node, client, as_image_message(red_and_blue, 'hang in the encoder'))
    assert client.transition('deactivate')
    end(client, begin(client, 'cleanup'))
    assert client.state() == 'unconfigured'
    node.wait_for_output('No heartbeat from freeing the models')
    assert 'ros2 lifecycle set' in client.once('anybody there?').message
    assert client.transition('configure')
    check_well(client)


@pytest.mark.parametrize('what', ['tracker', 'encoder'])
def test_a_signal_ends_the_process_at_once_and_the_log_says_what_hangs(
    start, as_image_message, red_and_blue, what
):
    node, client = start('interrupted')
    if what == 'tracker':
        hang_in_tracker(node, client)
        begin(client, 'deactivate')
    else:
        hang_in_encoder(node, client, as_image_message(red_and_blue, 'hang in the encoder'))
        assert client.transition('deactivate')
        begin(client, 'cleanup')
    code, seconds = node.stop()
    assert code == 0
    assert seconds < 2.0
    doing = {'tracker': 'answering or tracking', 'encoder': 'freeing the models'}
    node.wait_for_output(f'The process exits while still {doing[what]}')
    node.wait_for_output(r'File ".*", line \d+, in (step|close)')
    client.close()
