"""Pinhole intrinsics from sensor_msgs/CameraInfo."""

from __future__ import annotations

from collections.abc import Sequence
import math
import re
from typing import Any

from segzero_ros.types import Intrinsics

# Coefficients of OpenCV's longest distortion model; `d` may be of any length.
MAX_DISTORTION = 14
# As in image_rect, image_rect_color, rect/image, image_rectified.
_RECTIFIED = re.compile(r'(?:^|[/_])rect(?:ified)?(?:[/_]|$)')


def intrinsics_from(msg: Any, rectified: bool = False) -> Intrinsics | None:
    """Return the intrinsics of the image that a CameraInfo belongs to.

    Args:
        msg: sensor_msgs/CameraInfo. Its matrices are of the full sensor, so its binning and region
            of interest are applied.
        rectified: whether the image is rectified. Then P applies, and there is no distortion. A
            camera without distortion has the same K and P, so one that is zero is taken from the
            other.

    Returns:
        The intrinsics; None for an uncalibrated camera (zero or not finite).
    """
    distortion = tuple(float(value) for value in msg.d[:MAX_DISTORTION])
    k, p = _focal_and_centre(msg.k, 3), _focal_and_centre(msg.p, 4)
    if not any(distortion):
        # Drivers may fill in only one of them.
        k, p = k or p, p or k
    matrix = p if rectified else k
    if matrix is None:
        return None
    fx, fy, cx, cy = matrix
    # Zero means "not given" for both, see sensor_msgs/CameraInfo.
    binning_x, binning_y = max(msg.binning_x, 1), max(msg.binning_y, 1)
    roi = msg.roi
    return Intrinsics(
        fx=fx / binning_x,
        fy=fy / binning_y,
        cx=(cx - roi.x_offset) / binning_x,
        cy=(cy - roi.y_offset) / binning_y,
        width=(roi.width or msg.width) // binning_x,
        height=(roi.height or msg.height) // binning_y,
        distortion=() if rectified else distortion,
    )


def is_rectified(topic: str) -> bool:
    """Return whether a topic's name follows the ROS convention for rectified images."""
    return _RECTIFIED.search(topic) is not None


def _focal_and_centre(
    matrix: Sequence[float], columns: int
) -> tuple[float, float, float, float] | None:
    """Return fx, fy, cx and cy of a row-major matrix; None if it is not filled in."""
    fx, cx, fy, cy = (float(matrix[index]) for index in (0, 2, columns + 1, columns + 2))
    filled = all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0
    return (fx, fy, cx, cy) if filled else None
