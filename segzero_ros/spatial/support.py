"""Find the support plane of an object: RANSAC planes in a frame's depth, with a fixed seed."""

from __future__ import annotations

import threading
from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import median, quantile, quantiles
from segzero_ros.spatial.plane import Plane, Points
from segzero_ros.spatial.surface import back_project
from segzero_ros.types import DepthImage, Frame, Intrinsics, Mask

# RANSAC: points per region, planes that are tried, planes found at most, and points that a
# plane needs. With 100 tries, a plane that holds a third of the points is met in 98 % of cases.
_SAMPLES = 2500
_HYPOTHESES = 100
_PLANES = 3
_MIN_INLIERS = 40
# Inlier distance: metres, plus metres per squared metre of range.
_NOISE, _NOISE_SQUARED = 0.006, 0.004

_planes_of: WeakKeyDictionary[Frame, tuple[Plane, ...]] = WeakKeyDictionary()
_lock = threading.Lock()


def plane_under(points: Points, mask: Mask, frame: Frame, k: Intrinsics) -> Plane | None:
    """Return the support plane of an object, or None.

    Candidates are the frame's large planes, the tops of objects on them (a tray, a box), and
    otherwise planes in the mask's surroundings. A candidate must be visible around the mask, and
    the object must be on its camera side and reach about down to it.

    Args:
        points: (N, 3) visible points of the object, metres.
        mask: (H, W) bool, of the object.
        frame: with depth.
        k: intrinsics that fit the frame.
    """
    around, below = _surroundings(mask, frame, k)
    if len(around) < _MIN_INLIERS:
        return None
    context = _Context(points, around, below)
    best = _best([_support(plane, context) for plane in _large_planes(frame, k)])
    if best[1] is None:
        return _best([_support(plane, context) for plane in find_planes(around, 3)])[1]
    return _raised_plane(best[1], context) or best[1]


class _Context(NamedTuple):
    """Points of the object, around it in the image, and just below it in the image."""

    points: Points
    around: Points
    below: Points


def _raised_plane(plane: Plane, context: _Context) -> Plane | None:
    """Return the top of another object on the plane that supports this one, or None.

    It is parallel to the plane: a tray, a book, a box.
    """
    heights = plane.heights(context.below)
    if len(heights) < _MIN_INLIERS:
        return None
    level = float(median(heights))
    tolerance = inlier_distances(context.below)
    flat = np.abs(heights - level) < tolerance
    if flat.mean() < 0.6 or level < 1.5 * float(tolerance.mean()):
        return None
    raised = Plane(plane.normal, plane.offset - level)
    # An object that reaches further down is behind it, not on it.
    lowest = quantile(raised.heights(context.points), 0.05)
    if lowest < -float(inlier_distances(context.points).mean()):
        return None
    return _support(raised, context)[1] and raised


def _best(supports: list[tuple[float, Plane | None]]) -> tuple[float, Plane | None]:
    return max(supports, key=lambda support: support[0], default=(0.0, None))


def find_planes(points: Points, max_planes: int) -> tuple[Plane, ...]:
    """Return the largest planes among points, largest first.

    Args:
        points: (N, 3) metres.
        max_planes: maximum number of planes.
    """
    planes: list[Plane] = []
    rest = points
    while len(planes) < max_planes and len(rest) >= max(_MIN_INLIERS, 0.08 * len(points)):
        plane = _largest_plane(rest)
        if plane is None:
            break
        planes.append(plane)
        rest = rest.compress(np.abs(plane.heights(rest)) > 2 * inlier_distances(rest), axis=0)
    return tuple(planes)


def _large_planes(frame: Frame, k: Intrinsics) -> tuple[Plane, ...]:
    with _lock:
        planes = _planes_of.get(frame)
    if planes is None:
        assert frame.depth is not None
        everywhere = np.ones(frame.depth.shape, np.bool_)
        planes = find_planes(_sample(everywhere, frame.depth, (0, 0), k), _PLANES)
        with _lock:
            _planes_of[frame] = planes
    return planes


