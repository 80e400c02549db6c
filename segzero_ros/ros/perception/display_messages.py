"""Clouds, RViz markers and vision_msgs detections as rclpy messages; `conversions` fills them."""

from __future__ import annotations

from array import array
from importlib import import_module
from typing import Any

from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from segzero_ros.conversions.detections import (
    detections as fill_detections,
)
from segzero_ros.conversions.detections import (
    detections_3d as fill_detections_3d,
)
from segzero_ros.conversions.markers import markers as fill_markers
from segzero_ros.conversions.point_cloud import of_objects, organised
from segzero_ros.ros.message_factory import header_of
from segzero_ros.spatial.clouds import Cloud
from segzero_ros.types import Answer


def markers(answer: Answer) -> MarkerArray:
    """Return the 3-D boxes with their labels; the first marker deletes the previous ones."""
    return fill_markers(_make, answer)


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


def organised_cloud(answer: Answer, cloud: Cloud) -> PointCloud2:
    """Return the frame's points, one for each pixel."""
    assert answer.frame is not None
    return organised(_make, header_of(answer), cloud.xyz, answer.frame.image, cloud.object_ids)


def object_cloud(answer: Answer, cloud: Cloud) -> PointCloud2:
    """Return the points of the objects alone."""
    assert answer.frame is not None
    return of_objects(_make, header_of(answer), cloud.xyz, answer.frame.image, cloud.object_ids)


def _make(name: str, /, **fields: Any) -> Any:
    if 'data' in fields:
        fields['data'] = array('B', fields['data'])
    package, _, message = name.split('/')
    return getattr(import_module(f'{package}.msg'), message)(**fields)
