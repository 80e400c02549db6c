"""An answer for other people's tools: RViz markers and vision_msgs detections.

Imports `types`, `messages`, `drawing` for the colours, and the message classes; vision_msgs, which
not every installation has, only where it is used.
"""

from __future__ import annotations

import math
from typing import Any

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from segzero_ros.drawing import object_colour
from segzero_ros.ros.messages import clean_text, header_of, to_pose, to_vector
from segzero_ros.types import Answer, Pose3D, Segment

_OPACITY = 0.45
# Sizes in metres: letters, their distance from the box, and the least that RViz draws at all.
_LETTER = 0.04
_GAP = 0.02
_LEAST = 0.001


def markers(answer: Answer) -> MarkerArray:
    """Return the boxes in 3-D with their labels; the first marker takes away the last answer's.

    Objects without a pose have no marker. The colours are the overlay's.
    """
    header = header_of(answer)
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for segment in answer.segments:
        if segment.pose is not None:
            array.markers += [
                _box(segment, segment.pose, header),
                _name(segment, segment.pose, header),
            ]
    return array


def detections(answer: Answer) -> Any:
    """Return the objects' boxes as a vision_msgs/Detection2DArray.

    A score that the segmenter does not give is NaN there too.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

    header = header_of(answer)
    array = Detection2DArray(header=header)
    for segment in answer.segments:
        box = BoundingBox2D(size_x=float(segment.box.width), size_y=float(segment.box.height))
        # Pixel centres are at integers: the box of one pixel at 3 reaches from 2.5 to 3.5.
        box.center.position.x = segment.box.x + (segment.box.width - 1) / 2
        box.center.position.y = segment.box.y + (segment.box.height - 1) / 2
        found = Detection2D(header=header, bbox=box, id=str(segment.id))
        found.results = [_hypothesis(segment)]
        array.detections.append(found)
    return array


def detections_3d(answer: Answer) -> Any:
    """Return the objects that have a pose as a vision_msgs/Detection3DArray.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray

    header = header_of(answer)
    array = Detection3DArray(header=header)
    for segment in answer.segments:
        if segment.pose is None:
            continue
        box = BoundingBox3D(center=to_pose(segment.pose), size=to_vector(segment.pose.size))
        found = Detection3D(header=header, bbox=box, id=str(segment.id))
        hypothesis = _hypothesis(segment)
        hypothesis.pose.pose = to_pose(segment.pose)
        found.results = [hypothesis]
        array.detections.append(found)
    return array


def _hypothesis(segment: Segment) -> Any:
    from vision_msgs.msg import ObjectHypothesisWithPose

    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = clean_text(segment.label)
    hypothesis.hypothesis.score = float(segment.score)
    return hypothesis


def _box(segment: Segment, pose: Pose3D, header: Header) -> Marker:
    x, y, z = (max(length, _LEAST) for length in pose.size)
    return Marker(
        header=header,
        ns='boxes',
        id=segment.id,
        type=Marker.CUBE,
        action=Marker.ADD,
        pose=to_pose(pose),
        scale=to_vector((x, y, z)),
        color=_colour(segment, _OPACITY),
    )


def _name(segment: Segment, pose: Pose3D, header: Header) -> Marker:
    score = '' if math.isnan(segment.score) else f' {segment.score:.2f}'
    marker = Marker(
        header=header,
        ns='labels',
        id=segment.id,
        type=Marker.TEXT_VIEW_FACING,
        action=Marker.ADD,
        scale=to_vector((_LETTER, _LETTER, _LETTER)),
        color=_colour(segment, 1.0),
        text=f'{segment.id} {clean_text(segment.label)}{score}',
    )
    x, y, z = map(float, pose.position)
    # The optical frame's y axis points down.
    marker.pose.position = Point(x=x, y=y - _half_height(pose) - _GAP - _LETTER / 2, z=z)
    return marker


def _half_height(pose: Pose3D) -> float:
    """Return how far the turned box reaches from its centre along the frame's y axis."""
    x, y, z, w = pose.orientation
    y_of_axes = (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w))
    return sum(abs(part) * length for part, length in zip(y_of_axes, pose.size, strict=True)) / 2


def _colour(segment: Segment, opacity: float) -> ColorRGBA:
    red, green, blue = (channel / 255 for channel in object_colour(segment.id))
    return ColorRGBA(r=red, g=green, b=blue, a=opacity)
