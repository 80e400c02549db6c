"""The newest image is paired with what was measured at the same time."""

import struct
import threading

import pytest

from segzero_ros.rgbd.buffer import DEPTH_WAIT_NS, RgbdBuffer
from segzero_ros.rgbd.message_buffer import read_stamp

SECOND = 1_000_000_000
FRAME = SECOND // 30


def message(stamp_ns: int, body: bytes = b'', order: str = '<') -> bytes:
    """Return a serialised header with a stamp, and something behind it."""
    mark = b'\x00\x01\x00\x00' if order == '<' else b'\x00\x00\x00\x00'
    return mark + struct.pack(f'{order}iI', *divmod(stamp_ns, SECOND)) + body


@pytest.fixture
def store():
    return RgbdBuffer(max_offset_ns=SECOND // 20)


@pytest.mark.parametrize('order', '<>')
def test_stamps_are_read_in_either_byte_order(order):
    stamp = 1_700_000_000 * SECOND + 123
    assert read_stamp(message(stamp, b'rest', order)) == stamp


@pytest.mark.parametrize('data', [b'', b'\x00\x01', message(5)[:11]])
def test_a_message_too_short_for_a_stamp_has_none(data):
    assert read_stamp(data) is None


def test_the_middleware_agrees_about_where_the_stamp_is():
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    for kind in (Image, CompressedImage, CameraInfo):
        sent = kind()
        sent.header.stamp.sec, sent.header.stamp.nanosec = 12, 34
        sent.header.frame_id = 'optical'
        assert read_stamp(serialize_message(sent)) == 12 * SECOND + 34


def test_an_empty_store_has_no_messages(store):
    assert store.latest() is None
    assert store.newest() is None
    assert store.rate() == 0.0


def test_the_newest_image_is_the_one_that_came_last_also_when_a_bag_starts_anew(store):
    store.put_image(message(100 * SECOND), 0)
    store.put_image(message(3 * SECOND), 0)
    assert store.latest().image.stamp_ns == 3 * SECOND


def test_depth_of_the_same_stamp_goes_before_nearer_ones(store):
    store.put_depth(message(SECOND), 0)
    store.put_depth(message(SECOND + 5), 0)
    store.put_image(message(SECOND), 0)
    assert store.latest().depth.stamp_ns == SECOND


def test_an_image_waits_for_its_depth_no_longer_than_allowed(store):
    """While the newest depth is on its way, the image before is taken with its own."""
    store.put_image(message(SECOND), 0)
    store.put_depth(message(SECOND), 0)
    store.put_image(message(SECOND + FRAME), 0)
    assert store.latest().image.stamp_ns == SECOND
    late = SECOND + DEPTH_WAIT_NS + 1
    store.put_image(message(late), 0)
    rgbd = store.latest()
    assert rgbd.image.stamp_ns == late
    assert rgbd.depth is None
    store.put_depth(message(late), 0)
    assert store.latest().depth.stamp_ns == late


def test_the_nearest_depth_is_taken_within_the_offset_only(store):
    store.put_image(message(10 * SECOND), 0)
    store.put_depth(message(10 * SECOND - FRAME), 0)
    store.put_depth(message(10 * SECOND + FRAME // 2), 0)
    assert store.latest().depth.stamp_ns == 10 * SECOND + FRAME // 2
    store.max_offset_ns = FRAME // 4
    assert store.latest().depth is None


def test_intrinsics_may_be_older_than_any_offset(store):
    store.put_info(message(SECOND), 0)
    store.put_image(message(500 * SECOND), 0)
    assert store.latest().info.stamp_ns == SECOND


def test_without_stamps_the_arrival_counts(store):
    store.put_image(message(0), 7 * SECOND)
    store.put_depth(message(0), 7 * SECOND + 1)
    rgbd = store.latest()
    assert rgbd.image.stamp_ns is None
    assert rgbd.image.time_ns == 7 * SECOND
    assert rgbd.depth is not None


def test_clearing_forgets_everything(store):
    store.put_image(message(SECOND), 0)
    store.put_depth(message(SECOND), 0)
    store.put_info(message(SECOND), 0)
    store.clear()
    assert store.latest() is None
    store.put_image(message(SECOND), 0)
    assert store.latest().depth is None
    assert store.latest().info is None


def test_only_a_few_messages_are_kept(store):
    for number in range(1, 1000):
        store.put_image(message(number * SECOND), 0)
        store.put_depth(message(number * SECOND), 0)
        store.put_info(message(number * SECOND), 0)
    kept = sum(len(queue) for queue in (store._images, store._depths, store._infos))
    assert kept < 20
    assert store.latest().depth.stamp_ns == 999 * SECOND


@pytest.fixture
def heard(store):
    """Listen to the store; give the message_sets as they come, as (image, depth) in seconds."""
    message_sets = []

    def hear(rgbd):
        depth = None if rgbd.depth is None else rgbd.depth.time_ns / SECOND
        message_sets.append((rgbd.image.time_ns / SECOND, depth))

    store.put_image(message(1 * SECOND), 0)
    store.listen(hear)
    return message_sets


def test_a_listener_hears_of_each_image_at_once_where_no_depth_comes(store, heard):
    store.put_image(message(2 * SECOND), 0)
    assert heard == [(1, None), (2, None)]
    store.listen(None)
    store.put_image(message(3 * SECOND), 0)
    assert len(heard) == 2


def test_a_listener_hears_of_an_image_when_its_depth_is_here(store, heard):
    store.put_depth(message(1 * SECOND), 0)
    store.put_image(message(2 * SECOND), 0)
    assert heard == [(1, None)]
    store.put_depth(message(2 * SECOND), 0)
    assert heard == [(1, None), (2, 2)]


def test_an_image_waits_for_its_depth_until_the_next_one_comes(store, heard):
    store.put_depth(message(1 * SECOND), 0)
    store.put_image(message(2 * SECOND), 0)
    store.put_image(message(3 * SECOND), 0)
    assert heard == [(1, None), (2, None)]


def test_depth_of_other_stamps_is_not_waited_for(store, heard):
    for number in range(2, 6):
        store.put_depth(message(number * SECOND - FRAME // 2), 0)
        store.put_image(message(number * SECOND), 0)
    assert [image for image, _ in heard] == [1, 2, 3, 4, 5]
    assert all(depth is not None for _, depth in heard[1:])


def matched_once(store):
    """Store a matched pair, and an image of a second later whose depth has not come."""
    for stamp in (0, SECOND // 5):
        store.put_image(message(10 * SECOND + stamp), 10 * SECOND + stamp)
        store.put_depth(message(10 * SECOND + stamp, b'near'), 10 * SECOND + stamp)
    store.put_image(message(11 * SECOND), 11 * SECOND)


def test_a_query_waits_for_depth_that_comes_after_its_image(store):
    matched_once(store)
    assert store.latest().depth is None
    found, waits = [], threading.Event()
    lock = store._lock.wait_for

    def wait_for(predicate, timeout):
        waits.set()
        return lock(predicate, timeout)

    store._lock.wait_for = wait_for
    query = threading.Thread(target=lambda: found.append(store.latest(wait_s=60)))
    query.start()
    assert waits.wait(60)
    store.put_depth(message(11 * SECOND, b'late'), 11 * SECOND + SECOND // 10)
    query.join(60)
    assert found[0].image.stamp_ns == found[0].depth.stamp_ns == 11 * SECOND


def test_a_query_does_not_wait_for_ever(store):
    matched_once(store)
    rgbd = store.latest(wait_s=0.01)
    assert (rgbd.image.stamp_ns, rgbd.depth) == (11 * SECOND, None)


@pytest.mark.parametrize('case', ['none came', 'never matched', 'stopped', 'offset', 'cleared'])
def test_a_query_does_not_wait_for_depth_that_will_not_come(store, case):
    if case == 'never matched':
        store.put_depth(message(5 * SECOND), 11 * SECOND)
    elif case != 'none came':
        matched_once(store)
    if case == 'stopped':
        store.put_image(message(13 * SECOND), 13 * SECOND)
    elif case == 'offset':
        store.max_offset_ns = -1
    elif case == 'cleared':
        store.restart()
    else:
        store.put_image(message(12 * SECOND), 12 * SECOND)
    store._lock.wait_for = lambda predicate, _: pytest.fail('waits') if not predicate() else True
    rgbd = store.latest(wait_s=60)
    assert rgbd is None if case == 'cleared' else rgbd.depth is None
