"""What the ROS graph holds for the node: camera topics, their first messages, the node itself."""

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

_KINDS = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
}
# Seconds in which the graph shows itself, a message comes, and a service answers. Who missed a
# newcomer's first words hears of it by the middleware's next, each 3 s.
_DISCOVERY, _MESSAGE, _SERVICE = 7.0, 3.0, 2.0
# A node that has not found this client's reader yet drops its first reply.
_ASKED = 3
# Fast DDS moves large images through shared memory of this folder.
_SHARED = Path('/dev/shm')  # noqa: S108
_LEAST_SHARED = 64 * 2**20


def look_at_graph(namespace: str, image: str, depth: str, camera_info: str) -> Iterator[Check]:
    """Yield what there is to say of the graph, the camera and the node.

    Args:
        namespace: the node's.
        image: the topic of its images; empty: what the node listens to by itself.
        depth: of its depth images, likewise.
        camera_info: of its intrinsics, likewise.
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
        wait_for_graph(lambda: graph.has(names['image']), _DISCOVERY)
        yield graph.node()
        picture, finding = graph.picture(names['image'])
        yield finding
        if picture is not None:
            yield from graph.companions(names, picture)


def _middleware() -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    return f'{get_rmw_implementation_identifier()}, domain {domain}, discovery {reach}'


def _shared_memory() -> Check:
    if not _SHARED.is_dir():
        return ok('shared memory', 'none on this system')
    free = shutil.disk_usage(_SHARED).free
    said = f'{free / 2**20:.0f} MB free in {_SHARED}'
    if free < _LEAST_SHARED:
        cure = 'Large images get lost: give it more (docker run --shm-size=1g).'
        return warn('shared memory', said, cure)
    return ok('shared memory', said)


class _Graph:
    def __init__(self, background: BackgroundNode, perception: str) -> None:
        self._node = background.node
        self._perception = perception
        self._state = self._node.create_client(GetState, f'{perception}/get_state')

    def has(self, topic: str) -> bool:
        """Return whether somebody publishes a topic and the perception node is there."""
        return bool(self.publishers(topic)) and self._state.service_is_ready()

    def publishers(self, topic: str) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(topic))

    def node(self) -> Check:
        name = self._perception
        if not self._state.service_is_ready():
            cure = 'ros2 launch segzero_ros perception.launch.py, or name its --namespace.'
            return warn('node', f'there is no {name}', cure)
        for _ in range(_ASKED):
            future = self._state.call_async(GetState.Request())
            if wait_for_future(future, _SERVICE):
                break
        else:
            return fail('node', f'{name} does not answer', 'End it and start it again.')
        state = future.result().current_state.label
        if state == 'active':
            return ok('node', f'{name} is active')
        cure = f'ros2 topic echo --once {name.rpartition("/")[0]}/status tells why.'
        return fail('node', f'{name} is {state}', cure)

    def picture(self, topic: str) -> tuple[Any, Check]:
        """Return the first image of a topic, and what there is to say of it."""
        offered = self.publishers(topic)
        if not offered:
            others = ', '.join(self._pictures()) or 'none'
            cure = (
                f'Start the camera, or name its topic with --image; topics with images: {others}.'
            )
            return None, fail('camera', f'nobody publishes {topic}', cure)
        kinds = {each.topic_type for each in offered}
        kind = _KINDS.get(next(iter(kinds))) if len(kinds) == 1 else None
        if kind not in (Image, CompressedImage):
            return None, fail('camera', f'{topic} is of {", ".join(sorted(kinds))}, not an image')
        message = self._first(topic, kind)
        if message is None:
            cure = 'Is the camera running? Does "ros2 topic hz" show a rate?'
            return None, fail('camera', f'{topic} is published, but nothing comes', cure)
        try:
            picture = decode_image(message)
        except BadImage as error:
            return None, fail('camera', f'{topic}: {error}')
        encoding = message.encoding if kind is Image else message.format
        reliable = all(
            each.qos_profile.reliability == ReliabilityPolicy.RELIABLE for each in offered
        )
        how = 'reliable' if reliable else 'best effort'
        size = f'{picture.shape[1]}x{picture.shape[0]}'
        said = f'{topic}: {encoding} {size}, {how}'
        if kind is CompressedImage:
            cure = 'Launch with image_transport:=compressed.'
            return picture, warn('camera', said, cure)
        return picture, ok('camera', said)

    def companions(self, names: dict[str, str], picture: Any) -> Iterator[Check]:
        """Yield what there is to say of depth and intrinsics beside an image."""
        height, width = picture.shape[:2]
        for what, without in (('depth', 'answers have no poses'), ('camera_info', 'no poses')):
            topic = names[what]
            kinds = {each.topic_type for each in self.publishers(topic)}
            kind = _KINDS.get(next(iter(kinds))) if len(kinds) == 1 else None
            message = None if kind is None else self._first(topic, kind)
            if message is None:
                yield warn(what, f'nothing comes on {topic}: {without}', f'Name it with --{what}.')
            elif not hasattr(message, 'height'):
                yield ok(what, f'{topic}: {message.format}')
            elif (message.height, message.width) != (height, width):
                size = f'{message.width}x{message.height}, the image {width}x{height}'
                cure = 'Take the topic that is registered to the image (aligned_depth_to_color).'
                yield fail(what, f'{topic} is of {size}', cure)
            elif what == 'camera_info' and any(message.d):
                cure = 'Take the rectified image (image_proc) where poses have to be exact.'
                yield warn(what, f'{topic} says that the lens distorts the image', cure)
            else:
                yield ok(what, f'{topic}: {message.width}x{message.height}')

    def _pictures(self) -> list[str]:
        kinds = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}
        topics = self._node.get_topic_names_and_types()
        return sorted(name for name, types in topics if kinds & set(types))

    def _first(self, topic: str, kind: type) -> Any:
        got: list[Any] = []
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(kind, topic, got.append, qos)
        wait_for_graph(lambda: bool(got), _MESSAGE)
        self._node.destroy_subscription(subscription)
        return got[0] if got else None
