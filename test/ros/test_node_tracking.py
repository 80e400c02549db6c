"""An answer's objects are followed with the camera, and give way to whatever else is wanted."""

from itertools import chain, cycle
import threading

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    depth_message,
    image_message,
)
from segzero_ros.ros.message_factory import segments_from, to_ns, to_time
from segzero_ros.simulation import make_motion

PLATES, BOOK, NOTHING = 'find all the plates', 'where is the brown object?', 'the orange cup'
TRUE_PLATES = (0, 2)
RATE = 15
# Seconds after which objects that are all lost are given up.
PATIENCE = 5


class Film:
    """A depth camera that sees a generated film forwards and backwards, again and again."""

    def __init__(self, client):
        self.scenes = list(
            make_motion(7, 12, width=320, height=240, moving=2, sway=0.01, clutter=0.0)
        )
        self.shown = {}
        self.dark = False
        self.ahead = 0
        self._node = client.node
        self._image = client.node.create_publisher(Image, 'image', 5)
        self._depth = client.node.create_publisher(Image, 'depth', 5)
        self._info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
        self._playback = cycle(chain(self.scenes, self.scenes[-2:0:-1]))
        self._news = threading.Condition()
        client.node.create_timer(1 / RATE, self._show)

    def _show(self):
        scene = next(self._playback)
        stamp = self._node.get_clock().now().nanoseconds + self.ahead
        header = Header(stamp=to_time(stamp), frame_id='optical')
        picture = np.zeros_like(scene.frame.image) if self.dark else scene.frame.image
        with self._news:
            self.shown[stamp] = scene
            self._news.notify_all()
        self._info.publish(camera_info_message(scene.frame.intrinsics, header))
        self._image.publish(image_message(picture, 'rgb8', header))
        self._depth.publish(depth_message(scene.frame.depth, '16UC1', header))

    def wait_for_more(self, count):
        """Wait until so many further pictures have been shown."""
        with self._news:
            until = len(self.shown) + count
            assert self._news.wait_for(lambda: len(self.shown) >= until, 40)


@pytest.fixture(scope='module')
def node(node_process):
    return node_process({'track': True}, profile='offline')


@pytest.fixture(scope='module')
def client(node, new_client):
    client = new_client()
    client.tracked = client.listen(Result, 'tracked', QoSProfile(depth=1000))
    client.wait_for_server()
    client.wait_for_state('active')
    client.until(lambda: client.node.count_publishers('tracked'), 'it offers `tracked`')
    client.film = Film(client)
    client.until(lambda: client.once(NOTHING).status == Result.NOT_FOUND, 'a frame')
    return client


@pytest.fixture
def asked(client):
    """Ask for the plates with nothing followed before; give the result."""
    assert client.set_parameter('track', False)[0]
    assert client.once(NOTHING).status == Result.NOT_FOUND
    client.tracked.forget()
    assert client.set_parameter('track', True)[0]
    result = client.once(PLATES)
    assert result.status == Result.OK
    return result


def about(result):
    return lambda tracked: tracked.query_id == result.query_id


def stamp_of(message):
    return to_ns(message.header.stamp)


def overlap(message, scene):
    """Return the IoU of all masks of a message with the plates' true ones."""
    made = np.zeros(scene.labels.shape, bool)
    for segment in segments_from(message):
        made |= segment.full_mask(*made.shape)
    true = np.any([scene.mask(index) for index in TRUE_PLATES], axis=0)
    return (made & true).sum() / (made | true).sum()


def test_objects_keep_their_ids_and_are_where_each_followed_frame_shows_them(client, asked):
    tracked = client.tracked.wait_for_count(2 * len(client.film.scenes), about(asked))
    stamps = [stamp_of(message) for message in tracked]
    assert stamps == sorted(set(stamps))
    assert stamps[0] >= stamp_of(asked)
    for message in tracked:
        assert [found.id for found in message.objects] == [found.id for found in asked.objects]
        assert [found.label for found in message.objects] == [f.label for f in asked.objects]
        assert (message.status, message.reasoning, message.message) == (Result.OK, '', '')
        assert (message.query, message.header.frame_id) == (PLATES, 'optical')
        assert message.segmenter == 'classical'
    overlaps = [overlap(message, client.film.shown[stamp_of(message)]) for message in tracked]
    # Where a busy machine leaves frames out, things move further from one to the next.
    assert min(overlaps) > 0.6
    assert np.median(overlaps) > 0.85


