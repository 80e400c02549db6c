"""The surface that objects stand on as a box, for planning around it.

The box lies below the plane that supports most of the objects, and reaches as far as the surface
is seen around them, and below them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.rotations import matrix_from_quaternion, quaternion_from_matrix
from segzero_ros.spatial.boxes import plane_axes
from segzero_ros.spatial.lifting import fitting_intrinsics
from segzero_ros.spatial.plane import Plane, Points
from segzero_ros.spatial.support import inlier_distances, plane_under
from segzero_ros.spatial.surface import back_project, is_measured, visible_surface
from segzero_ros.types import Frame, Intrinsics, Mask, Pose3D, Segment

# Height of the box, metres.
THICKNESS = 0.02
# The planes of more objects than this are not looked for.
_MAX_OBJECTS = 20
# Two planes are the same if their normals differ by less than this angle's cosine, and their
# heights below an object by less than this, metres.
_SAME_NORMAL, _SAME_HEIGHT = np.cos(np.radians(4)), 0.015
# About so many pixels are looked at.
_PIXELS = 320 * 240
# Fewer points than these are no surface.
_MIN_POINTS = 40


def support_box(frame: Frame, segments: Sequence[Segment]) -> Pose3D | None:
    """Return the box below the surface on which most of the objects stand, or None.

    Its z axis is the plane's normal, and its upper side is the surface.

    Args:
        frame: the frame.
        segments: its objects.
    """
    k = fitting_intrinsics(frame)
    if frame.depth is None or k is None:
        return None
    found = [(s, _plane_of(s, frame, k)) for s in segments[:_MAX_OBJECTS] if s.pose is not None]
    supported = [(segment, plane) for segment, plane in found if plane is not None]
    groups = [
        (plane, [segment for segment, other in supported if _is_same(plane, other, segment)])
        for _, plane in supported
    ]
    if not groups:
        return None
    plane, objects = max(groups, key=lambda group: len(group[1]))
    points = _surface(plane, frame, k, segments, objects)
    if len(points) < _MIN_POINTS:
        return None
    return _box_below(plane, np.concatenate([points, *map(_corners, objects)]))


def _plane_of(segment: Segment, frame: Frame, k: Intrinsics) -> Plane | None:
    """Return the plane that supports an object, as `lifting.lift` finds it."""
    assert frame.depth is not None
    mask = segment.full_mask(frame.height, frame.width)
    surface = visible_surface(mask, frame.depth, k)
    return None if surface is None else plane_under(surface.points(), mask, frame, k)


def _is_same(plane: Plane, other: Plane, segment: Segment) -> bool:
    assert segment.pose is not None
    place = np.array([segment.pose.position])
    apart = abs(float(plane.heights(place)[0] - other.heights(place)[0]))
    return bool(plane.normal @ other.normal > _SAME_NORMAL and apart < _SAME_HEIGHT)


def _surface(
    plane: Plane,
    frame: Frame,
    k: Intrinsics,
    segments: Sequence[Segment],
    objects: Sequence[Segment],
) -> Points:
    """Return the visible points of the plane that are connected with the objects on it.

    What lies at the same height elsewhere, such as another table, is left out.
    """
    assert frame.depth is not None
    step = max(1, round((frame.width * frame.height / _PIXELS) ** 0.5))
    depth = frame.depth[::step, ::step]
    rows, columns = np.nonzero(is_measured(depth))
    points = back_project(rows * step, columns * step, depth[rows, columns], k)
    near = np.abs(plane.heights(points)) < 1.5 * inlier_distances(points)
    on_plane: NDArray[np.uint8] = np.zeros(depth.shape, np.uint8)
    on_plane[rows[near], columns[near]] = 1
    # Single pixels of other surfaces cross the plane, too.
    opened = cv2.morphologyEx(on_plane, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    masks = {s.id: s.full_mask(frame.height, frame.width)[::step, ::step] for s in segments}
    covered = _united(list(masks.values()), depth.shape)
    # Depth is missing around objects, so they are joined with what is some pixels away.
    joined = cv2.dilate(np.bitwise_or(opened, covered), np.ones((9, 9), np.uint8))
    parts = cv2.connectedComponents(joined)[1]
    below = np.unique(parts[_united([masks[s.id] for s in objects], depth.shape) > 0])
    wanted = (opened > 0) & np.isin(parts, below) & (covered == 0)
    return points.compress(wanted[rows, columns], axis=0)


def _united(masks: Sequence[Mask], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    united = np.zeros(shape, np.uint8)
    for mask in masks:
        united |= mask.view(np.uint8)
    return united


def _corners(segment: Segment) -> Points:
    """Return the (8, 3) corners of an object's box."""
    assert segment.pose is not None
    signs = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    rotation = matrix_from_quaternion(segment.pose.orientation)
    return np.asarray(segment.pose.position + (signs * segment.pose.size) @ rotation.T)


def _box_below(plane: Plane, points: Points) -> Pose3D:
    """Return the smallest box below the plane that reaches below all points."""
    axes = plane_axes(plane.normal)
    flat = points @ axes[:, :2]
    middle = flat.mean(axis=0)
    (x, y), (length, width), degrees = cv2.minAreaRect((flat - middle).astype(np.float32))
    quarter_turns = round(degrees / 90)
    if quarter_turns % 2:
        length, width = width, length
    angle = np.radians(degrees - 90 * quarter_turns)
    along = axes[:, 0] * np.cos(angle) + axes[:, 1] * np.sin(angle)
    rotation = np.stack([along, np.cross(plane.normal, along), plane.normal], axis=1)
    depth = plane.offset + THICKNESS / 2
    centre = axes[:, :2] @ (middle + np.array([x, y])) - plane.normal * depth
    position = float(centre[0]), float(centre[1]), float(centre[2])
    return Pose3D(position, quaternion_from_matrix(rotation), (length, width, THICKNESS))
