"""The node hears its camera whatever the camera offers, and asks about the right frame."""

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.msg import SegmentationResult as Result

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node()


@pytest.fixture(scope='module')
def client(node, new_client):
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    return client


@pytest.fixture
def camera(client):
    """Give a function that makes a camera; it is off after the test, and its frames forgotten."""
    cameras = []

    def make(*args, **options):
        cameras.append(client.camera(*args, **options))
        return cameras[-1]

    yield make
    for camera in cameras:
        camera.stop()
    assert client.transition('deactivate')
    assert client.transition('activate')


def subscribed(client, topic='image'):
    """Return the reliability with which the node subscribes to a topic."""
    infos = client.node.get_subscriptions_info_by_topic(topic)
    return [info.qos_profile.reliability for info in infos if info.node_name == 'perception']


def answer(client, text='what is there?'):
    """Return the first answer about an image."""
    return client.until(
        lambda: (lambda r: r if r.status != Result.NO_IMAGE else None)(client.once(text)),
        'a frame has come',
    )


def test_without_a_camera_the_answer_says_who_is_missing(client):
    result = client.once('anything there?')
    assert result.status == Result.NO_IMAGE
    assert '/image has no publisher' in result.message


@pytest.mark.parametrize('reliability', [RELIABLE, BEST_EFFORT])
def test_a_camera_that_comes_later_is_heard_as_it_publishes(
    client, camera, red_and_blue, reliability
):
    camera(red_and_blue, reliability=reliability)
    assert answer(client).status == Result.OK
    client.until(lambda: subscribed(client) == [reliability], 'the subscription follows')


def test_a_camera_that_changes_its_reliability_is_followed_both_ways(client, camera, red_and_blue):
    first = camera(red_and_blue, reliability=BEST_EFFORT)
    answer(client)
    client.until(lambda: subscribed(client) == [BEST_EFFORT], 'best effort at first')
    first.stop()
    camera(red_and_blue, reliability=RELIABLE)
    client.until(lambda: subscribed(client) == [RELIABLE], 'then reliable')
    third = camera(red_and_blue, reliability=BEST_EFFORT)
    client.until(lambda: subscribed(client) == [BEST_EFFORT], 'best effort hears both')
    stamps = len(third.stamps)
    client.until(
        lambda: (
            (lambda s: (s.sec, s.nanosec))(client.once('x').header.stamp) in third.stamps[stamps:]
        ),
        'the best-effort camera is heard',
    )


def test_a_latched_picture_that_was_published_before_is_heard(client, camera, as_image_message):
    """`ros2 topic pub --once` with transient_local, and maps of a museum, publish once."""
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = client.node.create_publisher(Image, 'image', qos)
    message = as_image_message(client.picture_of(64, 48), 'latched')
    message.header.stamp = client.node.get_clock().now().to_msg()
    publisher.publish(message)
    assert client.transition('deactivate')
    assert client.transition('activate')
    assert answer(client).header.frame_id == 'latched'
    client.node.destroy_publisher(publisher)


def test_a_type_that_is_no_image_is_reported(node, client, camera):
    from sensor_msgs.msg import PointCloud2

    publisher = client.node.create_publisher(PointCloud2, 'image', 1)
    client.until(lambda: 'PointCloud2' in client.once('anything?').message, 'the type is reported')
    result = client.once('anything?')
    assert result.status == Result.NO_IMAGE
    assert 'sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage' in result.message
    node.wait_for_output(r'\[WARN\].*PointCloud2')
    client.node.destroy_publisher(publisher)


def test_the_subscription_follows_the_type_of_its_publisher(client, camera, red_and_blue):
    """Whatever the topic is called: raw, then compressed, then raw again."""
    import cv2

    jpeg = cv2.imencode('.jpg', red_and_blue[..., ::-1])[1].tobytes()
    compressed = CompressedImage(format='jpeg', data=jpeg)
    compressed.header.frame_id = 'compressed_frame'
    for message, frame_id in (
        (red_and_blue, 'camera_optical_frame'),
        (compressed, 'compressed_frame'),
    ) * 2:
        running = camera(message)
        answered = client.until(
            lambda frame_id=frame_id: (
                (result := client.once('x')).status == Result.OK
                and result.header.frame_id == frame_id
            ),
            f'an answer about {frame_id}',
        )
        assert answered
        result = client.once('once more')
        assert (result.image_width, result.image_height) == (320, 240)
        running.stop()
        client.until(lambda: client.node.count_publishers('image') == 0, 'the camera is gone')


def test_an_image_that_is_too_old_is_not_asked_about(client, camera, red_and_blue):
    running = camera(red_and_blue)
    answer(client)
    running.stop()
    assert client.set_parameter('camera.max_image_age', 0.3)[0]
    client.until(lambda: client.once('still there?').status == Result.NO_IMAGE, 'it is too old')
    message = client.once('still there?').message
    assert 'camera.max_image_age, 0.3 s' in message
    assert 'is the camera still running' in message
    assert client.set_parameter('camera.max_image_age', 0.0)[0]
    assert client.once('any age?').status == Result.OK
    client.set_parameter('camera.max_image_age', 5.0)


