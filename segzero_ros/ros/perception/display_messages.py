"""Clouds, markers, detections, transforms and collision objects as rclpy messages.

Modules of `conversions` fill them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from segzero_ros.conversions import collision_objects
from segzero_ros.conversions.detections import (
    detections as fill_detections,
)
from segzero_ros.conversions.detections import (
    detections_3d as fill_detections_3d,
)
from segzero_ros.conversions.label_images import label_info as fill_label_info
from segzero_ros.conversions.markers import IN_OPTICAL_FRAME
from segzero_ros.conversions.markers import markers as fill_markers
from segzero_ros.conversions.point_cloud import cloud_message, Packed
from segzero_ros.conversions.transforms import to_transforms
from segzero_ros.ros.message_factory import filled, header_of
from segzero_ros.spatial.transforms import StampedTransform
from segzero_ros.types import Answer, Pose3D


def markers(answer: Answer, up: tuple[float, float, float] = IN_OPTICAL_FRAME) -> MarkerArray:
    """Return the 3-D boxes with their labels; the first marker deletes the previous ones.

    Args:
        answer: with poses in its frame's frame_id.
        up: unit vector in that frame.
    """
    return fill_markers(_make, answer, up)


def detections(answer: Answer) -> Any:
    """Return the objects' boxes as a vision_msgs/Detection2DArray.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    return fill_detections(_make, answer)


def detections_3d(answer: Answer) -> Any:
    """Return the objects that have a pose as a vision_msgs/Detection3DArray.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    return fill_detections_3d(_make, answer)


def cloud(answer: Answer, packed: Packed, *, is_dense: bool) -> PointCloud2:
    """Return packed points of an answer's frame; the message shares their bytes."""
    return cloud_message(_make, header_of(answer), packed, is_dense=is_dense)


def transforms(stamped: list[StampedTransform]) -> Any:
    """Return transforms as a tf2_msgs/TFMessage.

    Raises:
        ImportError: tf2_msgs is not installed.
    """
    return to_transforms(_make, stamped)


def label_info(header: Header, labels: Mapping[int, str]) -> Any:
    """Return the label of each id as a vision_msgs/LabelInfo.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    return fill_label_info(_make, header, labels)


def added_object(header: Header, name: str, pose: Pose3D, label: str) -> Any:
    """Return a box to add to the planning scene, as a moveit_msgs/CollisionObject.

    Raises:
        ImportError: moveit_msgs is not installed.
    """
    return collision_objects.added(_make, header, name, pose, label)


def moved_object(header: Header, name: str, pose: Pose3D) -> Any:
    """Return a new pose of an object in the planning scene; otherwise as `added_object`."""
    return collision_objects.moved(_make, header, name, pose)


def removed_object(header: Header, name: str) -> Any:
    """Return the removal of an object from the planning scene; otherwise as `added_object`."""
    return collision_objects.removed(_make, header, name)


def _make(name: str, /, **fields: Any) -> Any:
    package, _, message = name.split('/')
    return filled(getattr(import_module(f'{package}.msg'), message), fields)
