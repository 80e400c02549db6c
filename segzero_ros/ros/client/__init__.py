"""Client of a running perception node, for programs that are not ROS nodes themselves."""

from segzero_ros.ros.client.perception_client import PerceptionClient
from segzero_ros.ros.client.types import (
    ClientError,
    ignore,
    NoAnswer,
    NoNode,
    OnProgress,
    Progress,
    Reply,
)
from segzero_ros.ros.opencv_images import Order, Pixels

__all__ = [
    'ClientError',
    'NoAnswer',
    'NoNode',
    'OnProgress',
    'Order',
    'PerceptionClient',
    'Pixels',
    'Progress',
    'Reply',
    'ignore',
]
