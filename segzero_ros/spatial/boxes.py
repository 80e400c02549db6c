"""Oriented boxes around visible points.

A camera sees only the front of an object. An object on a support plane is assumed to reach down to
the plane, with vertical sides and a circular or rectangular footprint; the visible half of its
outline from above decides which. An object without a support plane gets the box of its visible
points: its hidden side is not estimated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import quantiles
from segzero_ros.rotations import quaternion_from_matrix
from segzero_ros.spatial.footprints import footprint_of
from segzero_ros.spatial.plane import Plane, Points
from segzero_ros.spatial.support import stands_on
from segzero_ros.types import Pose3D

Array = NDArray[np.float64]

# Share of the points that may lie beyond each side of a box: residual noise.
_OUTLIER_SHARE = 0.0015


def supported_box(points: Points, plane: Plane) -> Pose3D:
    """Return the box of an object on or above a plane.

    Its z axis is the plane's normal; its x axis is the side that points most to the right.

    Args:
        points: (N, 3) visible points, metres, in the optical frame.
        plane: the support plane.
    """
    axes = plane_axes(plane.normal)
    heights = plane.heights(points)
    # Points on the plane itself were removed, so the object starts at the plane, not above it.
    low, high = _limits(heights)
    bottom = 0.0 if stands_on(plane, points) else float(low)
    top = max(float(high), bottom + 0.002)
    flat = points @ axes[:, :2]
    footprint = footprint_of(flat, camera=-flat.mean(axis=0))
    x, y = footprint.axis
    along = axes[:, 0] * x + axes[:, 1] * y
    across = np.cross(plane.normal, along)
    centre = axes[:, :2] @ footprint.centre
    centre = centre + plane.normal * ((bottom + top) / 2 - plane.offset)
    rotation = np.stack([along, across, plane.normal], axis=1)
    return _pose(centre, rotation, (*footprint.sides, top - bottom))


def free_box(points: Points) -> Pose3D:
    """Return the box of (N, 3) visible points along their principal axes, longest first.

    The shortest side is the thickness of the visible surface: hidden parts are not estimated.
    """
    middle = points.mean(axis=0)
    offsets = points - middle
    vectors = np.linalg.eigh(offsets.T @ offsets)[1][:, ::-1]
    strongest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[strongest, range(3)])
    vectors[:, 2] = np.cross(vectors[:, 0], vectors[:, 1])
    low, high = _limits(offsets @ vectors)
    centre = middle + vectors @ ((low + high) / 2)
    sides = high - low
    return _pose(centre, vectors, (float(sides[0]), float(sides[1]), float(sides[2])))


def plane_axes(normal: Array) -> Array:
    """Return (3, 3) columns: the camera's x axis projected into the plane, y, and the normal."""
    right = np.array([1.0, 0.0, 0.0]) - normal[0] * normal
    if np.linalg.norm(right) < 0.1:
        right = np.array([0.0, 1.0, 0.0]) - normal[1] * normal
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(normal, right), normal], axis=1)


def _limits(values: Array) -> tuple[Array, Array]:
    low, high = quantiles(values, _OUTLIER_SHARE, 1 - _OUTLIER_SHARE)
    return low, high


def _pose(centre: Array, rotation: Array, size: tuple[float, float, float]) -> Pose3D:
    x, y, z = (float(value) for value in centre)
    return Pose3D((x, y, z), quaternion_from_matrix(rotation), size)
