"""Detection on demand: what Nav2's docking server calls starts and stops it, and poses come."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    depth_message,
    image_message,
)
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.types import Intrinsics

DOCK, CUP = 'the charging dock', 'name cup, plate'
WIDTH, HEIGHT = 320, 240
INTRINSICS = Intrinsics(300.0, 300.0, 159.5, 119.5, WIDTH, HEIGHT)


class DepthCamera:
    """Shows a flat scene, or none."""

    def __init__(self, client: Any, picture: Any) -> None:
        self.on = True
        self.shown = 0
        self._picture = picture
        self._node = client.node
        self._image = client.node.create_publisher(Image, 'image', 5)
        self._depth = client.node.create_publisher(Image, 'depth', 5)
        self._info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
        client.node.create_timer(0.05, self._show)

    def _show(self) -> None:
        if not self.on:
            return
        header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id='optical')
        depth = np.full((HEIGHT, WIDTH), 0.8, np.float32)
        self._info.publish(camera_info_message(INTRINSICS, header))
        self._depth.publish(depth_message(depth, '16UC1', header))
        self._image.publish(image_message(self._picture, 'rgb8', header))
        self.shown += 1


class Docking:
    """Calls and subscribes as SimpleChargingDock does with `subscribe_toggle`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._subscription: Any = None
        self.poses = client.new_inbox()

    def start(self) -> int:
        """Start detection; return when that was, nanoseconds."""
        self.poses = inbox = self._client.new_inbox()
        started = self.now()
        response = self.call()
        assert response.success, response.message
        self._subscription = self._client.node.create_subscription(
            PoseStamped, 'target_pose', inbox.put, QoSProfile(depth=100)
        )
        return started

    def stop(self) -> None:
        response = self.call()
        assert response.success, response.message
        assert response.message == 'Detection is off.'
        self.leave()

    def leave(self) -> None:
        """End without a word."""
        if self._subscription is not None:
            self._client.node.destroy_subscription(self._subscription)
            self._subscription = None

    def call(self) -> Any:
        return self._client.call(Trigger, 'toggle_detection', Trigger.Request())

    def now(self) -> int:
        return int(self._client.node.get_clock().now().nanoseconds)


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node({'standing_query': {'text': DOCK}}, arguments=['-r', '__ns:=/docking'])


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client('docking')
    client.wait_for_server()
    client.wait_for_state('active')
    client.tracked = client.listen(Result, 'tracked', QoSProfile(depth=1000))
    client.eye = DepthCamera(client, red_and_blue)
    client.until(lambda: client.once('ready').status == Result.OK, 'a frame')
    return client


@pytest.fixture
def docking(client, node):
    """Give a docking server; detection is off before and after, and the node as at the start."""
    docking = Docking(client)
    yield docking
    docking.leave()
    assert client.set_parameter('standing_query.text', DOCK)[0]
    assert client.set_parameter('track', False)[0]
    if client.state() == 'inactive':
        assert client.transition('activate')
    client.eye.on = True
    if docking.call().message != 'Detection is off.':
        docking.call()
    client.until(lambda: client.once('ready').status == Result.OK, 'a frame')
    client.results.forget()
    client.tracked.forget()


def stamp_of(message: Any) -> int:
    return to_ns(message.header.stamp)


def settle(client: Any, frames: int = 10) -> None:
    """Wait until so many further images were shown and the last one is answered."""
    until = client.eye.shown + frames
    client.until(lambda: client.eye.shown >= until, 'images')
    client.once('settled')


def test_nothing_is_asked_before_it_is_wanted(client, docking) -> None:
    settle(client)
    assert not [result for result in client.results if result.query == DOCK]


def test_poses_come_with_every_image_from_the_start_on(client, docking) -> None:
    settle(client)
    started = docking.start()
    poses = docking.poses.wait_for_count(20)
    stamps = [stamp_of(pose) for pose in poses]
    assert min(stamps) >= started
    assert stamps == sorted(stamps)
    # Twenty images a second; a busy machine leaves some out.
    assert np.median(np.diff(stamps)) / 1e9 < 0.2
    asked = [result for result in client.results if result.query == DOCK]
    assert len(asked) == 1
    assert poses[-1].pose.position.z == pytest.approx(0.8, abs=0.02)
    docking.stop()


def test_after_the_stop_nothing_comes(client, docking) -> None:
    docking.start()
    docking.poses.wait_for_count(5)
    assert docking.call().message == 'Detection is off.'
    stopped = docking.now()
    settle(client)
    late = [pose for pose in docking.poses if stamp_of(pose) > stopped]
    assert all(of_settled(client, pose) for pose in late)
    assert not [each for each in client.tracked if stamp_of(each) > stopped]
    assert not [r for r in client.results if r.query == DOCK and stamp_of(r) > stopped]


