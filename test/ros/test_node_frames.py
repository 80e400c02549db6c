"""The running node publishes its geometry in the robot's frames, and its objects as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
import math
from pathlib import Path
from typing import Any

from depth_camera import DepthCamera, FRAME, HEIGHT, NANO, points_of, WIDTH
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Vector3
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2
from transform_messages import LATCHED, Robot, stamped, tf2_msgs_environment, tf_message
from visualization_msgs.msg import Marker, MarkerArray

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.msg import SegmentedObject
from segzero_ros.ros.message_factory import to_ns, to_time
from segzero_ros.rotations import matrix_from_quaternion, quaternion_from_matrix
from segzero_ros.simulation import make_scene
from segzero_ros.srv import Ask

ROOT = Path(__file__).resolve().parents[2]
NODE, CAMERA_SIM = ROOT / 'scripts' / 'perception_node', ROOT / 'scripts' / 'camera_sim'
# The camera is 0.3 m before and 1.2 m above the base's origin and looks ahead, REP 103.
SHIFT, OPTICAL = (0.3, 0.0, 1.2), (-0.5, 0.5, -0.5, 0.5)
# The wall that it sees.
FAR = 0.8
HALF = 0.5**0.5
LEFT = (0.0, 0.0, HALF, HALF)
NOTHING = 'Poses and clouds are not published in target_frame'
GEOMETRY = ('target_pose', 'points', 'object_points', 'markers')
DEEP = QoSProfile(depth=1000)


@pytest.fixture(scope='module')
def node(scripted_node: Callable[..., Any]) -> Any:
    return scripted_node(
        {'target_frame': 'base_link'},
        arguments=['-r', '__ns:=/robot/head'],
        environment=tf2_msgs_environment(),
    )


@pytest.fixture(scope='module')
def client(node: Any, new_client: Callable[..., Any]) -> Any:
    client = new_client('robot/head')
    client.wait_for_server()
    client.wait_for_state('active')
    client.inboxes = {
        'target_pose': client.listen(PoseStamped, 'target_pose', DEEP),
        'points': client.listen(PointCloud2, 'points', 5),
        'object_points': client.listen(PointCloud2, 'object_points', 5),
        'markers': client.listen(MarkerArray, 'markers', DEEP),
    }
    client.tracked = client.listen(Result, 'tracked', DEEP)
    client.transforms = client.listen(tf_message(), '/tf', DEEP)
    client.reports = client.listen(DiagnosticArray, '/diagnostics', 100)
    client.until(lambda: all(map(client.node.count_publishers, GEOMETRY)), 'it offers them')
    return client


@pytest.fixture(scope='module')
def robot(client: Any) -> Robot:
    """Give a robot whose static transforms come from two publishers, the camera's driver one."""
    robot = Robot(client.node)
    robot.fix(stamped('base_link', 'camera_link', 0, SHIFT))
    robot.fix(stamped('camera_link', FRAME, 0, turn=OPTICAL))
    client.until(robot.heard, 'the node subscribes to transforms')
    return robot


@pytest.fixture(autouse=True)
def afresh(request: pytest.FixtureRequest) -> Iterator[None]:
    """Forget the frames and parameters of the test before."""
    yield
    if 'client' in request.fixturenames:
        client = request.getfixturevalue('client')
        changes = {'track': False, 'broadcast_tf': False, 'camera.max_image_age': 5.0}
        # With no target frame the node forgets the transforms.
        for name, value in (*changes.items(), ('target_frame', ''), ('target_frame', 'base_link')):
            assert client.set_parameter(name, value) == (True, '')
        assert client.transition('deactivate')
        assert client.transition('activate')


@pytest.fixture
def camera(client: Any, red_and_blue: Any) -> Iterator[DepthCamera]:
    camera = DepthCamera(client, red_and_blue)
    yield camera
    camera.close()


