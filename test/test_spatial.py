"""Masks and depth become boxes in 3-D that agree with the truth, or the reason why not."""

from __future__ import annotations

from dataclasses import replace
import gc
import subprocess
import sys
import weakref

import cv2
import numpy as np
import pytest

from segzero_ros.simulation import make_scene, Scene
from segzero_ros.simulation.catalogue import CLASSES
from segzero_ros.simulation.layout import make_setting
from segzero_ros.simulation.scenes import render
from segzero_ros.spatial import fitting_intrinsics, lift, rectification_warning
from segzero_ros.types import Frame, Intrinsics, Mask, Pose3D, PoseStatus

CAMERA = Intrinsics(600.0, 600.0, 319.5, 239.5, 640, 480)


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(seed, sentences=False) for seed in range(500, 508)]


def clear_objects(scene: Scene) -> list[int]:
    return [
        index
        for index, item in enumerate(scene.objects)
        if not item.clutter and item.visible > 0.7 and item.area > 500
    ]


def rotation(pose: Pose3D) -> np.ndarray:
    x, y, z, w = pose.orientation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def lifted(mask: Mask, frame: Frame) -> Pose3D:
    pose, status = lift(mask, frame)
    assert status == PoseStatus.POSE_OK
    assert pose is not None
    return pose


def off(pose: Pose3D, truth: Pose3D) -> float:
    return float(np.linalg.norm(np.subtract(pose.position, truth.position)))


def yaw_off(pose: Pose3D, truth: Pose3D) -> float:
    """Return the angle between two upright boxes' sides, degrees, up to quarter turns."""
    relative = rotation(truth).T @ rotation(pose)
    angle = np.degrees(np.arctan2(relative[1, 0], relative[0, 0]))
    return abs((angle + 45) % 90 - 45)


def sides(pose: Pose3D) -> np.ndarray:
    return np.array([*sorted(pose.size[:2]), pose.size[2]])


@pytest.mark.slow
def test_positions_are_within_a_centimetre_and_a_hundredth_of_the_range(
    scenes: list[Scene],
) -> None:
    errors = []
    for scene in scenes:
        for index in clear_objects(scene):
            item = scene.objects[index]
            error = off(lifted(scene.mask(index), scene.frame), item.pose)
            errors.append(error / (0.01 + 0.01 * item.range))
    assert len(errors) > 30
    assert np.median(errors) < 0.3
    assert np.mean(np.array(errors) < 1) > 0.93


@pytest.mark.slow
def test_extents_of_boxes_are_within_a_tenth_and_their_sides_within_ten_degrees(
    scenes: list[Scene],
) -> None:
    angles, errors = [], []
    for scene in scenes:
        for index in clear_objects(scene):
            item = scene.objects[index]
            if item.kind in ('box', 'book'):
                pose = lifted(scene.mask(index), scene.frame)
                angles.append(yaw_off(pose, item.pose))
                errors.append(np.median(np.abs(sides(pose) / sides(item.pose) - 1)))
    assert len(angles) >= 6
    assert max(angles) < 10
    assert np.median(errors) < 0.05
    assert max(errors) < 0.1


@pytest.mark.slow
def test_round_things_get_their_whole_width_though_their_back_is_hidden(
    scenes: list[Scene],
) -> None:
    errors = []
    for scene in scenes:
        for index in clear_objects(scene):
            item = scene.objects[index]
            if item.kind in ('can', 'ball', 'bottle'):
                pose = lifted(scene.mask(index), scene.frame)
                errors.append(np.abs(sides(pose) / sides(item.pose) - 1).max())
    assert len(errors) >= 6
    assert np.median(errors) < 0.06


def test_a_mugs_handle_is_part_of_its_box() -> None:
    """The handle points to the side, where it is seen, so the box is longer along it."""
    scene = on_a_table(('mug', 0.0, (0.0, 0.0, 0.0)))
    item = scene.objects[0]
    pose = lifted(scene.mask(0), scene.frame)
    assert off(pose, item.pose) < 0.012
    assert yaw_off(pose, item.pose) < 15
    assert np.abs(sides(pose) / sides(item.pose) - 1).max() < 0.12


def on_a_table(*things: tuple[str, float, tuple[float, float, float]], seed: int = 31) -> Scene:
    """Return a picture of things alone on a table: kind, yaw and place of each."""
    rng = np.random.default_rng(seed)
    setting = make_setting(rng, 640, 480, 0.0)
    made = tuple(
        replace(setting.things[0], solid=CLASSES[kind](rng, 1.0), position=np.array(at), yaw=yaw)
        for kind, yaw, at in things
    )
    return render(replace(setting, things=made), rng)