@pytest.mark.parametrize(
    ('stamp', 'status', 'words'),
    [
        (Time(seconds=1000), Result.NO_IMAGE, 'another clock'),
        (Time(), Result.OK, ''),
    ],
)
def test_odd_stamps_are_understood_or_explained(
    client, camera, as_image_message, red_and_blue, stamp, status, words
):
    message = as_image_message(red_and_blue)
    publisher = client.node.create_publisher(Image, 'image', 1)
    message.header.stamp = stamp.to_msg()
    client.until(lambda: publisher.get_subscription_count(), 'the node listens')

    def published_and_asked():
        publisher.publish(message)
        result = client.once('and now?')
        return result if 'nothing arrived' not in result.message else None

    result = client.until(published_and_asked, 'it has come')
    client.node.destroy_publisher(publisher)
    assert result.status == status
    assert words in result.message
    if status == Result.OK:
        assert 0 <= result.timing.frame_age < 5


def test_depth_and_intrinsics_of_the_same_stamp_give_poses(client, as_image_message, red_and_blue):
    height, width = red_and_blue.shape[:2]
    image = client.node.create_publisher(Image, 'image', 1)
    depth = client.node.create_publisher(Image, 'depth', 1)
    info = client.node.create_publisher(CameraInfo, 'camera_info', 1)
    pixels = np.full((height, width), 800, np.uint16)
    millimetres = Image(height=height, width=width, encoding='16UC1', step=width * 2)
    millimetres.data = pixels.tobytes()
    focal, middle = 300.0, (width / 2, height / 2)
    matrix = [focal, 0.0, middle[0], 0.0, focal, middle[1], 0.0, 0.0, 1.0]
    camera_info = CameraInfo(height=height, width=width, k=matrix)

    def published_and_asked():
        colour = as_image_message(red_and_blue)
        colour.header.stamp = client.node.get_clock().now().to_msg()
        millimetres.header = camera_info.header = colour.header
        image.publish(colour)
        depth.publish(millimetres)
        info.publish(camera_info)
        result = client.once('the thing in the middle')
        return result if result.objects and not result.objects[0].pose_status else None

    result = client.until(published_and_asked, 'a pose')
    assert result.objects[0].pose.position.z == pytest.approx(0.8, abs=0.05)
    for publisher in (image, depth, info):
        client.node.destroy_publisher(publisher)


def test_broken_depth_is_said_and_the_answer_is_given_without(client, camera, red_and_blue):
    camera(red_and_blue)
    wrong = Image(height=10, width=10, encoding='16UC1', step=20, data=bytes(200))
    camera(wrong, 'depth')
    client.until(
        lambda: 'depth image cannot be used' in client.once('the middle').message, 'a remark'
    )
    result = client.once('the middle')
    assert result.status == Result.OK
    assert len(result.objects) == 1
    assert result.objects[0].pose_status != 0


@pytest.fixture(scope='module')
def simulated(scripted_node, new_client):
    """Give a client in a simulation whose clock stands where the test puts it."""
    scripted_node({'use_sim_time': True}, arguments=['-r', '__ns:=/simulated'])
    client = new_client('simulated')
    client.wait_for_server()
    client.wait_for_state('active')
    client.clock = client.node.create_publisher(Clock, '/clock', 10)
    client.until(lambda: client.clock.get_subscription_count() >= 1, 'the node hears the clock')
    return client


def test_the_simulated_clock_counts_and_its_jump_back_forgets_the_frames(
    simulated, as_image_message, red_and_blue
):
    publisher = simulated.node.create_publisher(Image, 'image', 1)
    simulated.until(lambda: publisher.get_subscription_count(), 'the node listens')
    message = as_image_message(red_and_blue)

    def at(seconds, *, stamp=None, wanted=Result.OK):
        """Set the clock, and publish an image if it has a stamp; ask until it is as wanted."""

        def asked():
            simulated.clock.publish(Clock(clock=Time(seconds=seconds).to_msg()))
            if stamp is not None:
                message.header.stamp = Time(seconds=stamp).to_msg()
                publisher.publish(message)
            result = simulated.once('what is there?')
            return result if result.status == wanted else None

        return simulated.until(asked, f'status {wanted} at {seconds}')

    result = at(101, stamp=100)
    assert result.header.stamp.sec == 100
    assert result.timing.frame_age == pytest.approx(1.0)
    # Six simulated seconds later the image is too old; nobody has waited.
    assert 'taken 7.0 s ago' in at(107, wanted=Result.NO_IMAGE).message
    # The bag begins anew: what was seen at its end is forgotten.
    assert 'nothing arrived yet' in at(50, wanted=Result.NO_IMAGE).message
    assert at(51, stamp=50).timing.frame_age == pytest.approx(1.0)


def test_qos_of_what_is_published_can_be_overridden(node_process, new_client):
    publisher = {'reliability': 'best_effort', 'depth': 3}
    node_process(
        {'qos_overrides': {'/qos/overlay': {'publisher': publisher}}},
        profile='offline',
        arguments=['-r', '__ns:=/qos'],
    )
    client = new_client('qos')
    client.wait_for_state('active')

    def offered(topic):
        (found,) = client.until(
            lambda: client.node.get_publishers_info_by_topic(f'/qos/{topic}'), topic
        )
        return found.qos_profile.reliability

    assert offered('overlay') == ReliabilityPolicy.BEST_EFFORT
    assert offered('result') == ReliabilityPolicy.RELIABLE