def now(client: Any) -> int:
    return int(client.node.get_clock().now().nanoseconds)


def answer(client: Any, camera: DepthCamera, query: str = 'the thing in the middle') -> Result:
    """Show a frame until it is answered about with a pose; return the result."""

    def asked() -> Result | None:
        camera.send(now(client), FAR)
        result = client.once(query)
        has_pose = [found.pose_status for found in result.objects] == [SegmentedObject.POSE_OK]
        return result if has_pose else None

    found: Result = client.until(asked, 'an answer with a pose')
    return found


def geometry_of(client: Any, result: Result) -> dict[str, Any]:
    """Return what was published of a result on each topic with geometry."""

    def header(message: Any) -> Any:
        return message.markers[0].header if isinstance(message, MarkerArray) else message.header

    return {
        name: inbox.wait_for(lambda message: header(message).stamp == result.header.stamp)
        for name, inbox in client.inboxes.items()
    }


def position(pose: Any) -> tuple[float, float, float]:
    return pose.position.x, pose.position.y, pose.position.z


def placed(pose: Any, shift: Any = SHIFT) -> Any:
    """Return where a position of the camera's frame is in the base's, as worked out by hand."""
    x, y, z = position(pose)
    return pytest.approx((shift[0] + z, shift[1] - x, shift[2] - y), abs=1e-6)


