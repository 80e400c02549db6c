"""What goes wrong while the node runs is answered, and the node recovers without a restart."""

from collections.abc import Iterator
import ctypes

from action_msgs.msg import GoalStatus
import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import Image
from unique_identifier_msgs.msg import UUID

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult as Result


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node(
        {'limits.answer_time': 1.0, 'query.queue_size': 50}, arguments=['-r', '__ns:=/faulty']
    )


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


@pytest.mark.parametrize('text', ['quit', 'interrupt', 'close the generator', 'quit later'])
def test_what_would_end_the_program_fails_its_own_query_and_no_other(node, client, text):
    client.results.forget()
    ended = {}
    for query in (text, 'waiting behind it'):
        ended[query] = client.send_goal(query)
    outcome, result = client.outcome(ended[text])
    assert (outcome, result.status) == (GoalStatus.STATUS_ABORTED, Result.ERROR)
    assert 'tried to end the program' in result.message
    assert '\n' not in result.message
    assert client.outcome(ended['waiting behind it'])[1].status == Result.OK
    client.results.wait_for_count(2)
    assert len([r for r in client.results if r.query == text]) == 1
    # Sound models are not loaded anew.
    assert node.output.count('Loading') == node.output.count('Active: ')


def test_an_encoder_that_would_end_the_program_fails_its_own_query(
    client, as_image_message, red_and_blue
):
    picture = as_image_message(red_and_blue, 'quit in the encoder')
    result = client.once('the middle', picture)
    assert (result.status, 'SystemExit: 4' in result.message) == (Result.ERROR, True)


def test_a_tracker_that_would_end_the_program_ends_tracking_alone(node, client):
    assert client.set_parameter('track', True)[0]
    assert client.once('quit while followed').status == Result.OK
    node.wait_for_output('Tracking of the objects of query .* failed')
    assert client.once('and now?').status == Result.OK
    assert client.set_parameter('track', False)[0]


def test_masks_that_take_too_long_are_a_timeout_and_the_models_stay(node, client):
    loaded = node.output.count('Loading')
    result = client.once('many')
    assert result.status == Result.TIMEOUT
    assert 'limits.answer_time' in result.message
    assert result.timing.total < 8
    assert client.once('after that').status == Result.OK
    assert node.output.count('Loading') == loaded


def test_a_cancel_is_heard_between_the_masks_of_many_objects(client):
    feedback = client.new_inbox()
    handle = client.send_goal('many', feedback=feedback)
    feedback.wait_for(lambda message: message.stage == Segment.Feedback.SEGMENTING)
    client.wait(handle.cancel_goal_async())
    ended, result = client.outcome(handle)
    assert (ended, result.status) == (GoalStatus.STATUS_CANCELED, Result.CANCELED)


def test_results_of_torch_come_from_pools_while_the_node_answers(client):
    pytest.importorskip('torch')
    if not hasattr(ctypes.CDLL(None), 'mallinfo2'):
        pytest.skip('not glibc')
    # Only when torch is there at the beginning of an answer is it known to compute on the CPU; and
    # a picture may come meanwhile, which is mapped.
    counted = {client.once('take blocks').reasoning for _ in range(4)}
    assert '0 of 20 were mapped' in counted


def test_the_collector_passes_over_the_models_until_they_are_closed_and_over_those_after_them(
    node, client
):
    def passed_over():
        return int(client.once('collect').reasoning.split()[0])

    first = passed_over()
    assert first > 10_000
    assert client.transition('deactivate') and client.transition('cleanup')
    node.wait_for_output(r'Closed with 0 passed over\.')
    assert client.transition('configure') and client.transition('activate')
    client.until(lambda: client.once('a picture?').status == Result.OK, 'a frame')
    # More where a test before has loaded a library.
    assert passed_over() > 0.9 * first


@pytest.fixture
def impatient(client) -> Iterator[None]:
    """Leave models behind soon."""
    client.set_parameter('advanced.watchdog_timeout', 1.0)
    yield
    client.set_parameter('advanced.watchdog_timeout', 60.0)


@pytest.mark.parametrize('text', ['get stuck', 'segment for ever'])
@pytest.mark.usefixtures('impatient')
def test_models_past_their_time_are_abandoned_and_loaded_anew(node, client, text):
    client.results.forget()
    loaded = node.output.count('Loading')
    client.say(text)
    client.say('waiting behind it')
    result = client.results.wait_for(lambda r: r.query == text)
    assert result.status == Result.TIMEOUT
    assert 'limits.answer_time is 1 s' in result.message
    waiting = client.results.wait_for(lambda r: r.query == 'waiting behind it')
    assert waiting.status in (Result.CANCELED, Result.OK)
    client.until(lambda: node.output.count('Loading') > loaded, 'the models are loaded anew')
    client.wait_for_state('active')
    client.until(lambda: client.once('well again?').status == Result.OK, 'a good answer')
    assert len([r for r in client.results if r.query == text]) == 1


