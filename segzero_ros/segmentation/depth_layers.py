"""Label the pixels of a box by depth alone: object, background or unknown.

The surroundings left and right of the box give the background's depth. Pixels that are nearer and
connected to one of the object's points belong to the object. All is computed in inverse depth,
which is linear along each row for a plane such as a table.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask

Values = NDArray[np.float32]
Pixel = tuple[int, int]
Window = tuple[slice, slice]

# Relative inverse depth above the surroundings' for a possible and a certain object pixel.
POSSIBLE, CERTAIN = 0.008, 0.015
# Tolerances for background level with the surroundings, and behind them.
LEVEL, BEHIND = 0.004, 0.03
# Depth edge: relative difference between neighbours that are not connected.
EDGE = 0.025
# Largest relative difference between left and right of the box for a single background surface.
SAME_SURFACE = 0.06
# Minimum share of certain object pixels in the box for using depth; and the share from which
# pixels level with the surroundings count as background.
MIN_SHARE, CLEAR_SHARE = 0.08, 0.25
UNKNOWN, OBJECT, PROBABLY_OBJECT, BACKGROUND = 0, 1, 2, 3


def depth_layers(depth: Values, inner: Window, points: list[Pixel]) -> NDArray[np.uint8] | None:
    """Label the pixels of a crop by depth.

    Args:
        depth: (h, w) metres, NaN where unknown.
        inner: the box's (rows, columns) in the crop.
        points: (column, row) of the object's points in the crop.

    Returns:
        (h, w) uint8 of UNKNOWN, OBJECT, PROBABLY_OBJECT and BACKGROUND; None if depth is not
        informative: too many holes, nothing nearer than its surroundings, or no points.
    """
    inverse = np.zeros(depth.shape, np.float32)
    known = np.isfinite(depth) & (depth > 0)
    np.divide(1.0, depth, out=inverse, where=known)
    around = _surroundings(inverse, inner)
    if around is None or not points:
        return None
    nearer = np.where(known, inverse / around - 1.0, 0.0)
    inside = np.zeros(depth.shape, np.bool_)
    inside[inner] = True
    possible = _connected(nearer > POSSIBLE, inverse, inside, points)
    certain = possible & (nearer > CERTAIN)
    share = float(certain[inner].mean()) if certain[inner].size else 0.0
    if share < MIN_SHARE:
        return None
    layers = np.full(depth.shape, UNKNOWN, np.uint8)
    layers[possible] = PROBABLY_OBJECT
    layers[cv2.erode(certain.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = OBJECT
    far = nearer < -BEHIND
    if share > CLEAR_SHARE:
        far |= nearer < LEVEL
    # Where the object meets the ground, both have the same depth: colour must decide there.
    border = cv2.dilate(possible.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    layers[known & far & ~border] = BACKGROUND
    return layers


def _surroundings(inverse: Values, inner: Window) -> Values | None:
    """Return the (h, w) inverse depth of the background behind the object, or None if unknown."""
    width = inverse.shape[1]
    columns = inner[1]
    left = _medians(inverse[:, : columns.start])
    right = _medians(inverse[:, columns.stop :])
    if not np.isfinite(left).any() or not np.isfinite(right).any():
        # The box ends at the image's border on that side.
        left, right = (
            other if not np.isfinite(side).any() else side
            for side, other in ((left, right), (right, left))
        )
    if not np.isfinite(left).any():
        return None
    left, right = _fill_gaps(left), _fill_gaps(right)
    differ = np.abs(left - right) > SAME_SURFACE * np.maximum(left, right)
    farther = np.minimum(left, right)
    left, right = np.where(differ, farther, left), np.where(differ, farther, right)
    share = np.linspace(0, 1, width, dtype=np.float32)
    return np.asarray(left[:, None] * (1 - share) + right[:, None] * share, np.float32)


def _medians(strip: Values) -> Values:
    """Return each row's median of the known values, NaN for fewer than two."""
    if strip.shape[1] < 2:
        return np.full(strip.shape[0], np.nan, np.float32)
    known = strip > 0
    count = known.sum(axis=1)
    ordered = np.sort(np.where(known, strip, np.inf), axis=1)
    middle = ordered[np.arange(len(strip)), np.maximum(count - 1, 0) // 2]
    return np.where(count > 1, middle, np.nan).astype(np.float32)


def _fill_gaps(values: Values) -> Values:
    """Return (N,) values with gaps interpolated, smoothed by a median of nine."""
    known = np.flatnonzero(np.isfinite(values))
    indices = np.arange(len(values))
    interpolated = np.interp(indices, known, values[known]).astype(np.float32)
    neighbours = np.clip(indices[:, None] + np.arange(-4, 5), 0, len(values) - 1)
    return np.asarray(np.partition(interpolated[neighbours], 4, axis=1)[:, 4])


def _connected(mask: Mask, inverse: Values, inside: Mask, points: list[Pixel]) -> Mask:
    """Return the components of a mask, split at depth edges, that contain a point."""
    chosen = mask & inside
    # The grid has cells for pixels and for the links between them, so that adjacent pixels can be
    # unconnected.
    grid = np.zeros((2 * mask.shape[0] - 1, 2 * mask.shape[1] - 1), np.uint8)
    grid[::2, ::2] = chosen
    limit = EDGE * inverse
    beside = np.abs(np.diff(inverse, axis=1)) < limit[:, 1:]
    below = np.abs(np.diff(inverse, axis=0)) < limit[1:]
    grid[::2, 1::2] = chosen[:, :-1] & chosen[:, 1:] & beside
    grid[1::2, ::2] = chosen[:-1] & chosen[1:] & below
    count, labels = cv2.connectedComponents(grid, connectivity=4)
    labels = labels[::2, ::2]
    selected = np.zeros(count, np.bool_)
    for column, row in points:
        selected[labels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]] = True
    selected[0] = False
    return np.asarray(selected[labels])
