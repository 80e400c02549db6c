"""Oriented 3-D boxes from masks and depth images."""

from segzero_ros.spatial.lifting import (
    fitting_intrinsics,
    lift,
    locate,
    missing_pose_warning,
    rectification_warning,
)

__all__ = ['fitting_intrinsics', 'lift', 'locate', 'missing_pose_warning', 'rectification_warning']
