"""Queries go in by topic, service and action, and each comes back with exactly one result."""

from collections import Counter
import math

from action_msgs.msg import GoalStatus
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult as Result

ABORTED = GoalStatus.STATUS_ABORTED
CANCELED = GoalStatus.STATUS_CANCELED
SUCCEEDED = GoalStatus.STATUS_SUCCEEDED


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node({'query.queue_size': 3})


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.picture = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)
    return client


@pytest.fixture(autouse=True)
def fresh(client):
    """Begin each test with empty inboxes and the queue that the node was started with."""
    client.set_parameter('query.policy', 'queue')
    client.results.forget()
    client.reasoning.forget()


def begin(client, text='count for ever'):
    """Send a goal and wait until the model writes; return its handle."""
    feedback = client.new_inbox()
    handle = client.send_goal(text, feedback=feedback)
    feedback.wait_for(lambda message: message.reasoning_delta)
    return handle


def cancel(client, handle):
    """Cancel a goal; return its GoalStatus and its result."""
    assert client.wait(handle.cancel_goal_async()).goals_canceling
    return client.outcome(handle)


def test_a_query_on_the_topic_is_answered_with_the_header_of_its_frame(client):
    result = client.ask('the thing in the middle')
    assert result.status == Result.OK
    assert result.header.frame_id == 'camera_optical_frame'
    assert (result.header.stamp.sec, result.header.stamp.nanosec) in client.picture.stamps
    assert (result.image_width, result.image_height) == (320, 240)
    assert (result.reasoner, result.segmenter) == ('scripted', 'boxes')
    (found,) = result.objects
    assert found.label == 'the thing in the middle'
    assert found.mask.header == result.header
    assert 0 <= result.timing.frame_age < 5
    assert result.timing.total > 0
    assert len(result.query_id) == 32


def test_the_service_gives_the_result_that_is_published(client):
    answered = client.once('by service')
    published = client.results.wait_for(lambda result: result.query == 'by service')
    assert answered == published
    assert answered.status == Result.OK


def test_a_goal_ends_succeeded_with_the_published_result_and_its_own_id(client):
    feedback = client.new_inbox()
    handle = client.send_goal('count to 5', feedback=feedback)
    status, result = client.outcome(handle)
    assert (status, result.status) == (SUCCEEDED, Result.OK)
    assert result.query_id == bytes(handle.goal_id.uuid).hex()
    assert result == client.results.wait_for(lambda other: other.query_id == result.query_id)
    stages = [message.stage for message in feedback]
    assert stages == sorted(stages)
    assert stages[0] == Segment.Feedback.QUEUED
    # A client of rclpy drops feedback that it has not looked at when the goal ends.
    written = ''.join(message.reasoning_delta for message in feedback)
    assert '0 1 2 3 4 '.startswith(written)
    assert written
    elapsed = [message.elapsed for message in feedback]
    assert elapsed == sorted(elapsed)


def test_the_reasoning_is_published_as_it_is_written_and_ends_with_a_line_end(client):
    client.once('count to 3')
    client.reasoning.wait_for(lambda message: message.data == '\n')
    assert [message.data for message in client.reasoning] == ['0 ', '1 ', '2 ', '\n']


def test_an_image_with_the_query_is_asked_about_instead_of_the_camera(client, as_image_message):
    picture = as_image_message(client.picture_of(100, 60), 'gripper')
    picture.header.stamp.sec = 1234
    result = client.once('in my own picture', picture)
    assert result.status == Result.OK
    assert result.header == picture.header
    assert (result.image_width, result.image_height) == (100, 60)
    status, result = client.outcome(client.send_goal('as a goal', picture))
    assert (status, result.header) == (SUCCEEDED, picture.header)


def test_the_age_of_an_unstamped_image_with_a_query_is_unknown(client, as_image_message):
    result = client.once('unstamped', as_image_message(client.picture_of(40, 40)))
    assert math.isnan(result.timing.frame_age)


def test_a_goal_is_cancelled_while_the_model_writes(client):
    handle = begin(client)
    status, result = cancel(client, handle)
    assert (status, result.status) == (CANCELED, Result.CANCELED)
    assert 'client' in result.message
    assert result.raw_answer.startswith('counted to')
    assert result.header.frame_id == 'camera_optical_frame'
    # The model has stopped: the next query is answered.
    assert client.ask('after the cancel').status == Result.OK


