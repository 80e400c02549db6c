"""Transforms map points and boxes as worked out by hand."""

import math

import numpy as np
import pytest

from segzero_ros.rotations import matrix_from_quaternion, product, rotated, slerp
from segzero_ros.spatial.placement import (
    has_geometry,
    in_camera_frame,
    in_frame,
    without_geometry,
)
from segzero_ros.spatial.transforms import IDENTITY, StampedTransform, Transform
from segzero_ros.types import (
    Answer,
    Frame,
    Intrinsics,
    Pose3D,
    PoseStatus,
    Query,
    Roi,
    Segment,
    Status,
)

HALF = 0.5**0.5
# A quarter turn about z: x becomes y.
LEFT = (0.0, 0.0, HALF, HALF)
# A camera that looks along x of its body's frame, REP 103.
OPTICAL = (-0.5, 0.5, -0.5, 0.5)
# One that is 0.3 m before and 1.2 m above the base's origin and looks down at 30 degrees.
TILT = (0.0, math.sin(math.pi / 12), 0.0, math.cos(math.pi / 12))
BASE = Transform((0.3, 0.0, 1.2), product(TILT, OPTICAL))


def close(wanted):
    return pytest.approx(wanted, abs=1e-9)


def test_a_point_is_turned_and_then_moved():
    transform = Transform((1.0, 2.0, 3.0), LEFT)
    assert transform.point((1.0, 0.0, 0.0)) == close((1.0, 3.0, 3.0))
    assert transform.point((0.0, 1.0, 5.0)) == close((0.0, 2.0, 8.0))


def test_the_inverse_leads_back():
    transform = Transform((1.0, 2.0, 3.0), LEFT)
    assert transform.inverse().translation == close((-2.0, 1.0, -3.0))
    assert transform.inverse().point(transform.point((0.1, -0.7, 4.0))) == close((0.1, -0.7, 4.0))
    there_and_back = transform.inverse().after(transform)
    assert there_and_back.translation == close((0.0, 0.0, 0.0))
    assert there_and_back.rotation == close((0.0, 0.0, 0.0, 1.0))


def test_the_first_of_two_transforms_is_applied_first():
    moved, turned = Transform((1.0, 0.0, 0.0), (0, 0, 0, 1)), Transform((0.0, 0.0, 0.0), LEFT)
    assert turned.after(moved).point((0.0, 0.0, 0.0)) == close((0.0, 1.0, 0.0))
    assert moved.after(turned).point((1.0, 0.0, 0.0)) == close((1.0, 1.0, 0.0))


def test_a_camera_that_looks_down_sees_the_floor_before_the_robot():
    # 1.2 m above the floor and 30 degrees down: the ray meets it after 2.4 m.
    assert BASE.point((0.0, 0.0, 2.4)) == close((0.3 + 2.4 * math.cos(math.pi / 6), 0.0, 0.0))
    # What is to the right in the image is at negative y.
    assert BASE.point((1.0, 0.0, 0.0)) == close((0.3, -1.0, 1.2))


def test_a_box_keeps_its_size_and_turns_with_the_frame():
    box = BASE.pose(Pose3D((0.0, 0.0, 2.4), (0.0, 0.0, 0.0, 1.0), (0.1, 0.2, 0.3)))
    assert box.position == close(BASE.point((0.0, 0.0, 2.4)))
    assert box.size == (0.1, 0.2, 0.3)
    # The optical axis, down at 30 degrees.
    ahead = matrix_from_quaternion(box.orientation)[:, 2]
    assert ahead.tolist() == close([math.cos(math.pi / 6), 0.0, -0.5])


def test_clouds_are_transformed_as_single_points_are():
    xyz = np.random.default_rng(3).normal(size=(3, 4, 5)).astype(np.float32)
    xyz[:, 1, 2] = np.nan
    moved = BASE.points(xyz)
    assert (moved.dtype, moved.shape) == (np.float32, (3, 4, 5))
    assert np.isnan(moved[:, 1, 2]).all()
    assert np.isnan(moved).sum() == 3
    for row, column in ((0, 0), (3, 4), (2, 1)):
        wanted = BASE.point(tuple(map(float, xyz[:, row, column])))
        assert moved[:, row, column] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize('degrees', [1e-7, 0.001, 1, 90, 179])
