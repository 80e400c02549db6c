"""RViz and the tools of vision_msgs see the answer's boxes where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
import importlib.util
import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip('visualization_msgs')

from geometry_msgs.msg import Pose, PoseWithCovariance, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from segzero_ros.overlay_layout import object_colour
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.ros.perception.display_messages import detections, detections_3d, markers
from segzero_ros.types import Answer, Frame, Pose3D, PoseStatus, Query, Roi, Segment, Status

STAMP = 12_000_000_034
# A quarter turn about the optical axis: the box's x axis points down in the picture.
QUARTER = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))


def segment(number: int, label: str, pose: Pose3D | None, score: float = 0.5) -> Segment:
    status = PoseStatus.POSE_OK if pose else PoseStatus.NO_DEPTH
    mask = np.ones((2, 2), np.bool_)
    return Segment(
        number, label, score, Roi(10, 20, 5, 8), (), Roi(11, 21, 2, 2), mask, pose, status
    )


def answer(*segments: Segment) -> Answer:
    frame = Frame(np.zeros((40, 60, 3), np.uint8), STAMP, 'camera_optical_frame')
    return Answer(Query('a cup'), Status.OK, frame=frame, segments=segments)


CUP = segment(3, 'cup', Pose3D((0.1, 0.2, 1.0), QUARTER, (0.4, 0.2, 0.0)), 0.75)
FLAT = segment(4, 'no depth here', None, math.nan)


def test_the_first_marker_takes_away_those_of_the_last_answer() -> None:
    for array in (markers(answer()), markers(answer(CUP))):
        assert array.markers[0].action == Marker.DELETEALL
        assert all(marker.action == Marker.ADD for marker in array.markers[1:])


def test_each_object_with_a_pose_has_a_box_and_a_name() -> None:
    sent = markers(answer(CUP, FLAT))
    array = deserialize_message(serialize_message(sent), MarkerArray)
    _, box, name = array.markers
    assert (box.type, box.ns, box.id) == (Marker.CUBE, 'boxes', 3)
    position, scale = box.pose.position, box.scale
    assert (position.x, position.y, position.z) == (0.1, 0.2, 1.0)
    assert (scale.x, scale.y) == (0.4, 0.2)
    assert scale.z > 0, 'RViz draws no box without thickness'
    assert box.pose.orientation.z == pytest.approx(math.sqrt(0.5))
    assert (name.type, name.ns, name.id) == (Marker.TEXT_VIEW_FACING, 'labels', 3)
    assert name.text == '3 cup 0.75'


def test_the_name_stands_above_the_box_as_it_is_turned() -> None:
    _, _, name = markers(answer(CUP)).markers
    top = 0.2 - 0.4 / 2
    assert top - 0.1 < name.pose.position.y + name.scale.z / 2 < top
    assert (name.pose.position.x, name.pose.position.z) == (0.1, 1.0)


def test_a_name_without_score_says_none() -> None:
    unsure = segment(1, 'cup', CUP.pose, math.nan)
    assert markers(answer(unsure)).markers[2].text == '1 cup'


def test_markers_have_the_colours_of_the_overlay() -> None:
    for number in (1, 2, 9, 65535):
        _, box, name = markers(answer(segment(number, 'cup', CUP.pose))).markers
        expected = [channel / 255 for channel in object_colour(number)]
        for colour in (box.color, name.color):
            assert [colour.r, colour.g, colour.b] == pytest.approx(expected)
        assert 0 < box.color.a < name.color.a == 1


def test_markers_carry_the_header_of_the_frame() -> None:
    for marker in markers(answer(CUP)).markers:
        assert to_ns(marker.header.stamp) == STAMP
        assert marker.header.frame_id == 'camera_optical_frame'


@dataclass(slots=True)
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Pose2D:
    position: Point2D = field(default_factory=Point2D)
    theta: float = 0.0


@dataclass(slots=True)
class BoundingBox2D:
    center: Pose2D = field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass(slots=True)
class BoundingBox3D:
    center: Pose = field(default_factory=Pose)
    size: Vector3 = field(default_factory=Vector3)


@dataclass(slots=True)
class ObjectHypothesis:
    class_id: str = ''
    score: float = 0.0


@dataclass(slots=True)
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: PoseWithCovariance = field(default_factory=PoseWithCovariance)


@dataclass(slots=True)
class Detection2D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox2D = field(default_factory=BoundingBox2D)
    id: str = ''


@dataclass(slots=True)
class Detection3D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox3D = field(default_factory=BoundingBox3D)
    id: str = ''


@dataclass(slots=True)
class Detection2DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection2D] = field(default_factory=list)


@dataclass(slots=True)
class Detection3DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection3D] = field(default_factory=list)


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Give vision_msgs: the installed one, or the classes above after its release 4.1.1.

    They have its fields and take no others; rosidl's wheels do not come with the package.
    """
    if importlib.util.find_spec('vision_msgs'):
        return True
    standing_in = ModuleType('vision_msgs.msg')
    for message_class in (
        Point2D,
        Pose2D,
        ObjectHypothesis,
        BoundingBox2D,
        BoundingBox3D,
        ObjectHypothesisWithPose,
        Detection2D,
        Detection3D,
        Detection2DArray,
        Detection3DArray,
    ):
        setattr(standing_in, message_class.__name__, message_class)
    monkeypatch.setitem(sys.modules, 'vision_msgs', ModuleType('vision_msgs'))
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg', standing_in)
    return False


