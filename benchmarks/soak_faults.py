"""Faults of the soak test, one function each.

Each restores the initial state; the caller measures the recovery. Faults use only ROS interfaces
and signals to the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import random
import signal
import threading

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from benchmarks.query_client import QueryClient
from benchmarks.watched import Watched
from segzero_ros.ros.background_node import BackgroundNode, wait_for_future

CAMERA = '/camera/camera_sim'
# Longer than image_max_age, so that queries fail.
SILENCE = 6.0


@dataclass
class Bench:
    """The context of faults.

    Attributes:
        client: sends queries to the node.
        camera: the camera process.
        start_camera: starts a new camera process.
    """

    client: QueryClient
    camera: Watched
    start_camera: Callable[[], Watched]


def pause(seconds: float) -> None:
    """Wait for some seconds."""
    threading.Event().wait(seconds)


def camera_hangs(bench: Bench) -> None:
    """Suspend the camera process for some seconds."""
    bench.camera.send(signal.SIGSTOP)
    pause(SILENCE)
    bench.camera.send(signal.SIGCONT)


def camera_dies(bench: Bench) -> None:
    """Kill the camera process and start a new one."""
    bench.camera.stop(signal.SIGKILL)
    pause(SILENCE)
    bench.camera = bench.start_camera()


def resolution_changes(bench: Bench) -> None:
    """Switch the camera to images of other sizes without depth, and back."""
    for source, item in (('photograph', 'coffee'), ('photograph', 'astronaut'), ('scene', '')):
        bench.client.set_parameters(node=CAMERA, source=source, item=item)
        pause(1.5)


def encoding_changes(bench: Bench) -> None:
    """Change the image encoding, and back."""
    for encoding in ('bgra8', 'mono16', 'bayer_rggb8', 'rgb8'):
        bench.client.set_parameters(node=CAMERA, encoding=encoding)
        pause(1.0)


def depth_vanishes(bench: Bench) -> None:
    """Stop the depth, restart it in metres, then in millimetres."""
    for encoding in ('none', '32FC1', '16UC1'):
        bench.client.set_parameters(node=CAMERA, depth_encoding=encoding)
        pause(1.5)


def depth_of_another_size(bench: Bench) -> None:
    """Publish depth of another size in addition to the camera's."""
    node = bench.client.node
    publisher = node.create_publisher(Image, '/camera/depth', QoSProfile(depth=5))
    small = Image(width=32, height=24, encoding='16UC1', step=64, data=bytes(32 * 24 * 2))
    for _ in range(60):
        small.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(small)
        pause(0.033)
    node.destroy_publisher(publisher)


def subscribers_come_and_go(bench: Bench) -> None:
    """Subscribe to all image topics and unsubscribe, a few times."""
    for number in range(4):
        with BackgroundNode(f'viewer_{number}') as viewer:
            for kind, topic in (
                (Image, 'overlay'),
                (Image, 'label_image'),
                (MarkerArray, 'markers'),
            ):
                viewer.node.create_subscription(kind, topic, lambda _: None, 1)
            pause(1.2)


def garbage_comes(bench: Bench) -> None:
    """Publish invalid images in addition to the camera's."""
    node = bench.client.node
    publisher = node.create_publisher(Image, '/camera/image', QoSProfile(depth=5))
    generator = random.Random(7)
    for _ in range(60):
        publisher.publish(generator.randbytes(generator.randrange(1, 4000)))
        pause(0.033)
    node.destroy_publisher(publisher)


def queries_burst(bench: Bench) -> None:
    """Send more queries at once than the queue holds."""
    for _ in range(100):
        bench.client.ask(disturbed=True)


def asker_dies(bench: Bench) -> None:
    """Send a goal and a request, and destroy the client before the answers."""
    for number in range(3):
        leaving = QueryClient(signature=f'{"?" * (number + 1)} ')
        if leaving.wait_for_node(10.0):
            for way in ('action', 'service', 'topic'):
                leaving.ask(way)
        leaving.close()


def node_is_deactivated(bench: Bench) -> None:
    """Clean up and reactivate the node during queries."""
    node = bench.client.node
    client = node.create_client(ChangeState, 'perception/change_state')
    client.wait_for_service(10.0)
    for number in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        bench.client.ask(disturbed=True)
        request = ChangeState.Request(transition=Transition(id=number))
        wait_for_future(client.call_async(request), 20.0)
    node.destroy_client(client)


FAULTS: dict[str, Callable[[Bench], None]] = {
    'camera hangs': camera_hangs,
    'resolution changes': resolution_changes,
    'queries burst': queries_burst,
    'encoding changes': encoding_changes,
    'depth vanishes': depth_vanishes,
    'subscribers come and go': subscribers_come_and_go,
    'depth of another size': depth_of_another_size,
    'garbage on the image topic': garbage_comes,
    'asker dies': asker_dies,
    'node goes down and up': node_is_deactivated,
    'camera dies': camera_dies,
}