@pytest.mark.parametrize('share', [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize('sign', [1, -1])
def test_rotations_are_interpolated_along_the_shorter_arc(degrees, share, sign):
    def about_z(angle):
        return 0.0, 0.0, math.sin(math.radians(angle) / 2), math.cos(math.radians(angle) / 2)

    end = tuple(sign * part for part in about_z(20 + degrees))
    found = slerp(about_z(20), end, share)
    wanted = about_z(20 + share * degrees)
    assert rotated(found, (1.0, 0.0, 0.0)) == close(rotated(wanted, (1.0, 0.0, 0.0)))


def test_translations_are_interpolated_linearly():
    start, end = Transform((0.0, 4.0, 1.0), (0, 0, 0, 1)), Transform((2.0, 0.0, 1.0), LEFT)
    between = start.towards(end, 0.25)
    assert between.translation == close((0.5, 3.0, 1.0))
    assert between.rotation == close((0, 0, math.sin(math.pi / 16), math.cos(math.pi / 16)))


@pytest.mark.parametrize(
    ('fields', 'valid'),
    [
        ({}, True),
        ({'parent': ''}, False),
        ({'child': ''}, False),
        ({'parent': 'tool'}, False),
        ({'transform': Transform((0.0, math.nan, 0.0), (0, 0, 0, 1))}, False),
        ({'transform': Transform((0.0, 0.0, math.inf), (0, 0, 0, 1))}, False),
        ({'transform': Transform((0.0, 0.0, 0.0), (0, 0, 0, 0))}, False),
        ({'transform': Transform((0.0, 0.0, 0.0), (0, 0, math.nan, 1))}, False),
        ({'transform': Transform((0.0, 0.0, 0.0), (0, 0, 0, 1.001))}, True),
    ],
)
def test_what_tf2_would_refuse_is_not_valid(fields, valid):
    stamped = StampedTransform('base', 'tool', 5, IDENTITY)._replace(**fields)
    assert stamped.is_valid is valid


def seen(depth=True, pose=True):
    """Return an answer about an object in the middle of the image, 2.4 m away."""
    metres = np.full((4, 6), 2.4, np.float32) if depth else None
    frame = Frame(
        np.zeros((4, 6, 3), np.uint8), 7, 'eye', metres, Intrinsics(5.0, 5.0, 2.0, 1.0, 6, 4)
    )
    box = Pose3D((0.0, 0.0, 2.4), (0.0, 0.0, 0.0, 1.0), (0.1, 0.2, 0.3)) if pose else None
    status = PoseStatus.POSE_OK if pose else PoseStatus.NO_DEPTH
    roi, mask = Roi(2, 1, 1, 1), np.ones((1, 1), np.bool_)
    segments = (
        Segment(1, 'cup', 0.5, roi, (), roi, mask, box, status),
        Segment(2, 'far', 0.5, roi, (), roi, mask),
    )
    return Answer(Query('cup'), Status.OK, 'Two.', frame, segments=segments)


def points_of(placed):
    """Return the points of all rows, written in two parts."""
    xyz = np.empty((3, 4, 6), np.float32)
    placed.cloud().write_rows(0, 1, xyz[:, :1])
    placed.cloud().write_rows(1, 4, xyz[:, 1:])
    return xyz


def test_geometry_is_in_the_wanted_frame_and_the_answer_stays_as_it_is():
    answer = seen()
    placed = in_frame(answer, 'base', BASE)
    assert placed.answer is answer
    geometry = placed.geometry
    assert (geometry.frame.frame_id, geometry.frame.stamp_ns) == ('base', 7)
    assert geometry.segments[0].pose == BASE.pose(answer.segments[0].pose)
    assert geometry.segments[1] is answer.segments[1]
    assert placed.up == close((math.sin(math.pi / 6), 0.0, math.cos(math.pi / 6)))
    assert points_of(placed)[:, 1, 2] == pytest.approx(BASE.point((0.0, 0.0, 2.4)), abs=1e-6)
    assert placed.cloud().object_ids[1, 2] == 1


def test_without_a_transform_the_geometry_is_missing_and_the_message_says_why():
    placed = without_geometry(seen(), 'No way.')
    assert (placed.geometry, placed.cloud()) == (None, None)
    assert placed.answer.message == 'Two. No way.'
    assert placed.answer.segments[0].pose is not None


def test_in_the_cameras_frame_nothing_changes():
    answer = seen()
    placed = in_camera_frame(answer)
    assert placed.geometry is placed.answer is answer
    assert placed.up == (0.0, -1.0, 0.0)
    assert points_of(placed)[:, 1, 2] == pytest.approx([0, 0, 2.4])


@pytest.mark.parametrize(
    ('answer', 'wanted'),
    [
        (seen(), True),
        (seen(pose=False), True),
        (seen(depth=False), True),
        (seen(depth=False, pose=False), False),
        (Answer(Query('cup'), Status.NO_IMAGE), False),
    ],
)
def test_depth_or_a_pose_makes_geometry(answer, wanted):
    assert has_geometry(answer) is wanted
