"""The flat surface that an object stands on: planes in a frame's depth by RANSAC, fixed seed."""

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

_SAMPLES = 2500
_HYPOTHESES = 100
_PLANES = 3
_FEWEST = 40
# How far from a plane its own points may be measured: metres, and a share of the range squared.
_NEAR, _NEAR_SQUARED = 0.006, 0.004


_known: WeakKeyDictionary[Frame, tuple[Plane, ...]] = WeakKeyDictionary()
_lock = threading.Lock()


def plane_under(points: Points, mask: Mask, frame: Frame, k: Intrinsics) -> Plane | None:
    """Return the plane that the object with these visible points stands on, or None.

    Tried are the frame's large planes and what may stand on them, a tray or a box, and else
    planes of the mask's surroundings only. A plane counts if it is there around the mask, if the
    object is on the camera's side of it, and if it reaches about down to it.

    Args:
        points: (N, 3) visible points of the object, metres.
        mask: (H, W) bool, of the object.
        frame: with depth.
        k: intrinsics that fit the frame.
    """
    around, below = _surroundings(mask, frame, k)
    if len(around) < _FEWEST:
        return None
    seen = _Seen(points, around, below)
    best = _best([_support(plane, seen) for plane in _large_planes(frame, k)])
    if best[1] is None:
        return _best([_support(plane, seen) for plane in find_planes(around, 3)])[1]
    return _step(best[1], seen) or best[1]


class _Seen(NamedTuple):
    """Points of the object, of what is around it in the picture, and of what is just below it."""

    points: Points
    around: Points
    below: Points


def _step(plane: Plane, seen: _Seen) -> Plane | None:
    """Return the top of something that stands on a plane and carries the object, or None.

    It is level with the plane; a tray, a book, a box below.
    """
    heights = plane.heights(seen.below)
    if len(heights) < _FEWEST:
        return None
    level = float(median(heights))
    tolerance = _tolerance(seen.below)
    flat = np.abs(heights - level) < tolerance
    if flat.mean() < 0.6 or level < 1.5 * float(tolerance.mean()):
        return None
    raised = Plane(plane.normal, plane.offset - level)
    # What reaches further down stands behind it, not on it.
    if quantile(raised.heights(seen.points), 0.05) < -float(_tolerance(seen.points).mean()):
        return None
    return _support(raised, seen)[1] and raised


def _best(supports: list[tuple[float, Plane | None]]) -> tuple[float, Plane | None]:
    return max(supports, key=lambda support: support[0], default=(0.0, None))


def find_planes(points: Points, most: int) -> tuple[Plane, ...]:
    """Return the largest planes among (N, 3) points, largest first, at most so many."""
    planes: list[Plane] = []
    rest = points
    while len(planes) < most and len(rest) >= max(_FEWEST, 0.08 * len(points)):
        plane = _largest_plane(rest)
        if plane is None:
            break
        planes.append(plane)
        rest = rest.compress(np.abs(plane.heights(rest)) > 2 * _tolerance(rest), axis=0)
    return tuple(planes)


def _large_planes(frame: Frame, k: Intrinsics) -> tuple[Plane, ...]:
    with _lock:
        planes = _known.get(frame)
    if planes is None:
        assert frame.depth is not None
        everywhere = np.ones(frame.depth.shape, np.bool_)
        planes = find_planes(_sampled(everywhere, frame.depth, (0, 0), k), _PLANES)
        with _lock:
            _known[frame] = planes
    return planes


