"""Points of a frame and of its objects, on generated scenes with a depth camera's noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segzero_ros.simulation import make_scene
from segzero_ros.simulation.scenes import Scene
from segzero_ros.spatial.clouds import Cloud, cloud_of, object_points
from segzero_ros.types import Frame, Intrinsics, Roi, Segment

K = Intrinsics(100.0, 110.0, 3.5, 2.0, 8, 6)


def segment(number: int, mask: np.ndarray) -> Segment:
    roi = Roi.around(mask)
    return Segment(number, '', 1.0, roi, (), roi, mask[roi.slices].copy())


def points_of(cloud: Cloud) -> np.ndarray:
    xyz = np.empty((3, *cloud.depth.shape), np.float32)
    cloud.write_rows(0, len(cloud.depth), xyz)
    return xyz


def frame_of(depth: np.ndarray) -> Frame:
    return Frame(np.zeros((6, 8, 3), np.uint8), 0, 'camera', depth.astype(np.float32), K)


def test_points_are_those_of_the_pinhole_camera_and_nan_without_depth() -> None:
    depth = np.full((6, 8), 2.0)
    depth[0, 0], depth[1, 1] = np.nan, 0.0
    cloud = cloud_of(frame_of(depth), ())
    assert cloud is not None
    xyz = points_of(cloud)
    assert np.isnan(xyz[:, 0, 0]).all()
    assert np.isnan(xyz[:, 1, 1]).all()
    assert xyz[:, 5, 7] == pytest.approx(((7 - 3.5) / 100 * 2, (5 - 2.0) / 110 * 2, 2.0))
    part = np.empty((3, 2, 8), np.float32)
    cloud.write_rows(4, 6, part)
    assert np.array_equal(part, xyz[:, 4:6])
    assert not cloud.object_ids.any()


def test_without_depth_or_fitting_intrinsics_there_is_no_cloud() -> None:
    frame = frame_of(np.ones((6, 8)))
    assert cloud_of(replace(frame, depth=None), ()) is None
    assert cloud_of(replace(frame, intrinsics=None), ()) is None
    assert cloud_of(replace(frame, intrinsics=replace(K, width=9)), ()) is None


def test_of_two_masks_the_first_object_has_the_points() -> None:
    first, second = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    first[1:4, 1:5], second[2:6, 3:8] = True, True
    cloud = cloud_of(frame_of(np.ones((6, 8))), (segment(1, first), segment(2, second)))
    assert cloud is not None
    assert np.array_equal(cloud.object_ids == 1, first)
    assert np.array_equal(cloud.object_ids == 2, second & ~first)


def test_flying_pixels_between_an_object_and_the_wall_are_no_objects_points() -> None:
    depth = np.full((40, 40), 2.0, np.float32)
    depth[10:30, 10:30] = 0.5
    depth[10:30, 30] = np.linspace(0.6, 1.9, 20)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:32] = True
    own = object_points(depth, mask)
    assert not own[:, 30:].any()
    assert own[10:30, 10:30].all()


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(seed, sentences=False) for seed in range(710000, 710012)]


def test_objects_keep_their_surface_and_hold_little_else(scenes: list[Scene]) -> None:
    held, others, offsets = [], [], []
    for scene in scenes:
        depth = scene.frame.depth
        assert depth is not None
        true = np.isfinite(depth) & (np.abs(depth - scene.depth) < 0.012)
        masks = [scene.mask(index) for index in range(len(scene.objects))]
        clear = [mask for mask in masks if mask.sum() > 400]
        segments = tuple(segment(number, mask) for number, mask in enumerate(clear, start=1))
        cloud = cloud_of(scene.frame, segments)
        assert cloud is not None
        exact = cloud_of(replace(scene.frame, depth=scene.depth), ())
        assert exact is not None
        for number, mask in enumerate(clear, start=1):
            own = cloud.object_ids == number
            held.append((own & true).sum() / (mask & true).sum())
            others.append((own & (np.abs(depth - scene.depth) > 0.02)).sum() / own.sum())
            offsets.append(np.linalg.norm((points_of(cloud) - points_of(exact))[:, own].mean(1)))
    assert len(held) > 50
    assert np.mean(held) > 0.97
    assert np.mean(others) < 0.02
    assert np.median(offsets) < 0.005
