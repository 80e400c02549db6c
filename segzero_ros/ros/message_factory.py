"""Answers as rclpy messages; `conversions.result` fills them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from segzero_ros.conversions import label_images, result
from segzero_ros.conversions.result import answer_from, mask_from, segments_from, to_ns
from segzero_ros.conversions.text import clean_text
from segzero_ros.msg import Pixel, SegmentationResult, SegmentedObject, Timing
from segzero_ros.types import Answer, Pose3D, RgbImage, Segment

__all__ = [
    'answer_from',
    'class_image',
    'clean_text',
    'confidence_image',
    'filled',
    'header_of',
    'label_image',
    'mask_from',
    'rgb_image',
    'segments_from',
    'to_ns',
    'to_object',
    'to_pose',
    'to_result',
    'to_time',
    'to_vector',
]

_CLASSES = {
    'builtin_interfaces/msg/Time': Time,
    'geometry_msgs/msg/Point': Point,
    'geometry_msgs/msg/Pose': Pose,
    'geometry_msgs/msg/Quaternion': Quaternion,
    'geometry_msgs/msg/Vector3': Vector3,
    'segzero_ros/msg/Pixel': Pixel,
    'segzero_ros/msg/SegmentationResult': SegmentationResult,
    'segzero_ros/msg/SegmentedObject': SegmentedObject,
    'segzero_ros/msg/Timing': Timing,
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/RegionOfInterest': RegionOfInterest,
    'std_msgs/msg/Header': Header,
}


def filled(message_class: Any, fields: dict[str, Any]) -> Any:
    """Return a message with these fields; pixels and points as bytes or as an array of bytes."""
    data = fields.get('data')
    if not isinstance(data, (bytes, array)):
        return message_class(**fields)
    # A message copies bytes when it is made and again when they are set; one that checks its
    # fields takes an array as it is.
    others = {name: value for name, value in fields.items() if name != 'data'}
    message = message_class(check_fields=True, **others)
    message.data = data if isinstance(data, array) else array('B', data)
    return message


def _make(name: str, /, **fields: Any) -> Any:
    return filled(_CLASSES[name], fields)


def to_time(stamp_ns: int) -> Time:
    """Return nanoseconds as a Time message."""
    return result.to_time(_make, stamp_ns)


def header_of(answer: Answer) -> Header:
    """Return the header of an answer's frame; an empty one without a frame."""
    return result.header_of(_make, answer)


def to_result(answer: Answer) -> SegmentationResult:
    """Return an answer as the message of the topic, the action and the service."""
    return result.to_result(_make, answer)


def to_object(segment: Segment, header: Header) -> SegmentedObject:
    """Return an object of an answer as a message.

    Args:
        segment: the object.
        header: the result's.
    """
    return result.to_object(_make, segment, header)


def to_pose(pose: Pose3D) -> Pose:
    """Return centre and orientation of a box as a message."""
    return result.to_pose(_make, pose)


def to_vector(values: tuple[float, float, float]) -> Vector3:
    """Return three numbers as a Vector3 message."""
    return result.to_vector(_make, values)


def label_image(answer: Answer, encoding: str = 'mono16') -> Image:
    """Return an image with the object id of each pixel; 0 is background.

    Args:
        answer: with a frame.
        encoding: `mono16` or `mono8`.
    """
    return label_images.label_image(_make, answer, encoding)


def class_image(answer: Answer, classes: Mapping[int, int], encoding: str = 'mono16') -> Image:
    """Return an image with the class id of each pixel; 0 is background.

    Args:
        answer: with a frame.
        classes: the class id of each object id.
        encoding: `mono16` or `mono8`.
    """
    return label_images.class_image(_make, answer, classes, encoding)


def confidence_image(answer: Answer) -> Image:
    """Return an image with the score of each pixel's object, mono8 from 0 to 255."""
    return label_images.confidence_image(_make, answer)


def rgb_image(rgb: RgbImage, header: Header) -> Image:
    """Return an image as a message.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        header: the message's.
    """
    return result.rgb_image(_make, rgb, header)
