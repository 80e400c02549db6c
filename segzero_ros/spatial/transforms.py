"""Rigid transforms between coordinate frames, as geometry_msgs/Transform has them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segzero_ros.rotations import (
    conjugate,
    matrix_from_quaternion,
    product,
    Quaternion,
    rotated,
    slerp,
    Vector,
)
from segzero_ros.types import Pose3D


class Transform(NamedTuple):
    """Where a frame is in another one; maps points of the first one into the other.

    Attributes:
        translation: the first frame's origin in the other one (x, y, z), metres.
        rotation: of the first frame's axes in the other one, unit quaternion (x, y, z, w).
    """

    translation: Vector
    rotation: Quaternion

    def after(self, first: Transform) -> Transform:
        """Return the transform that applies `first` and then this one."""
        return Transform(self.point(first.translation), product(self.rotation, first.rotation))

    def inverse(self) -> Transform:
        """Return the transform in the opposite direction."""
        back = conjugate(self.rotation)
        x, y, z = rotated(back, self.translation)
        return Transform((-x, -y, -z), back)

    def towards(self, other: Transform, share: float) -> Transform:
        """Return a transform between this one and another one of the same frames.

        Args:
            other: of the same frames at another time.
            share: 0 for this one to 1 for the other one; translations are interpolated linearly,
                rotations spherically.
        """
        x, y, z = (
            a + (b - a) * share for a, b in zip(self.translation, other.translation, strict=True)
        )
        return Transform((x, y, z), slerp(self.rotation, other.rotation, share))

    def point(self, point: Vector) -> Vector:
        """Return a point (x, y, z) of the first frame in the other one, metres."""
        x, y, z = rotated(self.rotation, point)
        dx, dy, dz = self.translation
        return x + dx, y + dy, z + dz

    def pose(self, pose: Pose3D) -> Pose3D:
        """Return a box of the first frame in the other one; its size is along its own axes."""
        return Pose3D(
            self.point(pose.position), product(self.rotation, pose.orientation), pose.size
        )

    def points(self, xyz: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return points of the first frame in the other one.

        Args:
            xyz: (3, …) float32 metres; NaN stays NaN.

        Returns:
            The same shape.
        """
        matrix = matrix_from_quaternion(self.rotation).astype(np.float32)
        flat: NDArray[Any] = matrix @ xyz.reshape(3, -1)
        flat += np.array(self.translation, np.float32)[:, None]
        return np.asarray(flat.reshape(xyz.shape), np.float32)


IDENTITY = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


class StampedTransform(NamedTuple):
    """A transform of a child frame into its parent, as geometry_msgs/TransformStamped.

    Attributes:
        parent: the header's frame_id.
        child: the child_frame_id.
        stamp_ns: when it is valid, nanoseconds.
        transform: maps points of the child into the parent.
    """

    parent: str
    child: str
    stamp_ns: int
    transform: Transform

    @property
    def is_valid(self) -> bool:
        """Whether it has two frames, finite numbers and a unit quaternion, as tf2 demands."""
        (dx, dy, dz), (x, y, z, w) = self.transform
        return (
            bool(self.parent and self.child)
            and self.parent != self.child
            and math.isfinite(dx + dy + dz)
            # False for NaN too.
            and abs(x * x + y * y + z * z + w * w - 1) <= _NORM_TOLERANCE
        )


# Largest error of a quaternion's squared length; tf2's QUATERNION_NORMALIZATION_TOLERANCE.
_NORM_TOLERANCE = 0.01