def test_all_geometry_of_an_answer_is_in_the_target_frame(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    def told() -> Result | None:
        result = answer(client, camera)
        return None if NOTHING in result.message else result

    result = client.until(told, 'the static transforms are known')
    assert result.header.frame_id == FRAME
    assert result.message == ''
    (found,) = result.objects
    assert position(found.pose)[2] == pytest.approx(FAR, abs=0.01)
    published = geometry_of(client, result)
    target, markers = published['target_pose'], published['markers'].markers
    for header in (
        target.header,
        published['points'].header,
        published['object_points'].header,
        *(marker.header for marker in markers),
    ):
        assert (header.frame_id, header.stamp) == ('base_link', result.header.stamp)
    assert position(target.pose) == placed(found.pose)
    # The box's axes turn with the frame: the camera's x axis is the base's -y axis.
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    cloud = points_of(published['points'])
    assert np.allclose(cloud['x'], 0.3 + FAR, atol=1e-6)
    assert np.allclose(cloud['y'], -(columns - WIDTH / 2) / 300 * FAR, atol=1e-6)
    assert np.allclose(cloud['z'], 1.2 - (rows - HEIGHT / 2) / 300 * FAR, atol=1e-6)
    objects = points_of(published['object_points'])
    assert np.array_equal(objects[0], cloud[cloud['object'] > 0])
    _, box, label = markers
    assert box.pose == target.pose
    assert (box.type, label.type) == (Marker.CUBE, Marker.TEXT_VIEW_FACING)
    assert (label.pose.position.x, label.pose.position.y) == pytest.approx(
        (box.pose.position.x, box.pose.position.y), abs=1e-6
    )
    assert label.pose.position.z > box.pose.position.z + 0.19, 'the label is above the box'


def test_agents_get_poses_in_the_target_frame(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    result = answer(client, camera)
    response = client.call(Ask, 'ask', Ask.Request(query='the thing in the middle'))
    assert (response.status, response.message) == (Result.OK, '')
    (pose,) = response.poses
    assert pose.header.frame_id == 'base_link'
    assert pose.header.stamp == result.header.stamp
    assert position(pose.pose) == placed(result.objects[0].pose)
    assert response.sizes == [result.objects[0].size]


def test_a_robot_that_moves_is_where_it_was_at_the_images_stamp(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    assert client.set_parameter('target_frame', '/odom') == (True, '')
    start = now(client)
    # It drives 2 m along x and turns left meanwhile; the image is taken after a quarter of it.
    robot.move(
        stamped('odom', 'base_link', start, (0.0, 0.0, 0.0)),
        stamped('odom', 'base_link', start + 4 * NANO, (2.0, 0.0, 0.0), LEFT),
    )
    client.transforms.wait_for(lambda m: to_ns(m.transforms[0].header.stamp) == start)
    camera.send(start + NANO, FAR)
    result = client.until(lambda: asked_about(client, start + NANO), 'its frame is answered')
    target = geometry_of(client, result)['target_pose']
    assert target.header.frame_id == 'odom'
    # In the base's frame, then turned by a quarter of 90 degrees and moved.
    x, y, z = position(result.objects[0].pose)
    x, y, z = 0.3 + z, -x, 1.2 - y
    turn = math.radians(22.5)
    wanted = (
        0.5 + x * math.cos(turn) - y * math.sin(turn),
        x * math.sin(turn) + y * math.cos(turn),
        z,
    )
    assert position(target.pose) == pytest.approx(wanted, abs=1e-6)


def asked_about(client: Any, stamp_ns: int, query: str = 'the thing') -> Result | None:
    """Ask about the newest frame; return the result if it is the one of this stamp."""
    result = client.once(query)
    is_it = to_ns(result.header.stamp) == stamp_ns
    return result if is_it and result.objects and result.objects[0].pose_status == 0 else None


def test_a_transform_that_comes_while_the_model_thinks_is_used(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    """Also when later ones have long displaced it, for the model thinks longer than 10 s."""
    assert client.set_parameter('target_frame', 'map') == (True, '')
    answer(client, camera)
    stamp = now(client)
    camera.send(stamp, FAR)
    client.until(lambda: asked_about(client, stamp), 'the frame is the newest')
    client.reasoning.forget()
    client.results.forget()
    client.say('count to 1200')
    client.reasoning.wait_for(lambda piece: piece.data.startswith('1 '))
    robot.move(stamped('map', 'base_link', stamp - NANO, (0.0, 5.0, 0.0)))
    robot.move(stamped('map', 'base_link', stamp + NANO, (0.0, 7.0, 0.0)))
    reported(client, '')
    for later in range(2, 60):
        robot.move(stamped('map', 'base_link', stamp + later * NANO, (0.0, 100.0, 0.0)))
    assert not client.results, 'the model is still thinking'
    result = client.results.wait_for(lambda result: result.query == 'count to 1200')
    assert to_ns(result.header.stamp) == stamp
    assert result.message == ''
    target = client.inboxes['target_pose'].wait_for(
        lambda pose: pose.header.frame_id == 'map' and pose.header.stamp == result.header.stamp
    )
    assert position(target.pose) == placed(result.objects[0].pose, (0.3, 6.0, 1.2))


def reported(client: Any, words: str) -> DiagnosticStatus:
    """Wait for /diagnostics to say something about the camera; empty: nothing of transforms."""

    def camera(report: DiagnosticArray) -> list[DiagnosticStatus]:
        return [
            status
            for status in report.status
            if status.name == '/robot/head/perception: camera'
            and (words in status.message if words else NOTHING not in status.message)
        ]

    client.reports.forget()
    return camera(client.reports.wait_for(camera))[0]


@pytest.mark.parametrize(
    ('ahead', 'words'),
    [(-60, 'the oldest known transform of base_link is '), (1, 'the newest transform of base_li')],
)
def test_an_image_beyond_the_known_times_has_no_geometry(
    client: Any, robot: Robot, camera: DepthCamera, ahead: int, words: str
) -> None:
    assert client.set_parameter('camera.max_image_age', 0.0) == (True, '')
    frame = 'behind' if ahead < 0 else 'before'
    assert client.set_parameter('target_frame', frame) == (True, '')
    start = now(client)
    for tenth in range(5):
        robot.move(stamped(frame, 'base_link', start - tenth * NANO // 10))
    stamp = start + ahead * NANO
    camera.send(stamp, FAR)
    result = client.until(
        lambda: (found := asked_about(client, stamp)) and words in found.message and found,
        'an answer without a transform',
    )
    assert result.message.startswith(f'{NOTHING} {frame}: {words}')
    assert result.message.endswith(' than the image.')
    assert_silent(client, result)


def assert_silent(client: Any, result: Result) -> None:
    """See that nothing in 3-D came of a result: what follows it has nothing before it."""
    for inbox in client.inboxes.values():
        inbox.forget()
    response = client.call(Ask, 'ask', Ask.Request(query='the thing'))
    assert (response.status, response.message) == (Result.OK, result.message)
    assert (response.poses, response.sizes) == ([PoseStamped()], [Vector3()])
    # The published result is the last thing before the geometry of the same answer, and the next
    # query is served after that.
    client.once('the thing')
    assert not any(client.inboxes.values())
    # Results are in the camera's frame all the same.
    assert result.header.frame_id == FRAME
    assert result.objects[0].pose_status == SegmentedObject.POSE_OK


@pytest.mark.parametrize(
    ('frame', 'words'),
    [
        ('gripper', 'no transform of the frame gripper was received.'),
        ('table', f'no transforms connect the frames {FRAME} and table.'),
    ],
)
def test_without_a_transform_nothing_is_published_and_every_place_says_why(
    node: Any, client: Any, robot: Robot, camera: DepthCamera, frame: str, words: str
) -> None:
    robot.fix(stamped('world', 'table', 0))
    answer(client, camera)
    assert client.set_parameter('target_frame', frame) == (True, '')
    wanted = f'{NOTHING} {frame}: {words}'
    result = client.until(
        lambda: (found := answer(client, camera)) and found.message == wanted and found,
        'the sentence in the message',
    )
    assert_silent(client, result)
    assert reported(client, wanted).level == DiagnosticStatus.WARN
    node.wait_for_output(rf'\[WARN\].*{NOTHING}')
    # And all is well again.
    assert client.set_parameter('target_frame', 'base_link') == (True, '')
    client.until(lambda: answer(client, camera).message == '', 'the transform is known')
    reported(client, '')


def test_an_image_without_a_frame_has_no_place(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    for message in (camera.colour, camera.depth, camera.info):
        message.header.frame_id = ''
    result = client.until(
        lambda: (found := answer(client, camera)).header.frame_id == '' and found,
        'an answer about it',
    )
    assert result.message == f'{NOTHING} base_link: the image has no frame_id.'
    assert client.set_parameter('target_frame', '') == (True, '')
    assert answer(client, camera).message == ''


def test_a_leading_slash_of_the_cameras_frame_is_no_other_frame(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    for message in (camera.colour, camera.depth, camera.info):
        message.header.frame_id = f'/{FRAME}'
    result = client.until(
        lambda: (found := answer(client, camera)).message == '' and found, 'a transform'
    )
    assert result.header.frame_id == f'/{FRAME}', "the image's own"
    for frame, shift in (('base_link', SHIFT), (FRAME, None)):
        assert client.set_parameter('target_frame', frame) == (True, '')
        result = client.until(
            lambda: (found := answer(client, camera)).message == '' and found, 'a transform'
        )
        published = geometry_of(client, result)
        headers = [published[name].header for name in GEOMETRY[:3]]
        headers += [marker.header for marker in published['markers'].markers]
        # tf2 refuses names with a slash before them.
        assert {header.frame_id for header in headers} == {frame}
        pose, found = published['target_pose'].pose, result.objects[0].pose
        if shift is None:
            assert pose == found
        else:
            assert position(pose) == placed(found)
        reported(client, '')


def test_transforms_are_subscribed_to_only_for_a_target_frame(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    # This client listens to /tf too.
    assert client.set_parameter('target_frame', '') == (True, '')
    client.until(lambda: client.node.count_subscribers('/tf') == 1, 'the node has left /tf')
    client.until(lambda: client.node.count_subscribers('/tf_static') == 0, 'and /tf_static')
    result = answer(client, camera)
    target = geometry_of(client, result)['target_pose']
    assert (target.header, target.pose) == (result.header, result.objects[0].pose)
    assert client.set_parameter('target_frame', FRAME) == (True, '')
    result = answer(client, camera)
    target = geometry_of(client, result)['target_pose']
    assert (target.header, target.pose, result.message) == (
        result.header,
        result.objects[0].pose,
        '',
    )
    assert client.set_parameter('target_frame', 'base_link') == (True, '')
    client.until(lambda: client.node.count_subscribers('/tf') == 2, 'the node is back')
    client.until(lambda: answer(client, camera).message == '', 'latched transforms came again')


def test_best_effort_transforms_are_received_too(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    assert client.set_parameter('target_frame', 'rail') == (True, '')
    qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = client.node.create_publisher(tf_message(), '/tf', qos)

    def told() -> Result | None:
        stamp = now(client)
        for offset in (-1, 1):
            transform = stamped('rail', 'base_link', stamp + offset * NANO, (3.0, 0.0, 0.0))
            publisher.publish(tf_message()(transforms=[transform]))
        result = answer(client, camera)
        return result if result.message == '' else None

    result = client.until(told, 'a transform came')
    target = geometry_of(client, result)['target_pose']
    assert position(target.pose) == placed(result.objects[0].pose, (3.3, 0.0, 1.2))
    client.node.destroy_publisher(publisher)


def test_tracked_frames_are_placed_at_their_own_stamps(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    assert client.set_parameter('track', True) == (True, '')
    assert client.set_parameter('target_frame', 'lane') == (True, '')
    start = now(client)

    def send() -> None:
        # One metre a second along y.
        stamp = now(client)
        for at in (stamp, stamp + NANO):
            along = (at - start) / NANO
            robot.move(stamped('lane', 'base_link', at, (0.0, along, 0.0)))
        camera.send(stamp, FAR)

    def told() -> bool:
        send()
        return bool(client.once('the thing').message == '')

    client.until(told, 'the lane is known')
    client.tracked.forget()

    def tracked() -> list[Any]:
        send()
        return [result for result in client.tracked if not result.message][3:]

    for result in client.until(tracked, 'frames are tracked'):
        assert result.header.frame_id == FRAME
        target = client.inboxes['target_pose'].wait_for(
            lambda pose, stamp=result.header.stamp: pose.header.stamp == stamp
        )
        assert target.header.frame_id == 'lane'
        along = (to_ns(result.header.stamp) - start) / NANO
        shift = (0.3, along, 1.2)
        assert position(target.pose) == placed(result.objects[0].pose, shift)


def test_a_tracked_frame_without_a_transform_says_so(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    assert client.set_parameter('track', True) == (True, '')
    answer(client, camera)
    assert client.set_parameter('target_frame', 'attic') == (True, '')
    client.tracked.forget()

    def told() -> list[Any]:
        camera.send(now(client), FAR)
        return [result for result in client.tracked if 'attic' in result.message]

    result = client.until(told, 'a tracked frame')[0]
    assert result.message == f'{NOTHING} attic: no transform of the frame attic was received.'
    assert result.objects[0].pose_status == SegmentedObject.POSE_OK


def test_objects_are_frames_under_the_cameras(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    result = answer(client, camera)
    assert not any(named(client))
    for name in ('broadcast_tf', 'track'):
        assert client.set_parameter(name, True) == (True, '')
    answered = answer(client, camera)
    client.tracked.forget()

    def tracked() -> list[Result]:
        camera.send(now(client), FAR)
        answered_ns = to_ns(answered.header.stamp)
        return [each for each in client.tracked if to_ns(each.header.stamp) > answered_ns]

    for result in (answered, *client.until(tracked, 'a tracked frame')):
        stamp = result.header.stamp
        found, *_ = client.until(
            lambda stamp=stamp: [each for each in named(client) if each.header.stamp == stamp],
            'its frame',
        )
        assert found.header.frame_id == FRAME
        pose, transform = result.objects[0].pose, found.transform
        shift, turn = transform.translation, transform.rotation
        assert (shift.x, shift.y, shift.z) == position(pose)
        assert (turn.x, turn.y, turn.z, turn.w) == (
            pose.orientation.x,
            pose.orientation.y,
            pose.orientation.z,
            pose.orientation.w,
        )


def named(client: Any) -> list[Any]:
    """Return the transforms of objects that came so far."""
    return [
        transform
        for message in list(client.transforms)
        for transform in message.transforms
        if transform.child_frame_id == 'robot_head_object_1'
    ]


def test_objects_without_a_pose_are_no_frames(
    client: Any, robot: Robot, camera: DepthCamera
) -> None:
    assert client.set_parameter('broadcast_tf', True) == (True, '')
    answer(client, camera)
    client.transforms.forget()
    stamp = now(client)
    # Nothing was measured.
    camera.send(stamp, 0.0)
    client.until(
        lambda: to_ns(client.once('the thing').header.stamp) == stamp, 'its frame is answered'
    )
    answer(client, camera)
    client.until(lambda: named(client), 'the next object is a frame')
    assert all(to_ns(each.header.stamp) != stamp for each in named(client))


def test_a_jump_back_in_time_forgets_the_transforms(
    scripted_node: Callable[..., Any], new_client: Callable[..., Any], red_and_blue: Any
) -> None:
    scripted_node(
        {'use_sim_time': True, 'target_frame': 'odom', 'camera.max_image_age': 0.0},
        arguments=[
            *('-r', '__ns:=/again', '-r', '/clock:=/again/clock'),
            *('-r', '/tf:=/again/tf', '-r', '/tf_static:=/again/tf_static'),
        ],
        environment=tf2_msgs_environment(),
    )
    client = new_client('again')
    client.wait_for_server()
    client.wait_for_state('active')
    clock = client.node.create_publisher(Clock, 'clock', 10)
    moving = client.node.create_publisher(tf_message(), 'tf', 100)
    fixed = client.node.create_publisher(tf_message(), 'tf_static', LATCHED)
    fixed.publish(tf_message()(transforms=[stamped('base_link', FRAME, 0, SHIFT, OPTICAL)]))
    targets = client.listen(PoseStamped, 'target_pose', DEEP)
    camera = DepthCamera(client, red_and_blue)
    client.until(
        lambda: clock.get_subscription_count() and moving.get_subscription_count(), 'it listens'
    )

    def told(second: int, far: float) -> Result | None:
        clock.publish(Clock(clock=to_time(second * NANO)))
        transforms = [
            stamped('odom', 'base_link', (second + offset) * NANO, (far, 0.0, 0.0))
            for offset in (-1, 1)
        ]
        moving.publish(tf_message()(transforms=transforms))
        camera.send(second * NANO, FAR)
        result = asked_about(client, second * NANO)
        return result if result and result.message == '' else None

    for second, far in ((1000, 1.0), (997, 9.0)):
        result = client.until(lambda second=second, far=far: told(second, far), 'an answer')
        target = targets.wait_for(
            lambda pose, result=result: pose.header.stamp == result.header.stamp
        )
        assert position(target.pose)[0] == pytest.approx(far + 0.3 + FAR, abs=0.02)
    # What was known of this time belongs to the time before the jump.
    camera.send(1000 * NANO, FAR)
    result = client.until(lambda: asked_about(client, 1000 * NANO), 'an answer')
    assert result.message.endswith(
        'the newest transform of base_link is 2.000 s older than the image.'
    )


def test_objects_of_a_simulated_camera_are_where_they_truly_are_on_the_robot(
    node_process: Callable[..., Any], new_client: Callable[..., Any]
) -> None:
    """With the camera's own transform from camera_sim, and the robot's from another publisher."""
    for script, parameters in (
        (NODE, {'target_frame': 'base_link'}),
        (CAMERA_SIM, {'source': 'scene', 'item': 'scene_7'}),
    ):
        node_process(
            parameters,
            script=script,
            profile='offline' if script is NODE else None,
            arguments=['-r', '__ns:=/bench', '-r', '/tf_static:=/bench/tf_static'],
            environment=tf2_msgs_environment(),
        )
    client = new_client('bench')
    client.wait_for_server()
    # 1.5 m up at the end of a boom that is turned to the left, and it looks down at 30 degrees.
    turn, tilt = math.radians(40), math.radians(30)
    yaw = np.array(
        [
            [math.cos(turn), -math.sin(turn), 0],
            [math.sin(turn), math.cos(turn), 0],
            [0, 0, 1],
        ]
    )
    pitch = np.array(
        [
            [math.cos(tilt), 0, math.sin(tilt)],
            [0, 1, 0],
            [-math.sin(tilt), 0, math.cos(tilt)],
        ]
    )
    # Right, down and ahead of the image in the camera's body: -y, -z and x.
    optical = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    matrix, shift = yaw @ pitch @ optical, (0.4, -0.1, 1.5)
    mount = quaternion_from_matrix(yaw @ pitch)
    publisher = client.node.create_publisher(tf_message(), 'tf_static', LATCHED)
    publisher.publish(
        tf_message()(transforms=[stamped('base_link', 'camera_link', 0, shift, mount)])
    )
    targets = client.listen(PoseStamped, 'target_pose', DEEP)
    client.until(lambda: client.node.count_publishers('/bench/target_pose'), 'it offers poses')
    scene = make_scene(7)
    targets_of = {sentence.text: sentence.targets for sentence in scene.sentences}
    for query in ('the brown book', 'where is the grey can?'):
        (index,) = targets_of[query]
        true = scene.objects[index].pose

        def told(query: str = query) -> Result | None:
            result = client.once(query)
            return result if result.objects and not result.message else None

        # Both questions may be about the same image.
        targets.forget()
        result = client.until(told, 'an answer with a transform')
        target = targets.wait_for(
            lambda pose, stamp=result.header.stamp: pose.header.stamp == stamp
        )
        assert (target.header.frame_id, result.header.frame_id) == (
            'base_link',
            'camera_color_optical_frame',
        )
        truth = matrix @ true.position + shift
        assert position(target.pose) == pytest.approx(tuple(truth), abs=0.005)
        turned = target.pose.orientation
        up = matrix_from_quaternion((turned.x, turned.y, turned.z, turned.w))[:, 2]
        true_up = matrix @ matrix_from_quaternion(true.orientation)[:, 2]
        assert up @ true_up > math.cos(math.radians(2)), 'upright on the true table'


@pytest.mark.skipif(find_spec('tf2_msgs') is not None, reason='tf2_msgs is installed')
def test_without_tf2_msgs_the_node_answers_and_says_what_to_install(
    scripted_node: Callable[..., Any], new_client: Callable[..., Any], red_and_blue: Any
) -> None:
    node = scripted_node(
        {'target_frame': 'base_link', 'broadcast_tf': True}, arguments=['-r', '__ns:=/bare']
    )
    client = new_client('bare')
    client.wait_for_server()
    client.wait_for_state('active')
    node.wait_for_output('broadcast_tf publishes nothing: tf2_msgs is not installed')
    result = answer(client, DepthCamera(client, red_and_blue))
    assert result.message.startswith(f'{NOTHING} base_link: tf2_msgs is not installed (apt-get ')
    assert result.message.count('.') == 1
    assert client.node.count_publishers('/bare/target_pose') == 1