def over_the_wire(message: Any, installed: bool) -> Any:
    if not installed:
        return message
    return deserialize_message(serialize_message(message), type(message))


def test_detections_hold_every_box_of_the_picture(vision_msgs: bool) -> None:
    array = over_the_wire(detections(answer(CUP, FLAT)), vision_msgs)
    assert [found.id for found in array.detections] == ['3', '4']
    for found, segment_ in zip(array.detections, (CUP, FLAT), strict=True):
        centre = found.bbox.center.position
        assert (centre.x, centre.y) == (12.0, 23.5), 'pixel centres are at integers'
        assert (found.bbox.size_x, found.bbox.size_y, found.bbox.center.theta) == (5, 8, 0)
        (result,) = found.results
        assert result.hypothesis.class_id == segment_.label
        assert result.hypothesis.score == pytest.approx(segment_.score, nan_ok=True)
    for header in (array.header, *(found.header for found in array.detections)):
        assert (to_ns(header.stamp), header.frame_id) == (STAMP, 'camera_optical_frame')


def test_detections_3d_hold_the_objects_that_have_a_pose(vision_msgs: bool) -> None:
    array = over_the_wire(detections_3d(answer(FLAT, CUP)), vision_msgs)
    (found,) = array.detections
    assert (found.id, found.results[0].hypothesis.class_id) == ('3', 'cup')
    assert (found.bbox.size.x, found.bbox.size.y, found.bbox.size.z) == (0.4, 0.2, 0.0)
    for pose in (found.bbox.center, found.results[0].pose.pose):
        assert (pose.position.x, pose.position.y, pose.position.z) == (0.1, 0.2, 1.0)
        assert pose.orientation.w == pytest.approx(math.sqrt(0.5))
    for header in (array.header, found.header):
        assert (to_ns(header.stamp), header.frame_id) == (STAMP, 'camera_optical_frame')


def test_nothing_found_is_an_empty_array(vision_msgs: bool) -> None:
    assert list(detections(answer()).detections) == []
    assert list(detections_3d(answer()).detections) == []


def test_the_name_stands_above_the_box_in_a_frame_whose_z_axis_points_up() -> None:
    tall = segment(1, 'lamp', Pose3D((1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0), (0.2, 0.2, 0.8)))
    _, _, name = markers(answer(tall), up=(0.0, 0.0, 1.0)).markers
    assert (name.pose.position.x, name.pose.position.y) == (1.0, 2.0)
    assert 3.4 < name.pose.position.z - name.scale.z / 2 < 3.5
