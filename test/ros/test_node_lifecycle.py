"""Transitions in any order, parameters, failures to configure, and the end of the process."""

from itertools import pairwise
import re
import signal

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from segzero_ros.msg import SegmentationResult as Result

# State after each transition that is possible; all others are refused and change nothing.
POSSIBLE = {
    ('unconfigured', 'configure'): 'inactive',
    ('inactive', 'activate'): 'active',
    ('inactive', 'cleanup'): 'unconfigured',
    ('active', 'deactivate'): 'inactive',
}
TRANSITIONS = ('configure', 'activate', 'deactivate', 'cleanup')


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node({'autostart': False})


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client()
    client.wait_for_server()
    client.camera(red_and_blue)
    return client


def bring_to(client, state):
    """Bring the node into a lifecycle state from whatever state it is in."""
    paths = {
        ('unconfigured', 'inactive'): ['configure'],
        ('unconfigured', 'active'): ['configure', 'activate'],
        ('inactive', 'unconfigured'): ['cleanup'],
        ('inactive', 'active'): ['activate'],
        ('active', 'inactive'): ['deactivate'],
        ('active', 'unconfigured'): ['deactivate', 'cleanup'],
    }
    for transition in paths.get((client.state(), state), []):
        assert client.transition(transition)
    assert client.state() == state
    if state == 'active':
        client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)


def begin(client):
    """Send a goal and wait until the model writes; return its handle."""
    feedback = client.new_inbox()
    handle = client.send_goal('count for ever', feedback=feedback)
    feedback.wait_for(lambda message: message.reasoning_delta)
    return handle


@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('state', ['unconfigured', 'inactive', 'active'])
def test_every_transition_from_every_state_is_carried_out_or_refused(client, state, transition):
    bring_to(client, state)
    after = POSSIBLE.get((state, transition))
    assert client.transition(transition) == (after is not None)
    assert client.state() == (after or state)


@pytest.mark.parametrize('number', [0, 8, 10, 60, 97, 98, 99, 255])
def test_transitions_that_nobody_may_ask_for_are_refused(client, number):
    before = client.state()
    request = ChangeState.Request(transition=Transition(id=number))
    assert not client.call(ChangeState, 'perception/change_state', request).success
    assert client.state() == before


@pytest.mark.parametrize(
    ('label', 'state', 'after'),
    [
        ('configure', 'unconfigured', 'inactive'),
        ('activate', 'inactive', 'active'),
        ('no_such_thing', 'active', None),
        ('configure', 'active', None),
        ('transition_success', 'active', None),
    ],
)
def test_transitions_may_be_named_by_their_label(client, label, state, after):
    bring_to(client, state)
    request = ChangeState.Request(transition=Transition(label=label))
    response = client.call(ChangeState, 'perception/change_state', request)
    assert response.success == (after is not None)
    assert client.state() == (after or state)


@pytest.mark.parametrize('state', ['unconfigured', 'inactive'])
def test_a_node_that_is_not_active_rejects_on_every_way_in_and_says_what_to_do(client, state):
    bring_to(client, state)
    results = [client.ask(f'by topic while {state}'), client.once(f'by service while {state}')]
    ended, result = client.outcome(client.send_goal(f'by action while {state}'))
    assert ended == GoalStatus.STATUS_ABORTED
    results.append(result)
    for result in results:
        assert result.status == Result.REJECTED
        assert state in result.message
        assert 'ros2 lifecycle set /perception activate' in result.message


def test_deactivating_stops_the_model_and_answers_everything_that_is_under_way(client):
    bring_to(client, 'active')
    client.results.forget()
    running = begin(client)
    client.say('waiting by topic')
    waiting = client.send_goal('waiting by action')
    assert client.transition('deactivate')
    for handle in (running, waiting):
        ended, result = client.outcome(handle)
        assert (ended, result.status) == (GoalStatus.STATUS_ABORTED, Result.CANCELED)
        assert 'deactivated' in result.message
    client.results.wait_for(lambda r: r.query == 'waiting by topic' and r.status == 2)
    assert len(client.results) == 3
    bring_to(client, 'active')
    assert client.once('and again').status == Result.OK


@pytest.mark.parametrize('model', ['missing', 'broken', 'quitter'])
def test_a_failure_to_configure_leaves_a_node_that_can_be_configured(node, client, model):
    bring_to(client, 'unconfigured')
    assert client.set_parameter('reasoner.model', model)[0]
    assert not client.transition('configure')
    assert client.state() == 'unconfigured'
    said = {'missing': 'weights of', 'broken': 'cut off', 'quitter': 'SystemExit'}[model]
    node.wait_for_output('Transition configure failed')
    node.wait_for_output('Traceback')
    node.wait_for_output(said)
    # Who asks is told the cause, too.
    assert said in client.once('anybody there?').message
    assert client.set_parameter('reasoner.model', 'good')[0]
    assert client.transition('configure')
    bring_to(client, 'active')
    assert client.once('now it works').status == Result.OK


def test_models_that_cannot_be_had_are_answered_with_the_profiles_that_need_less(client):
    bring_to(client, 'unconfigured')
    client.set_parameter('reasoner.model', 'missing')
    client.transition('configure')
    message = client.once('anybody there?').message
    assert '`remote`' in message
    assert '`offline`' in message
    client.set_parameter('reasoner.model', 'good')


