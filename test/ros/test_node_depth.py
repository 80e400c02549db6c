"""The running node pairs colour and depth as they come, and says what keeps it from a pose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from depth_camera import DepthCamera, FRAME, HEIGHT, NANO, points_of, stamp, WIDTH
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.msg import SegmentedObject

STEP = NANO // 30


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node(arguments=['-r', '__ns:=/depth'])


@pytest.fixture(scope='module')
def client(node, new_client):
    client = new_client('depth')
    client.wait_for_server()
    client.wait_for_state('active')
    client.reports = client.listen(DiagnosticArray, '/diagnostics', 100)
    return client


@pytest.fixture(autouse=True)
def afresh(request) -> Iterator[None]:
    """Forget the frames of the test before."""
    yield
    if 'client' in request.fixturenames:
        client = request.getfixturevalue('client')
        assert client.transition('deactivate')
        assert client.transition('activate')


def stamp_of(result: Result) -> int:
    return result.header.stamp.sec * NANO + result.header.stamp.nanosec


@pytest.fixture
def depth_camera(client, red_and_blue) -> Iterator[DepthCamera]:
    camera = DepthCamera(client, red_and_blue)
    yield camera
    camera.close()


def now(client: Any) -> int:
    return int(client.node.get_clock().now().nanoseconds)


def ask_until(client: Any, publish: Any, wanted: Any, what: str) -> Result:
    """Publish and ask until the answer is as wanted; return it."""

    def asked() -> Result | None:
        publish()
        result = client.once('the thing in the middle')
        return result if wanted(result) else None

    return client.until(asked, what)


@contextmanager
def reported(client: Any, words: str, publish: Any) -> Iterator[None]:
    """See afterwards that /diagnostics warns of the camera with these words."""
    yield
    client.reports.forget()

    def found() -> bool:
        publish()
        return any(
            status.level == DiagnosticStatus.WARN and words in status.message
            for report in list(client.reports)
            for status in report.status
            if status.name.endswith('/depth/perception: camera')
        )

    client.until(found, f'/diagnostics: {words}')


def poses(result: Result) -> list[int]:
    return [found.pose_status for found in result.objects]


def test_clouds_and_the_pose_of_the_first_object_belong_to_the_frame(
    client, depth_camera, red_and_blue
) -> None:
    boxes = {name: client.listen(PointCloud2, name) for name in ('points', 'object_points')}
    targets = client.listen(PoseStamped, 'target_pose')
    client.until(
        lambda: all(client.node.count_publishers(name) for name in (*boxes, 'target_pose'))
    )
    result = ask_until(
        client,
        lambda: depth_camera.send(now(client)),
        lambda result: (
            poses(result) == [SegmentedObject.POSE_OK]
            and all(map(len, boxes.values()))
            and targets
        ),
        'clouds come',
    )
    newest = boxes['points'].wait_for(lambda cloud: cloud.header == result.header)
    points = points_of(newest)
    assert points.shape == (HEIGHT, WIDTH)
    assert (newest.header.frame_id, newest.is_dense) == (FRAME, False)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    assert np.allclose(points['x'], (columns - WIDTH / 2) / 300 * 0.8, atol=1e-6)
    assert np.allclose(points['y'], (rows - HEIGHT / 2) / 300 * 0.8, atol=1e-6)
    assert np.allclose(points['z'], 0.8)
    packed = np.ascontiguousarray(points['rgb']).view(np.uint32)
    assert np.array_equal(packed >> 16, red_and_blue[..., 0])
    assert np.array_equal(packed & 255, red_and_blue[..., 2])
    wanted = np.zeros((HEIGHT, WIDTH), np.uint16)
    wanted[60:180, 80:240] = 1
    assert np.array_equal(points['object'], wanted)
    objects = boxes['object_points'].wait_for(lambda cloud: cloud.header == result.header)
    alone = points_of(objects)
    assert (objects.is_dense, alone.shape) == (True, (1, 120 * 160))
    assert np.array_equal(alone[0], points[wanted > 0])
    target = targets.wait_for(lambda pose: pose.header == result.header)
    assert target.pose == result.objects[0].pose


def test_depth_that_comes_late_is_that_of_the_frame(client, depth_camera) -> None:
    """Each depth image is 300 ms late; its distance tells which one an answer used."""
    begin = now(client)
    late = 9
    ready = 0
    for number in range(45):
        at = begin + number * STEP
        depth_camera.send_colour(at)
        depth_camera.send_info(at)
        if number >= late:
            depth_camera.send_depth(begin + (number - late) * STEP, 0.5 + (number - late) / 100)
        # Waiting for an answer, the test does not send faster than the node hears.
        result = client.once('the thing in the middle')
        if result.status == Result.NO_IMAGE or poses(result) != [SegmentedObject.POSE_OK]:
            assert number < late + 6, result.message
            continue
        ready += 1
        frame = round((stamp_of(result) - begin) / STEP)
        assert result.objects[0].pose.position.z == pytest.approx(0.5 + frame / 100, abs=0.004)
        assert number - late - 3 <= frame <= number
    assert ready >= 30


def test_depth_of_another_frame_is_warned_about(client, depth_camera) -> None:
    depth_camera.depth.header.frame_id = 'camera_depth_optical_frame'

    def publish() -> None:
        depth_camera.send(now(client))

    words = "the depth image on /depth/depth has the frame_id 'camera_depth_optical_frame'"
    with reported(client, words, publish):
        result = ask_until(client, publish, lambda one: words in one.message, 'the warning')
    assert result.status == Result.OK
    assert poses(result) == [SegmentedObject.POSE_OK]


def test_intrinsics_of_another_size_are_warned_about(client, depth_camera) -> None:
    depth_camera.info.width, depth_camera.info.height = 2 * WIDTH, 2 * HEIGHT

    def publish() -> None:
        depth_camera.send(now(client))

    words = 'camera_info is for 640x480 pixels, the image has 320x240'
    with reported(client, words, publish):
        result = ask_until(client, publish, lambda one: words in one.message, 'the warning')
    assert result.status == Result.OK


def test_depth_that_cannot_be_paired_is_said(client, depth_camera) -> None:
    def publish() -> None:
        at = now(client)
        depth_camera.send_info(at)
        depth_camera.send_colour(at)
        depth_camera.send_depth(at - 70 * NANO)

    words = 'the nearest depth image on /depth/depth is 70.'
    with reported(client, words, publish):
        result = ask_until(client, publish, lambda one: words in one.message, 'the reason')
    assert result.status == Result.OK
    assert 'depth has stopped, or its stamps are from another clock' in result.message
    assert poses(result) == [SegmentedObject.NO_DEPTH]


def test_depth_that_has_stopped_or_never_came_is_said(client, depth_camera) -> None:
    def colour_alone() -> None:
        at = now(client)
        depth_camera.send_info(at)
        depth_camera.send_colour(at)

    never = 'no depth was received: /depth/depth has publishers (1), but nothing arrived yet'
    with reported(client, never, colour_alone):
        result = ask_until(client, colour_alone, lambda one: never in one.message, 'the reason')
    assert poses(result) == [SegmentedObject.NO_DEPTH]
    ask_until(
        client, lambda: depth_camera.send(now(client)), lambda one: poses(one) == [0], 'a pose'
    )
    words = 'older than the image'
    result = ask_until(client, colour_alone, lambda one: words in one.message, 'it has stopped')
    assert result.status == Result.OK


def test_depth_without_intrinsics_is_said(client, depth_camera) -> None:
    def publish() -> None:
        at = now(client)
        depth_camera.send_colour(at)
        depth_camera.send_depth(at)

    words = 'There are no poses: no camera_info was received: /depth/camera_info has'
    with reported(client, words, publish):
        result = ask_until(client, publish, lambda one: words in one.message, 'the reason')
    assert poses(result) == [SegmentedObject.NO_INTRINSICS]


def test_a_colour_camera_alone_has_nothing_to_say(client, red_and_blue) -> None:
    camera = client.camera(red_and_blue)
    result = ask_until(client, lambda: None, lambda one: one.status == Result.OK, 'an answer')
    assert result.message == ''
    camera.stop()


def test_full_rate_with_old_stamps_is_two_clocks(client, depth_camera) -> None:
    def publish() -> None:
        depth_camera.send_colour(now(client) - 9 * NANO)

    words = 'images arrive at'
    with reported(client, 'two clocks differ', publish):
        result = ask_until(client, publish, lambda one: words in one.message, 'two clocks')
    assert result.status == Result.NO_IMAGE
    assert 'stamps are 9.' in result.message
    assert 'two clocks differ' in result.message
    assert 'chrony, NTP or PTP' in result.message
    assert 'use_sim_time' in result.message
    assert 'still running' not in result.message


def test_stamps_of_the_future_are_answered_with_a_warning(client, depth_camera) -> None:
    def publish() -> None:
        depth_camera.send_colour(now(client) + 9 * NANO)

    with reported(client, 'ahead of the clock of this node: two clocks differ', publish):
        result = ask_until(
            client, publish, lambda one: 'ahead of the clock' in one.message, 'a warning'
        )
    assert result.status == Result.OK


@pytest.fixture(scope='module')
def simulated(scripted_node, new_client):
    """Give a client in a simulation whose clock stands where the test puts it."""
    scripted_node({'use_sim_time': True}, arguments=['-r', '__ns:=/jumping'])
    client = new_client('jumping')
    client.wait_for_server()
    client.wait_for_state('active')
    client.clock = client.node.create_publisher(Clock, '/clock', 10)
    client.until(lambda: client.clock.get_subscription_count() >= 1, 'the node hears the clock')
    return client


def test_a_clock_that_jitters_forgets_nothing_and_a_jump_keeps_the_intrinsics(
    simulated, red_and_blue
) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    camera = DepthCamera(simulated, red_and_blue, latched)

    def tick(at_ns: int) -> None:
        simulated.clock.publish(Clock(clock=stamp(at_ns)))

    def at(at_ns: int, *, frames: bool) -> Result:
        """Set the clock, publish colour and depth if there are to be any; return the answer."""
        tick(at_ns)
        if frames:
            camera.send_depth(at_ns)
            camera.send_colour(at_ns)
        return simulated.once('the thing in the middle')

    # Once and for all.
    camera.send_info(100 * NANO)
    begin = 100 * NANO
    simulated.until(lambda: poses(at(begin, frames=True)) == [0], 'a pose')
    for back in (1, 1000, 5_000_000, 300_000_000, 999_000_000):
        tick(begin + NANO)
        tick(begin + NANO - back)
        result = at(begin + NANO - back, frames=False)
        assert (result.status, stamp_of(result)) == (Result.OK, begin), back
        assert poses(result) == [SegmentedObject.POSE_OK]
    # The bag begins anew: its frames are forgotten, its intrinsics are not, and never come again.
    simulated.until(
        lambda: at(20 * NANO, frames=False).status == Result.NO_IMAGE,
        'the frames are forgotten',
    )
    result = simulated.until(
        lambda: (lambda one: one if one.objects else None)(at(20 * NANO, frames=True)),
        'an answer after the jump',
    )
    assert stamp_of(result) == 20 * NANO
    simulated.until(lambda: poses(at(20 * NANO, frames=True)) == [0], 'a pose after the jump')
    camera.close()
