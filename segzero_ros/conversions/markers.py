"""RViz markers of an answer's objects: their 3-D boxes and labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segzero_ros.conversions.result import header_of, Make, NO_POSE, to_pose, to_time, to_vector
from segzero_ros.conversions.text import clean_text
from segzero_ros.overlay_layout import object_colour
from segzero_ros.rotations import matrix_from_quaternion, Vector
from segzero_ros.types import Answer, Pose3D, Segment

MARKERS = 'visualization_msgs/msg/MarkerArray'
# Up in a camera's optical frame, whose y axis points down.
IN_OPTICAL_FRAME: Vector = (0.0, -1.0, 0.0)

_BOX_ALPHA = 0.45
# In metres: height of the label's letters, its distance from the box, and the smallest scale that
# RViz draws.
_TEXT_HEIGHT = 0.04
_TEXT_GAP = 0.02
_MIN_SCALE = 0.001
# Diameter of the ball at a point, metres.
_BALL = 0.02
# Constants of visualization_msgs/Marker.
_CUBE, _SPHERE, _TEXT_VIEW_FACING = 1, 2, 9
_ADD, _DELETEALL = 0, 3


def markers(make: Make, answer: Answer, up: Vector = IN_OPTICAL_FRAME) -> Any:
    """Return the 3-D boxes, balls at mere points, and their labels, in the overlay's colours.

    The first marker deletes those of the previous answer. Objects without a pose have no marker.

    Args:
        make: creates the messages.
        answer: with a frame.
        up: unit vector in that frame; labels stand above their boxes.
    """
    header = header_of(make, answer)
    messages = [_marker(make, header, action=_DELETEALL)]
    for segment in answer.segments:
        if segment.pose is not None:
            messages.append(_body(make, segment, segment.pose, header))
            messages.append(_label(make, segment, segment.pose, header, up))
    return make(MARKERS, markers=messages)


def _body(make: Make, segment: Segment, pose: Pose3D, header: Any) -> Any:
    """Return the object's box, or a ball at its place on the surface if it has no mask."""
    has_size = any(pose.size)
    x, y, z = (max(length, _MIN_SCALE) for length in pose.size) if has_size else (_BALL,) * 3
    return _marker(
        make,
        header,
        ns='boxes',
        id=segment.id,
        type=_CUBE if has_size else _SPHERE,
        pose=to_pose(make, pose),
        scale=to_vector(make, (x, y, z)),
        color=_colour(make, segment, _BOX_ALPHA),
    )


def _label(make: Make, segment: Segment, pose: Pose3D, header: Any, up: Vector) -> Any:
    score = '' if math.isnan(segment.score) else f' {segment.score:.2f}'
    height = _half_height(pose, up) + _TEXT_GAP + _TEXT_HEIGHT / 2
    x, y, z = (centre + height * part for centre, part in zip(pose.position, up, strict=True))
    above = Pose3D((x, y, z), NO_POSE.orientation, NO_POSE.size)
    return _marker(
        make,
        header,
        ns='labels',
        id=segment.id,
        type=_TEXT_VIEW_FACING,
        pose=to_pose(make, above),
        scale=to_vector(make, (_TEXT_HEIGHT, _TEXT_HEIGHT, _TEXT_HEIGHT)),
        color=_colour(make, segment, 1.0),
        text=f'{segment.id} {clean_text(segment.label)}{score}',
    )


def _marker(make: Make, header: Any, **fields: Any) -> Any:
    """Return a marker; fields that are not given have ROS's default values."""
    blank = make('std_msgs/msg/Header', stamp=to_time(make, 0), frame_id='')
    texture = make('sensor_msgs/msg/CompressedImage', header=blank, format='', data=b'')
    defaults = {
        'ns': '',
        'id': 0,
        'type': 0,
        'action': _ADD,
        'pose': to_pose(make, NO_POSE),
        'scale': to_vector(make, (0.0, 0.0, 0.0)),
        'color': make('std_msgs/msg/ColorRGBA', r=0.0, g=0.0, b=0.0, a=0.0),
        'lifetime': make('builtin_interfaces/msg/Duration', sec=0, nanosec=0),
        'frame_locked': False,
        'points': [],
        'colors': [],
        'texture_resource': '',
        'texture': texture,
        'uv_coordinates': [],
        'text': '',
        'mesh_resource': '',
        'mesh_file': make('visualization_msgs/msg/MeshFile', filename='', data=b''),
        'mesh_use_embedded_materials': False,
    }
    return make('visualization_msgs/msg/Marker', header=header, **{**defaults, **fields})


def _half_height(pose: Pose3D, up: Vector) -> float:
    """Return the rotated box's half extent along a unit vector, metres."""
    shares = up @ matrix_from_quaternion(pose.orientation)
    return float(np.abs(shares) @ pose.size / 2)


def _colour(make: Make, segment: Segment, alpha: float) -> Any:
    red, green, blue = (channel / 255 for channel in object_colour(segment.id))
    return make('std_msgs/msg/ColorRGBA', r=red, g=green, b=blue, a=alpha)
