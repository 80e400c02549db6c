"""Clouds as messages: each field of each point, whatever was asked for before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segzero_ros.conversions.point_cloud import cloud_message, Packed, PointPacker
from segzero_ros.spatial.clouds import Cloud
from segzero_ros.types import Intrinsics

POINT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'rgb', 'object'],
        'formats': ['<f4', '<f4', '<f4', '<u4', '<u2'],
        'offsets': [0, 4, 8, 12, 16],
        'itemsize': 20,
    }
)


def make(name: str, /, **fields: Any) -> Any:
    return SimpleNamespace(type=name, **fields)


def scene(height: int, width: int, seed: int = 1) -> tuple[Cloud, np.ndarray]:
    """Return a cloud with three objects and holes, and its picture."""
    random = np.random.default_rng(seed)
    depth = random.uniform(0.3, 4.0, (height, width)).astype(np.float32)
    depth[random.random((height, width)) < 0.1] = np.nan
    ids = random.integers(0, 4, (height, width)).astype(np.uint16)
    ids[: height // 3] = 0
    ids[~np.isfinite(depth)] = 0
    k = Intrinsics(500.0, 510.0, width / 2, height / 2, width, height)
    return Cloud(depth, k, ids), random.integers(0, 256, (height, width, 3)).astype(np.uint8)


def wanted(cloud: Cloud, image: np.ndarray) -> np.ndarray:
    """Return the points, worked out plainly."""
    height, width = cloud.depth.shape
    rows, columns = np.indices((height, width))
    k = cloud.intrinsics
    points = np.zeros((height, width), POINT)
    points['x'] = (columns - k.cx) / k.fx * cloud.depth
    points['y'] = (rows - k.cy) / k.fy * cloud.depth
    points['z'] = cloud.depth
    red, green, blue = np.moveaxis(image.astype(np.uint32), -1, 0)
    points['rgb'] = red << 16 | green << 8 | blue
    points['object'] = cloud.object_ids
    return points


def same(packed: Packed, points: np.ndarray, *, is_dense: bool) -> None:
    message = cloud_message(make, 'h', packed, is_dense=is_dense)
    assert message.data is packed.data
    assert (message.header, message.is_dense) == ('h', is_dense)
    read = np.frombuffer(message.data, POINT).reshape(message.height, message.width)
    assert read.shape == points.shape == packed.points.shape
    for axis in 'xyz':
        np.testing.assert_allclose(read[axis], points[axis], rtol=1e-6, atol=1e-7)
    for name in ('rgb', 'object'):
        assert np.array_equal(read[name], points[name])
    assert message.row_step == message.width * message.point_step == 20 * message.width


@pytest.mark.parametrize('size', [(480, 640), (1, 1), (7, 40000), (721, 3), (47, 1280)])
def test_each_point_has_its_place_colour_and_object(size: tuple[int, int]) -> None:
    cloud, image = scene(*size)
    points = wanted(cloud, image)
    frame, objects = PointPacker().pack(cloud, image, organised=True, objects=True)
    assert frame is not None
    assert objects is not None
    same(frame, points, is_dense=False)
    same(objects, points[cloud.object_ids > 0][None], is_dense=True)


def test_each_cloud_alone_and_frames_of_other_sizes_one_after_the_other() -> None:
    packer = PointPacker()
    for seed, size in enumerate([(480, 640), (480, 640), (30, 20), (480, 640)]):
        cloud, image = scene(*size, seed)
        points = wanted(cloud, image)
        for organised, objects in ((True, False), (False, True), (True, True)):
            frame, own = packer.pack(cloud, image, organised=organised, objects=objects)
            assert (frame is not None, own is not None) == (organised, objects)
            if frame is not None:
                same(frame, points, is_dense=False)
            if own is not None:
                same(own, points[cloud.object_ids > 0][None], is_dense=True)


def test_without_an_object_the_cloud_of_objects_is_empty() -> None:
    cloud, image = scene(20, 30)
    cloud.object_ids[:] = 0
    _, own = PointPacker().pack(cloud, image, organised=False, objects=True)
    assert own is not None
    assert own.points.shape == (1, 0)
    assert not own.data