def test_the_node_answers_while_its_models_load_and_tells_the_step(client, node):
    bring_to(client, 'unconfigured')
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    lines = client.listen(String, 'status', latched)
    client.set_parameter('reasoner.model', 'slow')
    name, number = 'perception/change_state', Transition.TRANSITION_CONFIGURE
    request = ChangeState.Request(transition=Transition(id=number))
    configuring = client.call_async(ChangeState, name, request)
    client.until(lambda: client.state() == 'configuring', 'the transition has begun')
    step = 'Loading the models: reading the weights of slow (16.6 GB), for '
    # The step is known from the node's next look at its models.
    first = client.once('too early').message
    assert 'being loaded' in first or first.startswith(step)
    told = client.until(
        lambda: said if 'slow' in (said := client.once('too early').message) else None,
        'an answer tells the step',
    )
    assert told.startswith(step)
    assert told.endswith(' s. Send the query again when the node is active.')
    lines.wait_for(lambda line: line.data.startswith(f'OK | {step}'))
    node.wait_for_output('Loading: reading the weights of slow')
    assert not client.transition('activate')
    # The state machine's own transition must not be open to the outside.
    inner = ChangeState.Request(transition=Transition(label='transition_success'))
    assert not client.call(ChangeState, name, inner).success
    refused, reason = client.set_parameter('reasoner.model', 'other')
    assert not refused
    assert 'configuring' in reason
    assert client.wait(configuring).success
    assert client.state() == 'inactive'
    client.set_parameter('reasoner.model', 'good')


@pytest.mark.parametrize(
    ('name', 'good', 'bad'),
    [
        ('query.policy', 'reject', 'sometimes'),
        ('query.queue_size', 4, -1),
        ('camera.max_image_age', 7.5, -0.1),
        ('camera.max_depth_offset', 0.2, 'much'),
        ('advanced.max_pixels', 300000, 0),
        ('advanced.latency_warning', 2.5, -1.0),
    ],
)
def test_what_can_change_changes_at_once_and_bad_values_are_refused(client, name, good, bad):
    bring_to(client, 'active')
    before = client.get_parameter(name)
    assert client.set_parameter(name, good) == (True, '')
    assert client.get_parameter(name) == good
    taken, reason = client.set_parameter(name, bad)
    assert not taken
    assert reason
    assert client.get_parameter(name) == good
    assert client.once(f'after {name}').status == Result.OK
    client.set_parameter(name, before)


def test_a_whole_number_is_taken_for_a_number(client):
    assert client.set_parameter('camera.max_image_age', 9) == (True, '')
    assert client.get_parameter('camera.max_image_age') == 9.0
    client.set_parameter('camera.max_image_age', 5.0)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('reasoner.backend', 'attributes'), ('device', 'cpu'), ('segmenter.backend', 'grabcut')],
)
def test_what_the_models_are_made_of_cannot_change_under_them(client, name, value):
    bring_to(client, 'active')
    taken, reason = client.set_parameter(name, value)
    assert not taken
    assert 'deactivate' in reason
    bring_to(client, 'inactive')
    assert client.set_parameter(name, value) == (True, '')


def test_fixed_parameters_are_read_only_and_unknown_ones_are_refused(client):
    assert 'read-only' in client.set_parameter('autostart', True)[1]
    assert not client.set_parameter('no_such_parameter', 1)[0]


def test_shutdown_ends_in_finalized_and_the_process_lives_to_say_so(scripted_node, new_client):
    node = scripted_node(arguments=['-r', '__ns:=/third'])
    client = new_client('third')
    client.wait_for_server()
    client.wait_for_state('active')
    assert client.transition('active_shutdown')
    assert client.state() == 'finalized'
    assert not client.transition('configure')
    assert 'shut down' in client.once('anybody there?').message
    assert node.stop()[0] == 0


def test_autostart_that_fails_says_why_and_can_be_repaired(scripted_node, new_client):
    node = scripted_node({'reasoner.model': 'missing'}, arguments=['-r', '__ns:=/second'])
    node.wait_for_output('weights of `missing` are not on this machine')
    client = new_client('second')
    client.wait_for_server()
    assert client.state() == 'unconfigured'
    assert client.set_parameter('reasoner.model', 'good')[0]
    assert client.transition('configure')
    assert client.transition('activate')
    assert node.stop()[0] == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('script', ['count for ever', 'get stuck', 'segment for ever', 'many'])
def test_a_signal_ends_the_process_within_two_seconds_and_answers_first(
    scripted_node, new_client, red_and_blue, as_image_message, number, script
):
    node = scripted_node(arguments=['-r', '__ns:=/ending'])
    client = new_client('ending')
    client.wait_for_server()
    client.wait_for_state('active')
    picture = as_image_message(red_and_blue)
    handles = [client.send_goal(text, picture) for text in (script, 'waiting one')]
    futures = [handle.get_result_async() for handle in handles]
    client.until(lambda: handles[0].status == GoalStatus.STATUS_EXECUTING, 'the goal is executed')
    code, seconds = node.stop(number)
    assert code == 0
    assert seconds < 2.0
    for future in futures:
        response = client.wait(future)
        assert response.status == GoalStatus.STATUS_ABORTED
        assert response.result.result.status == Result.CANCELED
        assert 'shut down' in response.result.result.message
    client.results.wait_for_count(2, lambda result: result.status == Result.CANCELED)
    client.close()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_models_load_ends_the_process_too(scripted_node, number):
    node = scripted_node({'reasoner.model': 'slow'}, arguments=['-r', '__ns:=/loading'])
    node.wait_for_output('Loading')
    code, seconds = node.stop(number)
    assert code == 0
    assert seconds < 2.0


def test_the_log_shows_every_refused_transition_once(node, client):
    bring_to(client, 'inactive')
    lines = len(node.lines)
    assert not client.transition('configure')
    node.wait_for_output('Cannot configure while the node is inactive')
    refused = [line for line in node.lines[lines:] if re.search('Cannot configure', line)]
    assert len(refused) == 1
    assert not any(
        first == second for first, second in pairwise(node.lines[lines:]) if 'Cannot' in first
    )