def test_the_service_cancels_what_runs_and_what_waits(client):
    running = begin(client)
    waiting = client.send_goal('never begun')
    assert client.call(Trigger, 'cancel', Trigger.Request()).message == '2 queries cancelled.'
    for goal in (running, waiting):
        status, result = client.outcome(goal)
        # No client cancelled these goals.
        assert (status, result.status) == (ABORTED, Result.CANCELED)
        assert result.message == 'Cancelled by the service cancel.'
    assert client.ask('after the service').status == Result.OK
    answered = client.call(Trigger, 'cancel', Trigger.Request())
    assert (answered.success, answered.message) == (True, 'There was no query.')


def test_a_goal_is_cancelled_while_it_waits(client):
    running = begin(client)
    waiting = client.send_goal('never begun')
    status, result = cancel(client, waiting)
    assert (status, result.status) == (CANCELED, Result.CANCELED)
    assert result.reasoner == ''
    assert cancel(client, running)[0] == CANCELED


def test_a_cancel_after_the_end_changes_nothing(client):
    handle = client.send_goal('quick one')
    client.outcome(handle)
    assert not client.wait(handle.cancel_goal_async()).goals_canceling
    assert client.outcome(handle)[1].status == Result.OK


@pytest.mark.parametrize(
    ('text', 'status', 'words'),
    [
        ('explode', Result.ERROR, 'exploded as told'),
        ('babble', Result.MALFORMED_ANSWER, 'no box in it'),
        ('dawdle', Result.TIMEOUT, 'longer than it may'),
    ],
)
def test_a_failing_model_ends_the_goal_aborted_with_the_reason(client, text, status, words):
    ended, result = client.outcome(client.send_goal(text))
    assert (ended, result.status) == (ABORTED, status)
    assert words in result.message
    assert client.ask(f'after {text}').status == Result.OK


def test_an_unforeseen_error_is_logged_with_its_traceback(node, client):
    client.once('explode')
    node.wait_for_output(r'\[ERROR\].*perception')
    node.wait_for_output(r'Traceback')
    node.wait_for_output(r'RuntimeError: exploded as told')


def test_the_raw_text_of_a_malformed_answer_is_published(client):
    assert client.ask('babble').raw_answer == 'blah blah'


def test_with_queue_the_waiting_are_answered_in_order_and_the_overflow_is_rejected(client):
    running = begin(client)
    for number in range(5):
        client.say(f'waiting {number}')
    rejected = client.results.wait_for_count(2)
    assert [result.query for result in rejected] == ['waiting 3', 'waiting 4']
    assert {result.status for result in rejected} == {Result.REJECTED}
    assert 'queue_size' in rejected[0].message
    cancel(client, running)
    answered = client.results.wait_for_count(3, lambda result: result.status == Result.OK)
    assert [result.query for result in answered] == ['waiting 0', 'waiting 1', 'waiting 2']
    assert all(result.timing.queued > 0 for result in answered)


def test_with_reject_a_busy_node_names_what_it_is_busy_with(client):
    client.set_parameter('query.policy', 'reject')
    running = begin(client)
    result = client.once('one too many')
    assert result.status == Result.REJECTED
    assert 'count for ever' in result.message
    ended, result = client.outcome(client.send_goal('another one'))
    assert (ended, result.status) == (ABORTED, Result.REJECTED)
    cancel(client, running)
    assert client.once('now there is time').status == Result.OK


def test_with_preempt_a_newer_query_replaces_the_running_goal(client):
    client.set_parameter('query.policy', 'preempt')
    running = begin(client)
    assert client.ask('the newer one').status == Result.OK
    ended, result = client.outcome(running)
    # Nobody asked to cancel it: CANCELED would say that its client did.
    assert (ended, result.status) == (ABORTED, Result.CANCELED)
    assert 'Replaced by' in result.message
    assert 'the newer one' in result.message


@pytest.mark.parametrize('policy', ['queue', 'reject', 'preempt'])
def test_a_burst_of_two_hundred_gets_two_hundred_results(client, policy):
    client.set_parameter('query.policy', policy)
    texts = [f'{policy} {number}' for number in range(200)]
    for text in texts:
        client.say(text)
    results = client.results.wait_for_count(200)
    assert sorted(result.query for result in results) == sorted(texts)
    counts = Counter(result.status for result in results)
    assert counts[Result.OK] >= 1
    assert set(counts) <= {Result.OK, Result.REJECTED, Result.CANCELED}
    assert all(result.message for result in results if result.status != Result.OK)
    if policy == 'preempt':
        last = next(result for result in results if result.query == texts[-1])
        assert last.status == Result.OK
    assert len(client.results) == 200
    client.ask('nothing came after them')
    assert len(client.results) == 201


