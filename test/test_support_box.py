"""The support box lies below the surface that objects stand on, and under all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segzero_ros.rotations import matrix_from_quaternion
from segzero_ros.simulation import make_scene, Scene
from segzero_ros.spatial import lift
from segzero_ros.spatial.support_box import support_box, THICKNESS
from segzero_ros.types import Frame, Intrinsics, Mask, Pose3D, PoseStatus, Roi, Segment

# A camera that looks straight down from 1 m.
DOWN = Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240)
BLOCK = 0.1


def segment(number: int, mask: Mask, frame: Frame) -> Segment:
    roi = Roi.around(mask)
    pose, status = lift(mask, frame)
    assert status is PoseStatus.POSE_OK
    return Segment(number, 'thing', 1.0, roi, (), roi, mask[roi.slices], pose, status)


def objects_of(scene: Scene) -> list[Segment]:
    return [
        segment(item.id, scene.mask(index), scene.frame)
        for index, item in enumerate(scene.objects)
        if not item.clutter and item.area > 300
    ]


def upper_side(box: Pose3D) -> tuple[np.ndarray, np.ndarray]:
    """Return a point of the box's upper side, and its normal."""
    normal = matrix_from_quaternion(box.orientation)[:, 2]
    return np.array(box.position) + normal * box.size[2] / 2, normal


def inside(box: Pose3D, point: np.ndarray) -> bool:
    """Return whether a point is above the box."""
    along = (point - box.position) @ matrix_from_quaternion(box.orientation)
    return bool((abs(along[:2]) <= np.array(box.size[:2]) / 2 + 1e-6).all())


@pytest.mark.parametrize('seed', range(500, 506))
def test_it_is_the_table_of_a_scene(seed: int) -> None:
    scene = make_scene(seed, sentences=False)
    objects = objects_of(scene)
    box = support_box(scene.frame, objects)
    assert box is not None
    assert box.size[2] == THICKNESS
    truth = scene.objects[0].pose
    up = matrix_from_quaternion(truth.orientation)[:, 2]
    surface = np.array(truth.position) - up * truth.size[2] / 2
    point, normal = upper_side(box)
    assert np.degrees(np.arccos(min(1.0, normal @ up))) < 1
    assert abs((surface - point) @ up) < 0.005
    for item in objects:
        assert item.pose is not None
        assert inside(box, np.array(item.pose.position))


def tables() -> tuple[Frame, Segment]:
    """Return two tables of the same height, 1 m below, with a block on the left one."""
    depth = np.full((240, 320), 1.8, np.float32)
    depth[60:180, 40:140] = 1.0
    depth[60:180, 220:300] = 1.0
    mask = np.zeros((240, 320), np.bool_)
    mask[100:133, 70:103] = True
    depth[mask] = 1.0 - BLOCK
    frame = Frame(np.zeros((240, 320, 3), np.uint8), 1, 'optical', depth, DOWN)
    return frame, segment(1, mask, frame)


def test_it_ends_where_the_table_ends() -> None:
    frame, block = tables()
    box = support_box(frame, [block])
    assert box is not None
    # 100 by 120 pixels at 1 m; the table's rim may count by a pixel or two.
    assert sorted(box.size[:2]) == pytest.approx([100 / 300, 120 / 300], abs=0.03)
    point, normal = upper_side(box)
    assert point[2] == pytest.approx(1.0, abs=0.005)
    assert normal == pytest.approx([0, 0, -1], abs=0.02)
    assert box.position[2] == pytest.approx(1.0 + THICKNESS / 2, abs=0.005)
    # 40 to 140 pixels from the left, 60 to 180 from above.
    assert box.position[:2] == pytest.approx([(90 - 160) / 300, 0], abs=0.02)


def test_it_has_no_side_that_turns_while_the_object_moves() -> None:
    frame, block = tables()
    box = support_box(frame, [block])
    assert box is not None
    x_axis = matrix_from_quaternion(box.orientation)[:, 0]
    assert x_axis == pytest.approx([1, 0, 0], abs=0.05), 'along the side that points right'


def test_without_depth_or_a_surface_there_is_none() -> None:
    frame, block = tables()
    assert support_box(frame, []) is None
    assert support_box(replace(frame, depth=None), [block]) is None
    assert support_box(replace(frame, intrinsics=None), [block]) is None
    alone = np.full((240, 320), np.nan, np.float32)
    alone[block.full_mask(240, 320)] = 0.9
    assert support_box(replace(frame, depth=alone), [block]) is None


def test_an_object_without_a_mask_or_a_pose_does_not_matter() -> None:
    frame, block = tables()
    nothing = np.zeros((0, 0), np.bool_)
    point = replace(block, id=2, mask=nothing, mask_roi=Roi(0, 0, 0, 0))
    lost = replace(point, id=3, pose=None)
    assert support_box(frame, [lost, point, block]) == support_box(frame, [block])
    assert support_box(frame, [lost, point]) is None
