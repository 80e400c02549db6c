"""Rotation matrices and unit quaternions (x, y, z, w)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Quaternion = tuple[float, float, float, float]
Vector = tuple[float, float, float]


def quaternion_from_matrix(rotation: NDArray[np.float64]) -> Quaternion:
    """Return the unit quaternion with w >= 0 of a (3, 3) rotation matrix."""
    vector = cv2.Rodrigues(np.ascontiguousarray(rotation))[0][:, 0]
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return 0.0, 0.0, 0.0, 1.0
    x, y, z = (float(value) for value in math.sin(angle / 2) * vector / angle)
    return x, y, z, math.cos(angle / 2)


def matrix_from_quaternion(quaternion: Quaternion) -> NDArray[np.float64]:
    """Return the (3, 3) rotation matrix of a unit quaternion."""
    x, y, z, w = quaternion
    return np.array(
        [
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ]
    )


def conjugate(quaternion: Quaternion) -> Quaternion:
    """Return the rotation in the opposite direction."""
    x, y, z, w = quaternion
    return -x, -y, -z, w


def normalised(quaternion: Quaternion) -> Quaternion:
    """Return a quaternion other than zero with length 1."""
    x, y, z, w = quaternion
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def product(second: Quaternion, first: Quaternion) -> Quaternion:
    """Return the rotation that applies `first` and then `second`."""
    ax, ay, az, aw = second
    bx, by, bz, bw = first
    return normalised(
        (
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        )
    )


def rotated(quaternion: Quaternion, vector: Vector) -> Vector:
    """Return a vector rotated by a unit quaternion."""
    qx, qy, qz, qw = quaternion
    x, y, z = vector
    # v + 2 q × (q × v + w v)
    cx, cy, cz = (
        qy * z - qz * y + qw * x,
        qz * x - qx * z + qw * y,
        qx * y - qy * x + qw * z,
    )
    return (
        x + 2 * (qy * cz - qz * cy),
        y + 2 * (qz * cx - qx * cz),
        z + 2 * (qx * cy - qy * cx),
    )


def slerp(first: Quaternion, second: Quaternion, share: float) -> Quaternion:
    """Interpolate between two unit quaternions along the shorter arc.

    Args:
        first: the rotation at share 0.
        second: the rotation at share 1.
        share: between them, 0 to 1.
    """
    if sum(a * b for a, b in zip(first, second, strict=True)) < 0:
        x, y, z, w = second
        second = -x, -y, -z, -w
    # Half the arc; exact for small ones too, unlike the arc cosine of the dot product.
    half = math.atan2(math.dist(first, second), math.dist(first, [-part for part in second]))
    if half < 1e-12:
        return first
    before, after = math.sin(2 * half * (1 - share)), math.sin(2 * half * share)
    x, y, z, w = (before * a + after * b for a, b in zip(first, second, strict=True))
    return normalised((x, y, z, w))
