"""The profiles as a user starts them: the offline one answers, the robot's says what it lacks."""

from action_msgs.msg import GoalStatus
import numpy as np
import pytest

from segzero_ros.msg import SegmentationResult as Result

QUERY = 'the red thing on the left'


@pytest.fixture(scope='module')
def client(node_process, new_client, red_and_blue):
    node_process(profile='offline')
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.camera(red_and_blue)
    client.until(lambda: client.once(QUERY).status != Result.NO_IMAGE, 'a frame')
    return client


def check(result, picture):
    """See that the red thing, and nothing else, was found where it is."""
    assert result.status == Result.OK, result.message
    (found,) = result.objects
    true = np.all(picture == (210, 30, 30), axis=-1)
    mask = np.zeros(picture.shape[:2], bool)
    roi = found.mask_roi
    pixels = np.frombuffer(found.mask.data, np.uint8).reshape(roi.height, roi.width)
    mask[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] = (
        pixels > 0
    )
    assert (mask & true).sum() / (mask | true).sum() > 0.9
    assert 'red' in result.reasoning


def test_the_offline_profile_answers_on_the_topic(client, red_and_blue):
    client.results.forget()
    check(client.ask(QUERY), red_and_blue)


def test_the_offline_profile_answers_by_the_service(client, red_and_blue):
    check(client.once(QUERY), red_and_blue)


def test_the_offline_profile_answers_by_the_action_and_streams_its_reasoning(client, red_and_blue):
    feedback = client.new_inbox()
    client.reasoning.forget()
    status, result = client.outcome(client.send_goal(QUERY, feedback=feedback))
    assert status == GoalStatus.STATUS_SUCCEEDED
    check(result, red_and_blue)
    written = ''.join(message.reasoning_delta for message in feedback)
    assert result.reasoning.startswith(written)
    client.reasoning.wait_for(lambda message: message.data == '\n')
    assert ''.join(message.data for message in client.reasoning) == result.reasoning + '\n'


def test_what_is_not_there_is_not_found_and_a_success(client):
    status, result = client.outcome(client.send_goal('the yellow thing'))
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert result.status == Result.NOT_FOUND
    assert not result.objects
    assert result.message


def test_queries_about_the_same_frame_answer_the_same(client, red_and_blue, as_image_message):
    picture = as_image_message(red_and_blue)
    first, second = client.once(QUERY, picture), client.once(QUERY, picture)
    assert [(o.bbox, o.mask) for o in first.objects] == [(o.bbox, o.mask) for o in second.objects]
    assert first.reasoning == second.reasoning


def test_without_a_profile_the_node_names_what_is_missing_and_can_be_told_to_need_less(
    node_process, new_client, red_and_blue, as_image_message, tmp_path
):
    node = node_process(
        arguments=['-r', '__ns:=/bare'],
        environment={'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path), 'CUDA_VISIBLE_DEVICES': ''},
    )
    node.wait_for_output(r'\[ERROR\]', deadline=120)
    line = node.wait_for_output('Needs less')
    assert 'VisionReasoner-7B' in line or 'GPU' in line
    assert 'profile `remote`' in line
    assert 'profile:=offline' in line
    client = new_client('bare')
    client.wait_for_server()
    assert client.state() == 'unconfigured'
    assert 'profile `remote`' in client.once('anybody there?').message
    for name, value in (('reasoner.backend', 'attributes'), ('segmenter.backend', 'grabcut')):
        assert client.set_parameter(name, value) == (True, '')
    assert client.transition('configure')
    assert client.transition('activate')
    check(client.once(QUERY, as_image_message(red_and_blue)), red_and_blue)