def _surroundings(mask: Mask, frame: Frame, k: Intrinsics) -> tuple[Points, Points]:
    """Return points around the mask, to about half its size away, and those just below it.

    Neither has any of the mask or of its rim, where depth is of neither side.
    """
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    margin = int(max(16, 0.45 * max(width, height)))
    rows = slice(max(y - margin, 0), min(y + height + margin, mask.shape[0]))
    columns = slice(max(x - margin, 0), min(x + width + margin, mask.shape[1]))
    near = mask[rows, columns].astype(np.uint8)
    outside = cv2.dilate(near, np.ones((7, 7), np.uint8)) == 0
    reach = max(10, height // 8)
    # The last row of the kernel is the pixel itself, so the mask spreads downwards only.
    shadow = cv2.dilate(near, np.ones((reach, 1), np.uint8), anchor=(0, reach - 1)) > 0
    origin = rows.start, columns.start
    depth = frame.depth
    assert depth is not None
    around = _sampled(outside, depth[rows, columns], origin, k)
    return around, _sampled(outside & shadow, depth[rows, columns], origin, k)


def _sampled(where: Mask, depth: DepthImage, origin: tuple[int, int], k: Intrinsics) -> Points:
    """Return about _SAMPLES of the measured points of a region, in a regular grid."""
    step = max(1, int(np.sqrt(np.count_nonzero(where) / _SAMPLES)))
    grid = depth[::step, ::step]
    rows, columns = np.nonzero(where[::step, ::step] & np.isfinite(grid) & (grid > 0))
    top, left = origin
    return back_project(rows * step + top, columns * step + left, grid[rows, columns], k)


def _tolerance(points: Points) -> NDArray[np.float64]:
    return np.asarray(_NEAR + _NEAR_SQUARED * points[:, 2] ** 2)


def _largest_plane(points: Points) -> Plane | None:
    """Return the plane with most points near it, fitted to them, or None for points on a line."""
    rng = np.random.default_rng(0)
    chosen = points[rng.integers(len(points), size=(_HYPOTHESES, 3))]
    normals = np.cross(chosen[:, 1] - chosen[:, 0], chosen[:, 2] - chosen[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-8
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum('ij,ij->i', normals, chosen[usable, 0])
    few = points[:: max(1, len(points) // 800)]
    away = few @ normals.T
    away += offsets
    near = np.abs(away, out=away) < _tolerance(few)[:, None]
    best = int(near.sum(axis=0, dtype=np.int32).argmax())
    plane = Plane(normals[best], float(offsets[best]))
    tolerance, fitted_to = _tolerance(points), np.zeros(len(points), np.bool_)
    for _ in range(3):
        close = np.abs(plane.heights(points)) < tolerance
        if (close == fitted_to).all():
            break
        fitted_to = close
        plane = _fitted(points.compress(close, axis=0)) or plane
    return plane


def _fitted(points: Points) -> Plane | None:
    """Return the least-squares plane of (N, 3) points, or None for fewer than three."""
    if len(points) < 3:
        return None
    middle = points.mean(axis=0)
    offsets = points - middle
    normal = np.linalg.eigh(offsets.T @ offsets)[1][:, 0]
    offset = -float(normal @ middle)
    sign = 1.0 if offset >= 0 else -1.0
    return Plane(sign * normal, sign * offset)


def _support(plane: Plane, seen: _Seen) -> tuple[float, Plane | None]:
    """Return how well a plane carries the object, 0 for not at all, and the plane, fitted here."""
    points, around, below = seen
    near = np.abs(plane.heights(around)) < 1.5 * _tolerance(around)
    share = float(near.mean())
    if near.sum() < _FEWEST or share < 0.06:
        return 0.0, None
    local = _fitted(around.compress(near, axis=0)) or plane
    # A narrow ring of points says little about a slope: then the large plane is better.
    if abs(local.normal @ plane.normal) < 0.9986:
        local = plane
    heights = local.heights(points)
    tolerance = float(_tolerance(points).mean())
    low, high = quantiles(heights, 0.03, 0.97)
    if low < -3 * tolerance or high < tolerance:
        return 0.0, None
    # The nearer a plane is to the object, the more it is the one that carries it.
    gap = max(float(low) - 2 * tolerance, 0.0)
    width = _narrow_side(points, local)
    if gap > 0.05 + 1.5 * width:
        return 0.0, None
    under = 0.0
    if len(below):
        under = float((np.abs(local.heights(below)) < 1.5 * _tolerance(below)).mean())
    return (under + 0.3 * share) / (1.0 + gap / (0.02 + 0.5 * width)), local


def stands_on(plane: Plane, points: Points) -> bool:
    """Return whether an object with these visible points stands on a plane, or hangs above it.

    A ball, or anything seen from above, shows nothing of its lower part: unless the gap is wide
    for the object's size and its side would have to be seen, it stands.
    """
    heights = plane.heights(points)
    low, high = quantiles(heights, 0.02, 0.98)
    middle = points.mean(axis=0)
    elevation = -float(plane.normal @ middle) / float(np.linalg.norm(middle))
    steep = elevation > np.sin(np.radians(65))
    reach = max(float(high - low), _narrow_side(points, plane))
    return bool(steep or low < 0.02 + 0.5 * reach)


def _narrow_side(points: Points, plane: Plane) -> float:
    """Return about how wide the object is along the plane where it is narrowest, metres."""
    flat = points - plane.heights(points)[:, None] * plane.normal
    flat = flat - flat.mean(axis=0)
    spread = np.linalg.eigvalsh(flat.T @ flat / len(flat))
    # The smallest is 0, across the plane; a uniform bar of length 1 has a variance of 1/12.
    return float(np.sqrt(12 * max(spread[1], 0.0)))