def of_settled(client: Any, pose: PoseStamped) -> bool:
    """Return whether a pose is of a query of this test."""
    return any(r.header == pose.header for r in client.results if r.query == 'settled')


def test_no_pose_of_before_the_next_start_comes_out(client, docking) -> None:
    for _ in range(3):
        started = docking.start()
        docking.poses.wait_for_count(3)
        docking.stop()
        assert min(map(stamp_of, docking.poses)) >= started


def test_a_query_meanwhile_is_answered_but_its_object_is_not_the_dock(client, docking) -> None:
    docking.start()
    docking.poses.wait_for_count(3)
    cup = client.once(CUP)
    assert cup.status == Result.OK
    count = len(docking.poses)
    poses = docking.poses.wait_for_count(count + 5)
    assert cup.objects[0].pose.position.x < -0.1
    assert all(abs(pose.pose.position.x) < 0.01 for pose in poses), 'the dock is in the middle'
    assert {result.query for result in client.tracked} == {DOCK}
    docking.stop()


def test_what_was_tracked_before_is_not_the_dock_and_track_holds_again_after(
    client, docking
) -> None:
    assert client.set_parameter('track', True)[0]
    assert client.once(CUP).status == Result.OK
    client.tracked.wait_for(lambda result: result.query == CUP)
    started = docking.start()
    docking.poses.wait_for_count(3)
    late = [r for r in client.tracked if r.query == CUP and stamp_of(r) > started + 2e9]
    assert not late
    docking.stop()
    stopped = docking.now()
    settle(client)
    assert not [r for r in client.tracked if r.query == DOCK and stamp_of(r) > stopped]
    client.tracked.forget()
    assert client.once(CUP).status == Result.OK
    client.tracked.wait_for(lambda result: result.query == CUP)


def test_a_dock_that_is_not_seen_is_asked_for_again(client, docking) -> None:
    assert client.set_parameter('standing_query.text', 'babble')[0]
    docking.start()
    client.results.wait_for_count(2, lambda result: result.query == 'babble')
    # Another text is what is looked for from now on.
    assert client.set_parameter('standing_query.text', DOCK)[0]
    docking.poses.wait_for_count(3)
    docking.stop()


def test_a_stop_cancels_a_query_that_is_being_answered(client, docking) -> None:
    assert client.set_parameter('standing_query.text', 'count for ever')[0]
    docking.start()
    client.reasoning.wait_for(lambda message: message.data.startswith('3'))
    docking.stop()
    result = client.results.wait_for(lambda result: result.query == 'count for ever')
    assert (result.status, result.message) == (Result.CANCELED, 'Detection was switched off.')


def test_without_a_text_it_says_what_to_set(client, docking) -> None:
    assert client.set_parameter('standing_query.text', '')[0]
    response = docking.call()
    assert not response.success
    assert 'standing_query.text' in response.message


def test_an_inactive_node_is_active_while_it_detects(client, docking) -> None:
    assert client.transition('deactivate')
    started = docking.start()
    assert client.state() == 'active'
    assert min(map(stamp_of, docking.poses.wait_for_count(3))) >= started
    docking.stop()
    assert client.state() == 'inactive'


def test_a_node_without_models_says_so(client, docking) -> None:
    assert client.transition('deactivate')
    assert client.transition('cleanup')
    response = docking.call()
    assert not response.success
    assert 'configure' in response.message
    assert client.transition('configure')


def test_a_deactivation_meanwhile_does_not_turn_the_stop_into_a_start(client, docking) -> None:
    docking.start()
    docking.poses.wait_for_count(3)
    assert client.transition('deactivate')
    docking.stop()
    assert client.state() == 'inactive'


def test_a_docking_server_that_ends_does_not_turn_the_next_start_into_a_stop(
    client, docking, node
) -> None:
    docking.start()
    docking.poses.wait_for_count(3)
    # It is looked once a second whether anybody subscribes.
    settle(client, 40)
    offs = node.output.count('Detection is off')
    docking.leave()
    client.until(lambda: node.output.count('Detection is off') > offs, 'it is off')
    again = docking.start()
    assert min(map(stamp_of, docking.poses.wait_for_count(3))) >= again
    docking.stop()


def test_a_camera_that_comes_later_is_looked_at_then(client, docking) -> None:
    client.eye.on = False
    assert client.transition('deactivate')
    docking.start()
    client.eye.on = True
    docking.poses.wait_for_count(3)
    docking.stop()
