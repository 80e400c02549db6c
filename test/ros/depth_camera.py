"""A depth camera that a test controls, and a reader of the clouds that come of it."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time as TimeMessage
import numpy as np
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

NANO = 1_000_000_000
WIDTH, HEIGHT = 320, 240
FRAME = 'camera_optical_frame'


def stamp(at_ns: int) -> TimeMessage:
    return TimeMessage(sec=at_ns // NANO, nanosec=at_ns % NANO)


class DepthCamera:
    """Publishes colour, depth and intrinsics when and as it is told."""

    def __init__(self, client: Any, picture: np.ndarray, info_qos: QoSProfile | int = 1) -> None:
        self._node = client.node
        self._image = self._node.create_publisher(Image, 'image', 5)
        self._depth = self._node.create_publisher(Image, 'depth', 5)
        self._info = self._node.create_publisher(CameraInfo, 'camera_info', info_qos)
        self._publishers = (self._image, self._depth, self._info)
        self.colour = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH)
        self.colour.data = picture.tobytes()
        self.depth = Image(height=HEIGHT, width=WIDTH, encoding='16UC1', step=2 * WIDTH)
        self.info = CameraInfo(height=HEIGHT, width=WIDTH)
        self.info.k = [300.0, 0.0, WIDTH / 2, 0.0, 300.0, HEIGHT / 2, 0.0, 0.0, 1.0]
        for message in (self.colour, self.depth, self.info):
            message.header.frame_id = FRAME
        client.until(
            lambda: all(one.get_subscription_count() for one in self._publishers), 'all is heard'
        )

    def send_colour(self, at_ns: int) -> None:
        self.colour.header.stamp = stamp(at_ns)
        self._image.publish(self.colour)

    def send_depth(self, at_ns: int, metres: float = 0.8) -> None:
        self.depth.header.stamp = stamp(at_ns)
        self.depth.data = np.full((HEIGHT, WIDTH), metres * 1000, np.uint16).tobytes()
        self._depth.publish(self.depth)

    def send_info(self, at_ns: int) -> None:
        self.info.header.stamp = stamp(at_ns)
        self._info.publish(self.info)

    def send(self, at_ns: int, metres: float = 0.8) -> None:
        self.send_info(at_ns)
        self.send_depth(at_ns, metres)
        self.send_colour(at_ns)

    def close(self) -> None:
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)


def points_of(cloud: PointCloud2) -> np.ndarray:
    """Read a cloud by its own fields, as a foreign program does."""
    kinds = {PointField.FLOAT32: '<f4', PointField.UINT16: '<u2'}
    dtype = np.dtype(
        {
            'names': [field.name for field in cloud.fields],
            'formats': [kinds[field.datatype] for field in cloud.fields],
            'offsets': [field.offset for field in cloud.fields],
            'itemsize': cloud.point_step,
        }
    )
    assert cloud.row_step == cloud.width * cloud.point_step
    return np.frombuffer(cloud.data, dtype).reshape(cloud.height, cloud.width)