def _surroundings(mask: Mask, frame: Frame, k: Intrinsics) -> tuple[Points, Points]:
    """Return points around the mask, up to about half its size away, and those just below it.

    Both exclude the mask and its rim, where depth is unreliable.
    """
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    margin = int(max(16, 0.45 * max(width, height)))
    rows = slice(max(y - margin, 0), min(y + height + margin, mask.shape[0]))
    columns = slice(max(x - margin, 0), min(x + width + margin, mask.shape[1]))
    near = mask[rows, columns].astype(np.uint8)
    outside = cv2.dilate(near, np.ones((7, 7), np.uint8)) == 0
    reach = max(10, height // 8)
    # The anchor is the kernel's last row, so the mask is dilated downwards only.
    below = cv2.dilate(near, np.ones((reach, 1), np.uint8), anchor=(0, reach - 1)) > 0
    origin = rows.start, columns.start
    depth = frame.depth
    assert depth is not None
    around = _sample(outside, depth[rows, columns], origin, k)
    return around, _sample(outside & below, depth[rows, columns], origin, k)


def _sample(where: Mask, depth: DepthImage, origin: tuple[int, int], k: Intrinsics) -> Points:
    """Return about _SAMPLES measured points of a region, on a regular grid."""
    step = max(1, int(np.sqrt(np.count_nonzero(where) / _SAMPLES)))
    grid = depth[::step, ::step]
    rows, columns = np.nonzero(where[::step, ::step] & np.isfinite(grid) & (grid > 0))
    top, left = origin
    return back_project(rows * step + top, columns * step + left, grid[rows, columns], k)


def inlier_distances(points: Points) -> NDArray[np.float64]:
    """Return the (N,) inlier distances of points, metres."""
    return np.asarray(_NOISE + _NOISE_SQUARED * points[:, 2] ** 2)


def _largest_plane(points: Points) -> Plane | None:
    """Return the plane with the most inliers, refitted to them; None for collinear points."""
    rng = np.random.default_rng(0)
    chosen = points[rng.integers(len(points), size=(_HYPOTHESES, 3))]
    normals = np.cross(chosen[:, 1] - chosen[:, 0], chosen[:, 2] - chosen[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-8
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum('ij,ij->i', normals, chosen[usable, 0])
    subset = points[:: max(1, len(points) // 800)]
    distances = subset @ normals.T
    distances += offsets
    near = np.abs(distances, out=distances) < inlier_distances(subset)[:, None]
    best = int(near.sum(axis=0, dtype=np.int32).argmax())
    plane = Plane(normals[best], float(offsets[best]))
    tolerance, inliers = inlier_distances(points), np.zeros(len(points), np.bool_)
    for _ in range(3):
        near_plane = np.abs(plane.heights(points)) < tolerance
        if (near_plane == inliers).all():
            break
        inliers = near_plane
        plane = _fit_plane(points.compress(inliers, axis=0)) or plane
    return plane


def _fit_plane(points: Points) -> Plane | None:
    """Return the least-squares plane of (N, 3) points, or None for fewer than three."""
    if len(points) < 3:
        return None
    middle = points.mean(axis=0)
    offsets = points - middle
    normal = np.linalg.eigh(offsets.T @ offsets)[1][:, 0]
    offset = -float(normal @ middle)
    sign = 1.0 if offset >= 0 else -1.0
    return Plane(sign * normal, sign * offset)


def _support(plane: Plane, context: _Context) -> tuple[float, Plane | None]:
    """Return a score for a plane supporting the object, and the plane refitted around the object.

    The score is 0 and the plane None if it does not support the object.
    """
    points, around, below = context
    near = np.abs(plane.heights(around)) < 1.5 * inlier_distances(around)
    share = float(near.mean())
    if near.sum() < _MIN_INLIERS or share < 0.06:
        return 0.0, None
    local = _fit_plane(around.compress(near, axis=0)) or plane
    # A narrow ring of points determines the slope poorly: then the large plane is better.
    if abs(local.normal @ plane.normal) < 0.9986:
        local = plane
    heights = local.heights(points)
    tolerance = float(inlier_distances(points).mean())
    low, high = quantiles(heights, 0.03, 0.97)
    if low < -3 * tolerance or high < tolerance:
        return 0.0, None
    # The score decreases with the gap between plane and object.
    gap = max(float(low) - 2 * tolerance, 0.0)
    width = _narrow_side(points, local)
    if gap > 0.05 + 1.5 * width:
        return 0.0, None
    under = 0.0
    if len(below):
        under = float((np.abs(local.heights(below)) < 1.5 * inlier_distances(below)).mean())
    return (under + 0.3 * share) / (1.0 + gap / (0.02 + 0.5 * width)), local


def stands_on(plane: Plane, points: Points) -> bool:
    """Return whether an object stands on a plane rather than being above it.

    The lower part of a ball, or of anything seen from above, is hidden: such an object stands on
    the plane unless the gap is large for its size and its side should be visible.

    Args:
        plane: the support plane.
        points: (N, 3) visible points of the object, metres.
    """
    heights = plane.heights(points)
    low, high = quantiles(heights, 0.02, 0.98)
    middle = points.mean(axis=0)
    elevation = -float(plane.normal @ middle) / float(np.linalg.norm(middle))
    steep = elevation > np.sin(np.radians(65))
    reach = max(float(high - low), _narrow_side(points, plane))
    return bool(steep or low < 0.02 + 0.5 * reach)


def _narrow_side(points: Points, plane: Plane) -> float:
    """Return the object's approximate smallest width along the plane, metres."""
    flat = points - plane.heights(points)[:, None] * plane.normal
    flat = flat - flat.mean(axis=0)
    variances = np.linalg.eigvalsh(flat.T @ flat / len(flat))
    # The smallest is 0, along the normal; a uniform bar of length 1 has a variance of 1/12.
    return float(np.sqrt(12 * max(variances[1], 0.0)))