@pytest.mark.alone
def test_most_frames_are_followed_at_the_camera_s_rate(client, asked):
    tracked = client.tracked.wait_for_count(2 * len(client.film.scenes), about(asked))
    stamps = [stamp_of(message) for message in tracked]
    assert np.median(np.diff(stamps)) / 1e9 < 1.5 / RATE


def test_the_followed_objects_have_poses_of_their_own_frame_s_depth(client, asked):
    tracked = client.tracked.wait_for_count(5, about(asked))
    assert all(found.pose_status == 0 for message in tracked for found in message.objects)
    scene = client.film.shown[stamp_of(tracked[-1])]
    true = sorted(scene.objects[index].pose.position for index in TRUE_PLATES)
    made = sorted(
        (found.pose.position.x, found.pose.position.y, found.pose.position.z)
        for found in tracked[-1].objects
    )
    assert np.allclose(made, true, atol=0.03)


def test_a_new_query_interrupts_and_its_objects_are_followed_instead(client, asked):
    client.tracked.wait_for(about(asked))
    book = client.once(BOOK, deadline=10)
    assert book.status == Result.OK
    client.tracked.wait_for_count(5, about(book))
    ids = [message.query_id for message in client.tracked]
    assert about(asked)(client.tracked[0])
    assert book.query_id not in ids[: ids.index(book.query_id)]
    assert set(ids[ids.index(book.query_id) :]) == {book.query_id}


def test_a_query_that_finds_nothing_leaves_the_objects_followed(node, client, asked):
    client.tracked.wait_for(about(asked))
    nothing = client.once(NOTHING)
    assert nothing.status == Result.NOT_FOUND
    moment = max(client.film.shown)
    client.tracked.wait_for_count(
        5, lambda message: about(asked)(message) and stamp_of(message) > moment
    )
    assert not any(map(about(nothing), client.tracked))
    # It goes on where it was, and does not begin anew with the old frame.
    assert node.output.count(f'Tracking 2 objects of query {asked.query_id}') == 1


def test_a_picture_that_comes_with_its_query_is_not_followed(client, asked):
    client.tracked.wait_for(about(asked))
    scene = client.film.scenes[0]
    own = client.once(PLATES, image_message(scene.frame.image, 'rgb8', Header()))
    assert own.status == Result.OK
    moment = max(client.film.shown)
    client.tracked.wait_for(lambda message: stamp_of(message) > moment)
    assert not any(map(about(own), client.tracked))


def test_deactivation_ends_it_for_good(node, client, asked):
    client.tracked.wait_for(about(asked))
    ended = node.output.count('Tracking has ended')
    assert client.transition('deactivate')
    client.until(lambda: node.output.count('Tracking has ended') > ended, 'the tracker is freed')
    moment = max(client.film.shown)
    assert client.transition('activate')
    client.until(lambda: client.once(NOTHING).status == Result.NOT_FOUND, 'a frame')
    client.film.wait_for_more(10)
    assert not [message for message in client.tracked if stamp_of(message) > moment]


def test_without_track_nothing_is_followed(client, asked):
    client.tracked.wait_for(about(asked))
    assert client.set_parameter('track', False)[0]
    result = client.once(PLATES)
    assert result.status == Result.OK
    moment = stamp_of(result)
    client.film.wait_for_more(10)
    assert not [message for message in client.tracked if stamp_of(message) > moment]


def test_lost_objects_are_named_and_given_up_when_all_are_lost_for_long(node, client, asked):
    client.tracked.wait_for_count(5, about(asked))
    client.film.dark, client.film.ahead = True, (PATIENCE + 1) * 1_000_000_000
    lost = client.tracked.wait_for(lambda message: message.message)
    client.film.dark, client.film.ahead = False, 0
    assert lost.message.startswith('Lost: 1 (')
    assert all(not found.mask.data and not found.mask_roi.width for found in lost.objects)
    node.wait_for_output(f'{asked.query_id} have been lost for long')
    client.until(lambda: client.once(NOTHING).status == Result.NOT_FOUND, 'a frame')
    last = client.tracked[-1]
    client.film.wait_for_more(10)
    assert client.tracked[-1] is last


def test_the_end_of_the_process_does_not_wait_for_it(node, client, asked):
    client.tracked.wait_for(about(asked))
    code, seconds = node.stop()
    assert code == 0
    assert seconds < 2
    assert 'Traceback' not in node.output