def test_what_hangs_in_the_air_is_not_drawn_down_to_the_table() -> None:
    for height in (0.15, 0.3):
        scene = on_a_table(('book', 0.5, (0.0, 0.0, height)))
        item = scene.objects[0]
        pose = lifted(scene.mask(0), scene.frame)
        assert min(pose.size) < 0.06
        assert off(pose, item.pose) < 0.03


@pytest.mark.slow
def test_what_stands_on_something_starts_there() -> None:
    book = on_a_table(('book', 0.3, (0.0, 0.0, 0.0))).objects[0]
    scene = on_a_table(('book', 0.3, (0.0, 0.0, 0.0)), ('can', 0.0, (0.0, 0.0, book.pose.size[2])))
    truth = scene.objects[1].pose
    pose = lifted(scene.mask(1), scene.frame)
    assert off(pose, truth) < 0.01
    assert np.abs(np.array(pose.size) / truth.size - 1).max() < 0.1


@pytest.mark.slow
def test_the_upright_axis_is_the_tables_normal(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index in clear_objects(scene):
            upright = rotation(lifted(scene.mask(index), scene.frame))[:, 2]
            assert np.degrees(np.arccos(min(upright @ scene.plane[:3], 1))) < 4


@pytest.mark.slow
def test_axes_are_a_right_handed_rotation_and_x_points_right(scenes: list[Scene]) -> None:
    for scene in scenes[:3]:
        for index in clear_objects(scene):
            pose = lifted(scene.mask(index), scene.frame)
            assert np.linalg.norm(pose.orientation) == pytest.approx(1, abs=1e-9)
            assert pose.orientation[3] >= 0
            axes = rotation(pose)
            assert np.allclose(np.cross(axes[:, 0], axes[:, 1]), axes[:, 2], atol=1e-9)
            assert axes[0, 0] > 0.6
            assert min(pose.size) > 0


@pytest.mark.slow
def test_the_same_mask_gives_the_same_box_whatever_was_lifted_before(
    scenes: list[Scene],
) -> None:
    scene = scenes[0]
    chosen = clear_objects(scene)
    forth = [lift(scene.mask(index), replace(scene.frame)) for index in chosen]
    frame = replace(scene.frame)
    back = [lift(scene.mask(index), frame) for index in reversed(chosen)]
    assert forth == back[::-1]


@pytest.mark.slow
def test_a_mask_that_spills_over_its_object_changes_little(scenes: list[Scene]) -> None:
    errors = []
    for scene in scenes[:4]:
        for index in clear_objects(scene):
            wide = cv2.dilate(scene.mask(index).astype(np.uint8), np.ones((7, 7))) > 0
            item = scene.objects[index]
            error = off(lifted(wide, scene.frame), item.pose)
            errors.append(error / (0.01 + 0.01 * item.range))
    assert np.mean(np.array(errors) < 1) > 0.85


@pytest.mark.slow
def test_wild_depth_values_do_not_move_the_box(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(5)
    scene = scenes[1]
    depth = scene.frame.depth.copy()
    wild = rng.random(depth.shape) < 0.03
    depth[wild] = rng.uniform(0.2, 4.0, int(wild.sum())).astype(np.float32)
    depth[rng.random(depth.shape) < 0.02] = np.inf
    depth[rng.random(depth.shape) < 0.02] = 0.0
    frame = replace(scene.frame, depth=depth)
    errors = [
        off(lifted(scene.mask(i), frame), scene.objects[i].pose) for i in clear_objects(scene)
    ]
    assert np.median(errors) < 0.015


def test_without_any_plane_the_visible_surface_has_its_own_box() -> None:
    """A tilted board in empty space: its sides, its middle and its normal come out."""
    rows, columns = np.mgrid[0:480, 0:640]
    x, y = (columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy
    # The board z = 1 + 0.3 x, so depth along each ray is 1 / (1 - 0.3 x / z) with x / z known.
    depth = (1.0 / (1.0 - 0.3 * x)).astype(np.float32)
    mask = (np.abs(x * depth) < 0.15) & (np.abs(y * depth) < 0.05)
    depth[~mask] = np.nan
    frame = Frame(np.zeros((480, 640, 3), np.uint8), depth=depth, intrinsics=CAMERA)
    pose = lifted(mask, frame)
    assert pose.position == pytest.approx((0, 0, 1), abs=0.004)
    assert pose.size[0] == pytest.approx(0.3 * np.hypot(1, 0.3), rel=0.04)
    assert pose.size[1] == pytest.approx(0.1, rel=0.06)
    assert pose.size[2] < 0.01
    assert abs(rotation(pose)[:, 0] @ (1, 0, 0.3)) / np.hypot(1, 0.3) > 0.999


def test_a_patch_of_the_far_wall_in_the_mask_is_left_out() -> None:
    depth = np.full((480, 640), 3.0, np.float32)
    depth[200:280, 260:380] = 1.0
    mask = np.zeros((480, 640), np.bool_)
    mask[200:280, 260:400] = True
    frame = Frame(np.zeros((480, 640, 3), np.uint8), depth=depth, intrinsics=CAMERA)
    pose = lifted(mask, frame)
    assert pose.position[2] == pytest.approx(1, abs=0.01)
    assert max(pose.size) == pytest.approx(0.2, rel=0.06)


@pytest.mark.slow
def test_no_depth_and_no_intrinsics_are_said(scenes: list[Scene]) -> None:
    scene = scenes[0]
    mask = scene.mask(clear_objects(scene)[0])
    assert lift(mask, replace(scene.frame, depth=None)) == (None, PoseStatus.NO_DEPTH)
    assert lift(mask, replace(scene.frame, intrinsics=None)) == (None, PoseStatus.NO_INTRINSICS)
    nothing = Intrinsics(0.0, 0.0, 0.0, 0.0, 640, 480)
    uncalibrated = replace(scene.frame, intrinsics=nothing)
    assert lift(mask, uncalibrated) == (None, PoseStatus.NO_INTRINSICS)


@pytest.mark.slow
def test_too_little_depth_is_said(scenes: list[Scene]) -> None:
    scene = scenes[0]
    mask = scene.mask(clear_objects(scene)[0])
    sparse = (None, PoseStatus.DEPTH_TOO_SPARSE)
    assert lift(np.zeros_like(mask), scene.frame) == sparse
    depth = scene.frame.depth.copy()
    depth[mask] = np.nan
    assert lift(mask, replace(scene.frame, depth=depth)) == sparse
    rows, columns = np.nonzero(mask)
    depth[rows[::40], columns[::40]] = 0.8
    assert lift(mask, replace(scene.frame, depth=depth)) == sparse


@pytest.mark.slow
def test_a_resized_picture_keeps_its_calibration(scenes: list[Scene]) -> None:
    scene = scenes[2]
    frame = scene.frame
    half = replace(frame, image=frame.image[::2, ::2].copy(), depth=frame.depth[::2, ::2].copy())
    fitted = fitting_intrinsics(half)
    assert (fitted.width, fitted.height) == (320, 240)
    assert fitted.fx == pytest.approx(frame.intrinsics.fx / 2)
    assert fitted.cx == pytest.approx((frame.intrinsics.cx + 0.5) / 2 - 0.5)
    index = max(clear_objects(scene), key=lambda i: scene.objects[i].area)
    pose = lifted(scene.mask(index)[::2, ::2], half)
    assert off(pose, scene.objects[index].pose) < 0.015


@pytest.mark.slow
def test_a_cropped_picture_has_no_calibration(scenes: list[Scene]) -> None:
    frame = scenes[2].frame
    cropped = replace(frame, image=frame.image[:400].copy(), depth=frame.depth[:400].copy())
    assert fitting_intrinsics(cropped) is None
    assert lift(scenes[2].mask(0)[:400], cropped) == (None, PoseStatus.NO_INTRINSICS)


@pytest.mark.slow
def test_a_distorted_picture_is_remarked_on(scenes: list[Scene]) -> None:
    frame = scenes[0].frame
    straight = replace(frame.intrinsics, distortion=(0.0,) * 5)
    bent = replace(frame.intrinsics, distortion=(0.1, -0.2, 0.0, 0.0, 0.0))
    assert rectification_warning(frame) == ''
    assert rectification_warning(replace(frame, intrinsics=None)) == ''
    assert rectification_warning(replace(frame, intrinsics=straight)) == ''
    assert 'rectified' in rectification_warning(replace(frame, intrinsics=bent))
    mask = scenes[0].mask(clear_objects(scenes[0])[0])
    assert lift(mask, replace(frame, intrinsics=bent))[1] == PoseStatus.POSE_OK


@pytest.mark.slow
def test_a_lifted_frame_is_not_kept_alive(scenes: list[Scene]) -> None:
    frame = replace(scenes[0].frame)
    lift(scenes[0].mask(clear_objects(scenes[0])[0]), frame)
    known = weakref.ref(frame)
    del frame
    gc.collect()
    assert known() is None


def test_the_pipeline_does_not_load_opencv_for_it() -> None:
    code = 'import sys, segzero_ros.pipeline; print("cv2" in sys.modules)'
    told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == 'False'
