"""Checks of the ROS graph: the perception node, its camera's topics and their messages."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.conversions.image import decode_image
from segzero_ros.doctor.checks import Check, fail, ok, warn
from segzero_ros.ros.background_node import BackgroundNode, wait_for_future, wait_for_graph
from segzero_ros.types import BadImage

_TYPES = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
}
# Timeouts for discovery, a message and a service, seconds. The middleware announces a participant
# every 3 s, so discovery allows for two missed announcements.
_DISCOVERY_TIMEOUT, _MESSAGE_TIMEOUT, _SERVICE_TIMEOUT = 7.0, 3.0, 2.0
# A node that has not discovered this client yet loses its first reply.
_MAX_ATTEMPTS = 3
# Fast DDS transports large images through shared memory in this directory.
_SHM = Path('/dev/shm')  # noqa: S108
_MIN_SHARED_MEMORY = 64 * 2**20


def check_graph(namespace: str, image: str, depth: str, camera_info: str) -> Iterator[Check]:
    """Yield checks of the middleware, the node and the camera.

    Args:
        namespace: the node's.
        image: topic of the images; empty: the node's default.
        depth: topic of the depth images, likewise.
        camera_info: topic of the intrinsics, likewise.
    """
    yield ok('middleware', _middleware())
    yield _shared_memory()
    space = f'/{namespace.strip("/")}'.rstrip('/')
    with BackgroundNode('segzero_doctor') as background:
        graph = _Graph(background, f'{space}/perception')
        names = {
            'image': image or f'{space}/image',
            'depth': depth or f'{space}/depth',
            'camera_info': camera_info or f'{space}/camera_info',
        }
        wait_for_graph(lambda: graph.has(names['image']), _DISCOVERY_TIMEOUT)
        yield graph.check_node()
        image_array, check = graph.check_image(names['image'])
        yield check
        if image_array is not None:
            yield from graph.check_depth_and_info(names, image_array.shape[:2])


def _middleware() -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    return f'{get_rmw_implementation_identifier()}, domain {domain}, discovery {reach}'


def _shared_memory() -> Check:
    if not _SHM.is_dir():
        return ok('shared memory', 'none on this system')
    free = shutil.disk_usage(_SHM).free
    text = f'{free / 2**20:.0f} MB free in {_SHM}'
    if free < _MIN_SHARED_MEMORY:
        hint = 'Large images get lost: increase it (docker run --shm-size=1g).'
        return warn('shared memory', text, hint)
    return ok('shared memory', text)


class _Graph:
    def __init__(self, background: BackgroundNode, perception: str) -> None:
        self._node = background.node
        self._perception = perception
        self._state = self._node.create_client(GetState, f'{perception}/get_state')

    def has(self, topic: str) -> bool:
        """Return whether a topic has a publisher and the perception node is there."""
        return bool(self.publishers(topic)) and self._state.service_is_ready()

    def publishers(self, topic: str) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(topic))

    def check_node(self) -> Check:
        name = self._perception
        if not self._state.service_is_ready():
            hint = 'ros2 launch segzero_ros perception.launch.py, or give its --namespace.'
            return warn('node', f'there is no {name}', hint)
        for _ in range(_MAX_ATTEMPTS):
            future = self._state.call_async(GetState.Request())
            if wait_for_future(future, _SERVICE_TIMEOUT):
                break
        else:
            return fail('node', f'{name} does not answer', 'Restart it.')
        state = future.result().current_state.label
        if state == 'active':
            return ok('node', f'{name} is active')
        hint = f'ros2 topic echo --once {name.rpartition("/")[0]}/status gives the reason.'
        return fail('node', f'{name} is {state}', hint)

    def check_image(self, topic: str) -> tuple[Any, Check]:
        """Return the first image of a topic, None if there is none, and the check of it."""
        publishers = self.publishers(topic)
        if not publishers:
            others = ', '.join(self._image_topics()) or 'none'
            hint = f'Start the camera, or give its topic with --image; image topics: {others}.'
            return None, fail('camera', f'{topic} has no publisher', hint)
        types = {each.topic_type for each in publishers}
        kind = _TYPES.get(next(iter(types))) if len(types) == 1 else None
        if kind not in (Image, CompressedImage):
            return None, fail('camera', f'{topic} is of {", ".join(sorted(types))}, not an image')
        message = self._first_message(topic, kind)
        if message is None:
            hint = 'Is the camera running? Does "ros2 topic hz" show a rate?'
            return None, fail('camera', f'{topic} has a publisher, but no message arrived', hint)
        try:
            image = decode_image(message)
        except BadImage as error:
            return None, fail('camera', f'{topic}: {error}')
        encoding = message.encoding if kind is Image else message.format
        reliable = all(
            each.qos_profile.reliability == ReliabilityPolicy.RELIABLE for each in publishers
        )
        qos = 'reliable' if reliable else 'best effort'
        text = f'{topic}: {encoding} {image.shape[1]}x{image.shape[0]}, {qos}'
        if kind is CompressedImage:
            return image, warn('camera', text, 'Launch with image_transport:=compressed.')
        return image, ok('camera', text)

    def check_depth_and_info(
        self, names: dict[str, str], image_shape: tuple[int, int]
    ) -> Iterator[Check]:
        """Yield checks of depth and intrinsics.

        Args:
            names: topics of `depth` and `camera_info`.
            image_shape: height and width of the image they belong to.
        """
        height, width = image_shape
        for what, effect in (('depth', 'answers have no poses'), ('camera_info', 'no poses')):
            topic = names[what]
            types = {each.topic_type for each in self.publishers(topic)}
            kind = _TYPES.get(next(iter(types))) if len(types) == 1 else None
            message = None if kind is None else self._first_message(topic, kind)
            if message is None:
                hint = f'Give its topic with --{what}.'
                yield warn(what, f'no message on {topic}: {effect}', hint)
            elif not hasattr(message, 'height'):
                yield ok(what, f'{topic}: {message.format}')
            elif (message.height, message.width) != (height, width):
                size = f'{message.width}x{message.height}, the image {width}x{height}'
                hint = 'Use the topic registered to the image (aligned_depth_to_color).'
                yield fail(what, f'{topic} is {size}', hint)
            elif what == 'camera_info' and any(message.d):
                hint = 'Use the rectified image (image_proc) if poses have to be exact.'
                yield warn(what, f'{topic} reports lens distortion', hint)
            else:
                yield ok(what, f'{topic}: {message.width}x{message.height}')

    def _image_topics(self) -> list[str]:
        image_types = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}
        topics = self._node.get_topic_names_and_types()
        return sorted(name for name, types in topics if image_types & set(types))

    def _first_message(self, topic: str, kind: type) -> Any:
        messages: list[Any] = []
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(kind, topic, messages.append, qos)
        wait_for_graph(lambda: bool(messages), _MESSAGE_TIMEOUT)
        self._node.destroy_subscription(subscription)
        return messages[0] if messages else None
