"""Rotation matrices and unit quaternions (x, y, z, w)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Quaternion = tuple[float, float, float, float]


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
