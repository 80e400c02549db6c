"""An answer for other people's tools: RViz markers and vision_msgs detections.

Made by whatever classes the messages have, as in `results`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segzero_ros.conversions.result import clean_text, header_of, Make, to_pose, to_time, to_vector
from segzero_ros.overlay import object_colour
from segzero_ros.types import Answer, Pose3D, Segment

MARKERS = 'visualization_msgs/msg/MarkerArray'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
DETECTIONS_3D = 'vision_msgs/msg/Detection3DArray'

_OPACITY = 0.45
# Sizes in metres: letters, their distance from the box, and the least that RViz draws at all.
_LETTER = 0.04
_GAP = 0.02
_LEAST = 0.001
# visualization_msgs/Marker's constants.
_CUBE, _TEXT_VIEW_FACING = 1, 9
_ADD, _DELETEALL = 0, 3
_NOWHERE = Pose3D((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))


def markers(make: Make, answer: Answer) -> Any:
    """Return the boxes in 3-D with their labels; the first marker takes away the last answer's.

    Objects without a pose have no marker. The colours are the overlay's.
    """
    header = header_of(make, answer)
    made = [_marker(make, header, action=_DELETEALL)]
    for segment in answer.segments:
        if segment.pose is not None:
            made.append(_box(make, segment, segment.pose, header))
            made.append(_name(make, segment, segment.pose, header))
    return make(MARKERS, markers=made)


def detections(make: Make, answer: Answer) -> Any:
    """Return the objects' boxes as a vision_msgs/Detection2DArray.

    A score that the segmenter does not give is NaN there too.
    """
    header = header_of(make, answer)
    found = []
    for segment in answer.segments:
        # Pixel centres are at integers: the box of one pixel at 3 reaches from 2.5 to 3.5.
        middle = make(
            'vision_msgs/msg/Point2D',
            x=segment.box.x + (segment.box.width - 1) / 2,
            y=segment.box.y + (segment.box.height - 1) / 2,
        )
        box = make(
            'vision_msgs/msg/BoundingBox2D',
            center=make('vision_msgs/msg/Pose2D', position=middle, theta=0.0),
            size_x=float(segment.box.width),
            size_y=float(segment.box.height),
        )
        found.append(
            make(
                'vision_msgs/msg/Detection2D',
                header=header,
                results=[_hypothesis(make, segment, _NOWHERE)],
                bbox=box,
                id=str(segment.id),
            )
        )
    return make(DETECTIONS, header=header, detections=found)


def detections_3d(make: Make, answer: Answer) -> Any:
    """Return the objects that have a pose as a vision_msgs/Detection3DArray."""
    header = header_of(make, answer)
    found = []
    for segment in answer.segments:
        if segment.pose is None:
            continue
        box = make(
            'vision_msgs/msg/BoundingBox3D',
            center=to_pose(make, segment.pose),
            size=to_vector(make, segment.pose.size),
        )
        found.append(
            make(
                'vision_msgs/msg/Detection3D',
                header=header,
                results=[_hypothesis(make, segment, segment.pose)],
                bbox=box,
                id=str(segment.id),
            )
        )
    return make(DETECTIONS_3D, header=header, detections=found)


def _hypothesis(make: Make, segment: Segment, pose: Pose3D) -> Any:
    return make(
        'vision_msgs/msg/ObjectHypothesisWithPose',
        hypothesis=make(
            'vision_msgs/msg/ObjectHypothesis',
            class_id=clean_text(segment.label),
            score=float(segment.score),
        ),
        pose=make(
            'geometry_msgs/msg/PoseWithCovariance',
            pose=to_pose(make, pose),
            covariance=np.zeros(36),
        ),
    )


def _box(make: Make, segment: Segment, pose: Pose3D, header: Any) -> Any:
    x, y, z = (max(length, _LEAST) for length in pose.size)
    return _marker(
        make,
        header,
        ns='boxes',
        id=segment.id,
        type=_CUBE,
        pose=to_pose(make, pose),
        scale=to_vector(make, (x, y, z)),
        color=_colour(make, segment, _OPACITY),
    )


def _name(make: Make, segment: Segment, pose: Pose3D, header: Any) -> Any:
    score = '' if math.isnan(segment.score) else f' {segment.score:.2f}'
    x, y, z = pose.position
    # The optical frame's y axis points down.
    above = Pose3D(
        (x, y - _half_height(pose) - _GAP - _LETTER / 2, z), _NOWHERE.orientation, _NOWHERE.size
    )
    return _marker(
        make,
        header,
        ns='labels',
        id=segment.id,
        type=_TEXT_VIEW_FACING,
        pose=to_pose(make, above),
        scale=to_vector(make, (_LETTER, _LETTER, _LETTER)),
        color=_colour(make, segment, 1.0),
        text=f'{segment.id} {clean_text(segment.label)}{score}',
    )


def _marker(make: Make, header: Any, **fields: Any) -> Any:
    """Return a marker; what is not given is as ROS fills it by itself."""
    nothing = to_time(make, 0)
    blank = make('std_msgs/msg/Header', stamp=nothing, frame_id='')
    texture = make('sensor_msgs/msg/CompressedImage', header=blank, format='', data=b'')
    defaults = {
        'ns': '',
        'id': 0,
        'type': 0,
        'action': _ADD,
        'pose': to_pose(make, _NOWHERE),
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


def _half_height(pose: Pose3D) -> float:
    """Return how far the turned box reaches from its centre along the frame's y axis."""
    x, y, z, w = pose.orientation
    y_of_axes = (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w))
    return sum(abs(part) * length for part, length in zip(y_of_axes, pose.size, strict=True)) / 2


def _colour(make: Make, segment: Segment, opacity: float) -> Any:
    red, green, blue = (channel / 255 for channel in object_colour(segment.id))
    return make('std_msgs/msg/ColorRGBA', r=red, g=green, b=blue, a=opacity)
