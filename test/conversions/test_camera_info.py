"""Intrinsics from CameraInfo, and topic names of rectified images."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip('sensor_msgs.msg')

from sensor_msgs.msg import CameraInfo, RegionOfInterest
from test_image import changed, from_bag

from segzero_ros.conversions.camera_info import intrinsics_from, is_rectified


def camera_info(**fields: Any) -> CameraInfo:
    info = CameraInfo(height=480, width=640, d=[0.1, -0.2, 0.01, 0.02, 0.3])
    info.distortion_model = 'plumb_bob'
    info.k = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
    return changed(info, **fields)


def test_intrinsics_are_those_of_the_camera() -> None:
    for info in (camera_info(), from_bag(camera_info())):
        read = intrinsics_from(info)
        assert read is not None
        assert (read.fx, read.fy, read.cx, read.cy) == (500.0, 510.0, 320.0, 240.0)
        assert (read.width, read.height) == (640, 480)
        assert read.distortion == (0.1, -0.2, 0.01, 0.02, 0.3)


@pytest.mark.parametrize('k', [[0.0] * 9, [math.nan] * 9, [-500.0, 0, 320, 0, 510, 240, 0, 0, 1]])
def test_a_camera_without_calibration_has_no_intrinsics(k: list[float]) -> None:
    assert intrinsics_from(camera_info(k=[float(value) for value in k])) is None


def test_a_rectified_picture_has_the_matrix_that_rectified_it() -> None:
    p = [450.0, 0.0, 310.0, 25.0, 0.0, 460.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    read = intrinsics_from(camera_info(p=p), rectified=True)
    assert read is not None
    assert (read.fx, read.fy, read.cx, read.cy) == (450.0, 460.0, 310.0, 250.0)
    assert read.distortion == ()
    assert intrinsics_from(camera_info(), rectified=True) is None, 'P is zero'


P = [450.0, 0.0, 310.0, 25.0, 0.0, 460.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize('d', [[], [0.0] * 5, [-0.0] * 8])
def test_without_distortion_one_matrix_stands_for_the_other(d: list[float]) -> None:
    for p in ([0.0] * 12, [math.nan] * 12, [0.0, 0.0, 310.0, 0.0, 0.0, 0.0, 250.0, *[0.0] * 5]):
        read = intrinsics_from(camera_info(p=p, d=d), rectified=True)
        assert read is not None
        assert (read.fx, read.fy, read.cx, read.cy) == (500.0, 510.0, 320.0, 240.0)
    read = intrinsics_from(camera_info(k=[0.0] * 9, p=P, d=d))
    assert read is not None
    assert (read.fx, read.fy, read.cx, read.cy) == (450.0, 460.0, 310.0, 250.0)
    assert intrinsics_from(camera_info(k=[0.0] * 9, d=d)) is None, 'there is none at all'


def test_with_distortion_no_matrix_stands_for_the_other() -> None:
    assert intrinsics_from(camera_info(), rectified=True) is None, 'P is zero'
    assert intrinsics_from(camera_info(k=[0.0] * 9, p=P)) is None, 'K is zero'


@pytest.mark.parametrize(
    ('topic', 'rectified'),
    [
        ('/camera/image_rect', True),
        ('/camera/image_rect_color', True),
        ('/camera/image_rect/compressed', True),
        ('/left/rect/image', True),
        ('/left/image_rectified', True),
        ('/camera/image_raw', False),
        ('/direct/image', False),
        ('/correct/image', False),
        ('/rectangles/image', False),
    ],
)
def test_the_name_of_a_topic_tells_a_rectified_picture(topic: str, rectified: bool) -> None:
    assert is_rectified(topic) is rectified


def test_binning_and_region_of_interest_are_applied_to_intrinsics() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=200)
    read = intrinsics_from(camera_info(binning_x=2, binning_y=2, roi=roi))
    assert read is not None
    assert (read.fx, read.fy, read.cx, read.cy) == (250.0, 255.0, 110.0, 100.0)
    assert (read.width, read.height) == (200, 100)
