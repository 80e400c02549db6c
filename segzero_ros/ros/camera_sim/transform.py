"""Transform of the simulated camera's optical frame on `/tf_static`, for RViz and tf2.

REP 103: a camera's body frame has x forward and z up, its optical frame z forward and y down.
Drivers such as RealSense's publish the transform between them; so does the simulated camera, if
tf2_msgs is installed.
"""

from __future__ import annotations

import os
from typing import Any

from geometry_msgs.msg import Quaternion, Transform, TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile

# Rotation of an optical frame in its body frame, REP 103.
_OPTICAL = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class CameraTransform:
    """Publishes the transform of each optical frame that the camera uses.

    Args:
        node: owner of the publisher.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._published: dict[str, str] = {}
        self._message_type = _tf_message()
        self._publisher: Publisher | None = None
        self._missing_reported = False

    def publish(self, optical: str, body: str) -> None:
        """Publish a frame's transform, unless it was published before.

        Args:
            optical: frame of the images.
            body: its parent; empty: nothing is published.
        """
        if not body or optical in ('', body) or self._published.get(optical) == body:
            return
        if self._message_type is None:
            self._report_missing(optical)
            return
        self._published[optical] = body
        if self._publisher is None:
            self._publisher = self._node.create_publisher(
                self._message_type, '/tf_static', _LATCHED
            )
        # All of them, because a late subscriber receives only the last message.
        transforms = [self._transform(child, parent) for child, parent in self._published.items()]
        self._publisher.publish(self._message_type(transforms=transforms))

    def _transform(self, child: str, parent: str) -> TransformStamped:
        transform = TransformStamped(child_frame_id=child, transform=Transform(rotation=_OPTICAL))
        transform.header.frame_id = parent
        transform.header.stamp = self._node.get_clock().now().to_msg()
        return transform

    def _report_missing(self, optical: str) -> None:
        if self._missing_reported:
            return
        self._missing_reported = True
        distro = os.environ.get('ROS_DISTRO', '<distribution>')
        self._node.get_logger().info(
            f'tf2_msgs is not installed (apt-get install ros-{distro}-tf2-msgs), so /tf_static '
            f'is not published: set the fixed frame of RViz to {optical} '
            f'(fixed_frame:={optical} with the launch file).'
        )


def _tf_message() -> Any:
    """Return the message type of /tf_static; None if it is not installed."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return TFMessage
