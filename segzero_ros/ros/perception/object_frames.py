"""Objects as frames on `/tf` (the parameter `broadcast_tf`)."""

from __future__ import annotations

import logging
import os

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from segzero_ros.ros.perception import display_messages
from segzero_ros.spatial.transforms import StampedTransform, Transform
from segzero_ros.types import Answer

# As in tf2.
_QOS = QoSProfile(depth=100)
_logger = logging.getLogger(__name__)


class ObjectFrames:
    """Publishes each object with a pose as a child of its frame's optical frame.

    Args:
        node: owner of the publisher; its namespace is in the frames' names.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._enabled = False
        # Stays once it is there: the worker may be using it.
        self._publisher: Publisher | None = None
        space = node.get_namespace().strip('/').replace('/', '_')
        self._prefix = f'{space}_object_' if space else 'object_'

    def set(self, enabled: bool) -> None:
        """Publish from now on, or no longer; in the executor's thread."""
        if enabled and not self._enabled and self._publisher is None:
            self._publisher = self._new_publisher()
        self._enabled = enabled

    def _new_publisher(self) -> Publisher | None:
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            _logger.warning(
                'broadcast_tf publishes nothing: tf2_msgs is not installed (apt-get install '
                'ros-%s-tf2-msgs).',
                os.environ.get('ROS_DISTRO', '<distribution>'),
            )
            return None
        return self._node.create_publisher(TFMessage, '/tf', _QOS)

    def publish(self, answer: Answer) -> None:
        """Publish the objects of an answer at its frame's stamp."""
        publisher, frame = self._publisher, answer.frame
        if not self._enabled or publisher is None or frame is None or not frame.frame_id:
            return
        transforms = [
            StampedTransform(
                frame.frame_id.lstrip('/'),
                f'{self._prefix}{segment.id}',
                frame.stamp_ns,
                Transform(segment.pose.position, segment.pose.orientation),
            )
            for segment in answer.segments
            if segment.pose is not None
        ]
        if transforms:
            publisher.publish(display_messages.transforms(transforms))