@pytest.mark.usefixtures('impatient')
def test_models_that_were_abandoned_write_no_more_reasoning(node, client):
    client.reasoning.forget()
    handle = client.send_goal('write on regardless')
    client.reasoning.wait_for(lambda message: message.data.startswith('old'))
    assert client.outcome(handle)[1].status == Result.TIMEOUT
    client.until(
        lambda: client.state() == 'active' and client.once('count to 3').status == Result.OK,
        'the next answer',
    )
    client.reasoning.wait_for(lambda message: message.data == '2 ')
    written = [message.data for message in client.reasoning]
    end = written.index('\n')
    assert all(word.startswith('old') for word in written[:end])
    assert not [word for word in written[end:] if word.startswith('old')]


@pytest.mark.usefixtures('impatient')
def test_models_that_ignore_a_cancel_are_abandoned(client):
    feedback = client.new_inbox()
    handle = client.send_goal('get stuck', feedback=feedback)
    feedback.wait_for(lambda message: message.stage == 1)
    client.wait(handle.cancel_goal_async())
    ended, result = client.outcome(handle)
    assert (ended, result.status) == (GoalStatus.STATUS_CANCELED, Result.CANCELED)
    assert 'did not stop' in result.message


@pytest.mark.usefixtures('impatient')
def test_feedback_is_sent_only_of_goals_that_are_executing(node, client):
    client.outcome(client.send_goal('count to 3'))
    feedback = client.new_inbox()
    handle = client.send_goal('write on regardless', feedback=feedback)
    feedback.wait_for(lambda message: message.reasoning_delta)
    client.wait(handle.cancel_goal_async())
    assert client.outcome(handle)[0] == GoalStatus.STATUS_CANCELED
    assert feedback[0].stage == Segment.Feedback.QUEUED
    assert 'Feedback while' not in node.output


@pytest.mark.usefixtures('impatient')
def test_deactivation_comes_to_an_end_although_the_models_are_stuck(client):
    feedback = client.new_inbox()
    handle = client.send_goal('get stuck', feedback=feedback)
    feedback.wait_for(lambda message: message.stage == 1)
    assert client.transition('deactivate')
    assert client.outcome(handle)[1].status == Result.CANCELED
    # The models are loaded anew by and by; then the node can be activated as ever.
    client.until(lambda: client.state() == 'inactive' and client.transition('activate'), 'active')


def test_pictures_may_change_their_size_and_encoding_in_mid_stream(client, as_image_message):
    for width, height, encoding in ((320, 240, 'bgr8'), (64, 48, 'rgb8'), (640, 480, 'rgb8')):
        message = as_image_message(client.picture_of(width, height))
        message.encoding = encoding
        client.good.message = message
        client.until(
            lambda width=width: client.once(f'now {width} wide?').image_width == width,
            'an answer about the new picture',
        )


def test_of_two_goals_with_one_id_the_second_is_refused_and_the_first_is_answered(
    client, new_client
):
    other = new_client('faulty')
    other.wait_for_server()
    one_id = UUID(uuid=np.arange(16, dtype=np.uint8))
    client.results.forget()
    goal = Segment.Goal(query='count to 40')
    first = client.wait(client.action.send_goal_async(goal, goal_uuid=one_id))
    second = other.wait(other.action.send_goal_async(goal, goal_uuid=one_id))
    assert (first.accepted, second.accepted) == (True, False)
    assert client.outcome(first)[1].status == Result.OK
    assert len([r for r in client.results if r.query == 'count to 40']) == 1
    other.close()


def test_a_subscriber_that_never_looks_holds_nobody_up(client):
    # Its queue fills, for nobody spins the node that it belongs to.
    context = rclpy.context.Context()
    rclpy.init(context=context)
    sleeper = rclpy.create_node('sleeper', namespace='faulty', context=context)
    for kind, topic in ((Result, 'result'), (Image, 'overlay'), (Image, 'label_image')):
        sleeper.create_subscription(kind, topic, lambda _: None, 1)
    for number in range(30):
        assert client.once(f'question {number}').status == Result.OK
    sleeper.destroy_node()
    rclpy.shutdown(context=context)
