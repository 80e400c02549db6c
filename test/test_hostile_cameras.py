"""Whatever a camera says of itself and of depth gives a box in 3-D, or the reason why not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from strange_cameras import depth_images, HEIGHT, infos, measurements, SCENE, WIDTH

from segzero_ros.rgbd.frames import make_frame
from segzero_ros.spatial import lift, rectification_warning
from segzero_ros.types import Frame, PoseStatus

MASK = max((SCENE.mask(index) for index in range(len(SCENE.objects))), key=np.sum)
STAMP = SimpleNamespace(sec=1, nanosec=2)
IMAGE = SimpleNamespace(
    header=SimpleNamespace(stamp=STAMP, frame_id='optical'),
    width=WIDTH,
    height=HEIGHT,
    encoding='rgb8',
    is_bigendian=0,
    step=3 * WIDTH,
    data=SCENE.frame.image.tobytes(),
)


def check(frame: Frame) -> None:
    """See that what a mask covers gets a box with numbers, or a reason why not."""
    # What overflows or is undefined would be a warning in the log at each query.
    with np.errstate(over='raise', invalid='raise', divide='raise'):
        pose, status = lift(MASK, frame)
    assert (pose is not None) == (status is PoseStatus.POSE_OK)
    if pose is not None:
        assert all(map(math.isfinite, (*pose.position, *pose.orientation, *pose.size)))
        assert min(pose.size) >= 0
    assert isinstance(rectification_warning(frame), str)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(info=infos(), depth=measurements(), rectified=st.booleans())
def test_any_intrinsics_and_any_depth_give_a_box_or_a_reason(
    info: Any, depth: np.ndarray, rectified: bool
) -> None:
    message = SimpleNamespace(
        width=WIDTH,
        height=HEIGHT,
        encoding='32FC1',
        is_bigendian=0,
        step=4 * WIDTH,
        data=depth.tobytes(),
    )
    frame, remark = make_frame(IMAGE, lambda: message, info, rectified=rectified)
    assert frame.depth is not None and 'depth image' not in remark
    known = frame.depth[~np.isnan(frame.depth)]
    assert np.isfinite(known).all() and (known > 0).all()
    check(frame)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(message=depth_images(), info=st.none() | infos())
def test_a_depth_image_of_any_form_is_used_or_said_to_be_left_out(message: Any, info: Any) -> None:
    frame, remark = make_frame(IMAGE, lambda: message, info, rectified=False)
    assert (frame.depth is None) == ('depth image cannot be used' in remark)
    assert np.array_equal(frame.image, SCENE.frame.image)
    check(frame)
