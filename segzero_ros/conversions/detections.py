"""vision_msgs detections of an answer's objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from segzero_ros.conversions.result import header_of, Make, NO_POSE, to_pose, to_vector
from segzero_ros.conversions.text import clean_text
from segzero_ros.types import Answer, Pose3D, Segment

DETECTIONS = 'vision_msgs/msg/Detection2DArray'
DETECTIONS_3D = 'vision_msgs/msg/Detection3DArray'


def detections(make: Make, answer: Answer) -> Any:
    """Return the objects' boxes as a vision_msgs/Detection2DArray; mere points are left out.

    Args:
        make: creates the messages.
        answer: with a frame. A segment without a score gets NaN.
    """
    header = header_of(make, answer)
    messages = []
    for segment in answer.segments:
        if not segment.box.width:
            continue
        # Pixel centres are at integers: the box of the single pixel 3 spans 2.5 to 3.5.
        centre = make(
            'vision_msgs/msg/Point2D',
            x=segment.box.x + (segment.box.width - 1) / 2,
            y=segment.box.y + (segment.box.height - 1) / 2,
        )
        box = make(
            'vision_msgs/msg/BoundingBox2D',
            center=make('vision_msgs/msg/Pose2D', position=centre, theta=0.0),
            size_x=float(segment.box.width),
            size_y=float(segment.box.height),
        )
        messages.append(
            make(
                'vision_msgs/msg/Detection2D',
                header=header,
                results=[_hypothesis(make, segment, NO_POSE)],
                bbox=box,
                id=str(segment.id),
            )
        )
    return make(DETECTIONS, header=header, detections=messages)


def detections_3d(make: Make, answer: Answer) -> Any:
    """Return the objects that have a pose as a vision_msgs/Detection3DArray.

    Args:
        make: creates the messages.
        answer: with a frame. A segment without a score gets NaN.
    """
    header = header_of(make, answer)
    messages = []
    for segment in answer.segments:
        if segment.pose is None:
            continue
        box = make(
            'vision_msgs/msg/BoundingBox3D',
            center=to_pose(make, segment.pose),
            size=to_vector(make, segment.pose.size),
        )
        messages.append(
            make(
                'vision_msgs/msg/Detection3D',
                header=header,
                results=[_hypothesis(make, segment, segment.pose)],
                bbox=box,
                id=str(segment.id),
            )
        )
    return make(DETECTIONS_3D, header=header, detections=messages)


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
