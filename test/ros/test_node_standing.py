"""The node asks by itself what is to be asked again, and makes way for everybody else."""

import numpy as np
import pytest

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.ros.perception.standing_query import changed_share, thumbnail

WATCH, FOREVER, MINE = 'watch the cup', 'count for ever', 'where is my cup'


@pytest.fixture(scope='module')
def client(scripted_node, new_client, red_and_blue):
    scripted_node({})
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.eye = client.camera(red_and_blue, rate=20)
    client.until(lambda: client.once('ready').status == Result.OK, 'a frame')
    return client


@pytest.fixture
def stand(client):
    """Return what sets the parameters; nothing stands before and after."""

    def set_parameters(values):
        for name, value in values.items():
            taken, reason = client.set_parameter(name, value)
            assert taken, reason

    off = {
        'standing_query.text': '',
        'standing_query.period': 0.0,
        'standing_query.on_change': 0.0,
    }
    set_parameters(off)
    assert client.once('nothing stands').status == Result.OK
    client.results.forget()
    client.reasoning.forget()
    yield set_parameters
    set_parameters({**off, 'query.policy': 'queue'})


def watched(result):
    return result.query == WATCH


def test_a_standing_query_is_asked_again_in_its_time_each_with_a_result_of_its_own(client, stand):
    stand({'standing_query.text': WATCH, 'standing_query.period': 0.4})
    results = client.results.wait_for_count(4, watched)
    assert len({result.query_id for result in results}) == len(results)
    stamps = [to_ns(result.header.stamp) / 1e9 for result in results]
    # Three times 0.4 s; each picture is up to a camera's period old, on a busy machine two.
    assert stamps[-1] - stamps[0] > 0.8
    assert min(np.diff(stamps)) > 0
    stand({'standing_query.text': ''})
    client.once('after the last')
    count = sum(map(watched, client.results))
    assert client.once('and still').status == Result.OK
    assert sum(map(watched, client.results)) == count


@pytest.mark.parametrize('policy', ['queue', 'reject', 'preempt'])
def test_it_makes_way_for_a_query_whatever_the_policy_and_comes_back(client, stand, policy):
    stand({'query.policy': policy, 'standing_query.text': FOREVER, 'standing_query.period': 0.2})
    client.reasoning.wait_for(lambda message: message.data.startswith('3'))
    client.reasoning.forget()
    assert client.once(MINE, deadline=10).status == Result.OK
    first = client.results.wait_for(lambda result: result.query == FOREVER)
    assert first.status == Result.CANCELED
    assert first.message
    # It is asked again by itself.
    client.reasoning.wait_for(lambda message: message.data.startswith('3'))
    stand({'standing_query.text': ''})
    assert client.once(MINE, deadline=10).status == Result.OK


def test_a_query_that_comes_with_others_is_not_in_their_way(client, stand):
    stand(
        {
            'query.policy': 'queue',
            'query.queue_size': 0,
            'standing_query.text': FOREVER,
            'standing_query.period': 0.2,
        }
    )
    client.reasoning.wait_for(lambda message: message.data.startswith('3'))
    assert client.once(MINE, deadline=10).status == Result.OK
    stand({'query.queue_size': 10})


def test_it_is_asked_when_the_picture_changes_and_only_then(client, stand, red_and_blue):
    stand({'standing_query.text': WATCH, 'standing_query.on_change': 0.05})
    client.results.wait_for_count(1, watched)
    before = client.eye.message.data
    shown = len(client.eye.stamps)
    client.until(lambda: len(client.eye.stamps) > shown + 40, 'two seconds of the same picture')
    assert sum(map(watched, client.results)) == 1
    changed = red_and_blue.copy()
    changed[:, :160] = 255 - changed[:, :160]
    client.eye.message.data = changed.tobytes()
    client.results.wait_for_count(2, watched)
    client.eye.message.data = before
    client.results.wait_for_count(3, watched)


def test_nothing_is_asked_of_a_camera_that_sends_nothing(client, stand):
    client.eye.stop()
    client.set_parameter('camera.max_image_age', 0.2)
    client.until(lambda: client.once('gone').status == Result.NO_IMAGE, 'the picture is old')
    stand({'standing_query.text': WATCH, 'standing_query.period': 0.1})
    for _ in range(5):
        client.once('gone')
    assert not any(map(watched, client.results))
    client.set_parameter('camera.max_image_age', 5.0)
    client.results.wait_for_count(1, watched)


def test_lost_objects_are_asked_for_again(node_process, new_client, red_and_blue):
    node = node_process(
        {'track': True, 'tracking.reask_when_lost': True},
        profile='offline',
        arguments=['-r', '__ns:=/lost'],
    )
    client = new_client('lost')
    client.wait_for_server()
    client.wait_for_state('active')
    eye = client.camera(red_and_blue, rate=15)
    red = 'the red thing'
    client.until(lambda: client.once('nothing purple').status != Result.NO_IMAGE, 'a frame')
    assert client.once(red).status == Result.OK
    there = eye.message.data
    eye.message.data = np.full(red_and_blue.shape, 150, np.uint8).tobytes()
    node.wait_for_output('have been lost for long')
    again = client.results.wait_for(lambda r: r.query == red and r.status == Result.NOT_FOUND)
    assert again.message
    client.results.forget()
    eye.message.data = there
    found = client.results.wait_for(lambda r: r.query == red and r.status == Result.OK)
    # From then on it is followed, and asked no more.
    node.wait_for_output(f'Tracking 1 objects of query {found.query_id}')
    assert 'Traceback' not in node.output


def test_thumbnails_differ_where_things_move_but_not_with_noise_or_exposure():
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 180, (24, 32, 3)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
    noisy = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
    lighter = (picture + 40).astype(np.uint8)
    moved = picture.copy()
    moved[100:300, 100:300] = 255
    seen = thumbnail(picture)
    assert changed_share(seen, thumbnail(noisy)) == 0
    assert changed_share(seen, thumbnail(lighter)) == 0
    assert 0.08 < changed_share(seen, thumbnail(moved)) < 0.2