def test_twenty_callers_of_the_service_and_the_action_are_all_answered(client):
    from segzero_ros.srv import SegmentOnce

    client.set_parameter('query.queue_size', 100)
    futures = [
        client.call_async(SegmentOnce, 'segment_once', SegmentOnce.Request(query=f'call {number}'))
        for number in range(20)
    ]
    handles = [client.send_goal(f'goal {number}') for number in range(20)]
    answers = [client.wait(future).result.query for future in futures]
    assert answers == [f'call {number}' for number in range(20)]
    outcomes = [client.outcome(handle) for handle in handles]
    assert [result.query for _, result in outcomes] == [f'goal {n}' for n in range(20)]
    assert {status for status, _ in outcomes} == {SUCCEEDED}
    client.set_parameter('query.queue_size', 3)


def test_a_client_that_leaves_in_the_middle_harms_nobody(client, new_client):
    leaver = new_client()
    leaver.wait_for_server()
    begin(leaver, 'count to 30')
    leaver.close()
    assert client.ask('still here').status == Result.OK


def test_the_health_is_on_diagnostics(client):
    from diagnostic_msgs.msg import DiagnosticArray

    health = client.listen(DiagnosticArray, '/diagnostics')
    client.once('babble')
    failed = health.wait_for(lambda message: 'no box in it' in message.status[2].message)
    models, camera, queries, _ = failed.status
    assert models.message == 'scripted and boxes are ready.'
    values = {value.key: value.value for value in camera.values}
    assert (values['topic'], values['image'], values['qos']) == (
        '/image',
        'rgb8 320x240',
        'reliable',
    )
    assert float(values['rate'].removesuffix(' Hz')) > 1
    assert queries.level == b'\x01'
    client.once('all is well again')
    well = health.wait_for(lambda message: message.status[2].level == b'\x00')
    assert int({value.key: value.value for value in well.status[2].values}['failed']) >= 1


def test_one_line_on_status_tells_how_the_node_is(client):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    first = client.listen(String, 'status', latched)
    well = first.wait_for(lambda message: message.data.startswith('OK | '))
    assert well.data.endswith(' | scripted and boxes are ready.')
    client.once('babble')
    failed = first.wait_for(lambda message: message.data.startswith('WARN | queries: '))
    assert 'no box in it' in failed.data
    late = client.listen(String, 'status', latched)
    assert late.wait_for().data
    client.once('all is well again')
    first.forget()
    first.wait_for(lambda message: message.data.startswith('OK | '))


def test_every_query_is_logged_with_its_outcome(node, client):
    client.once('log me')
    node.wait_for_output(r'\[INFO\].*“log me”.*OK, 1 objects')
    client.once('babble')
    node.wait_for_output(r'\[WARN\].*“babble”.*MALFORMED_ANSWER.*no box in it')


def test_pictures_are_made_only_for_who_subscribes(client):
    from sensor_msgs.msg import Image
    from visualization_msgs.msg import MarkerArray

    inboxes = {
        topic: client.listen(kind, topic)
        for topic, kind in (('overlay', Image), ('label_image', Image), ('markers', MarkerArray))
    }
    client.until(
        lambda: all(client.node.count_publishers(topic) for topic in inboxes), 'publishers'
    )
    client.until(lambda: [client.once('for the picture'), all(inboxes.values())][1])
    result = client.once('for the picture')
    stamp = result.header.stamp
    overlay = inboxes['overlay'].wait_for(lambda message: message.header.stamp == stamp)
    labels = inboxes['label_image'].wait_for(lambda message: message.header.stamp == stamp)
    assert overlay.header == labels.header == result.header
    assert overlay.encoding == 'rgb8'
    assert (labels.encoding, labels.width, labels.height) == ('mono16', 320, 240)
    assert set(labels.data) == {0, 1}


def test_what_is_no_text_in_the_reasoning_is_passed_on_as_missing(client):
    feedback = client.new_inbox()
    status, result = client.outcome(client.send_goal('stammer', feedback=feedback))
    assert (status, result.status) == (SUCCEEDED, Result.OK)
    readable = 'half a smile \ufffd, nothing \ufffd and the end'
    assert {message.reasoning_delta for message in feedback} <= {'', readable}
    assert client.reasoning.wait_for(lambda message: message.data != '\n').data == readable
