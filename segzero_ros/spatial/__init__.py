"""From a mask and a depth image to a box in 3-D."""

from segzero_ros.spatial.lifting import (
    fitting_intrinsics,
    lift,
    missing_pose_warning,
    rectification_remark,
)

__all__ = ['fitting_intrinsics', 'lift', 'missing_pose_warning', 'rectification_remark']
