"""What depth says of a box before any colour is looked at: surely the object, surely not, or open.

Beside the box is what the object stands on or in front of; inside, what is nearer than that and
hangs together with one of the object's points is the object. Everything is done in inverse depth,
where a table is linear across each row.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask

Values = NDArray[np.float32]
Place = tuple[int, int]
Window = tuple[slice, slice]

# Nearer than the surroundings by these shares of the depth: perhaps, and surely.
PERHAPS, SURELY = 0.008, 0.015
# About as far as the surroundings, or further away than them.
LEVEL, BEYOND = 0.004, 0.03
# Neighbours whose depths differ by more than this share do not hang together.
JUMP = 0.025
# Left and right of the box, depths that differ by less belong to one surface.
ONE_SURFACE = 0.06
# The least share of the box that must surely be the object, for depth to be of use; and from
# where on the object stands out so clearly that what is level with its surroundings is not it.
LEAST, CLEAR = 0.08, 0.25
UNKNOWN, OBJECT, PROBABLY_OBJECT, BACKGROUND = 0, 1, 2, 3


def depth_layers(depth: Values, inner: Window, points: list[Place]) -> NDArray[np.uint8] | None:
    """Sort the pixels of a crop by what their depth says.

    Args:
        depth: (h, w) metres, NaN where unknown.
        inner: the box's (rows, columns) in the crop.
        points: (column, row) of the object's points in the crop.

    Returns:
        (h, w) uint8 of UNKNOWN, OBJECT, PROBABLY_OBJECT and BACKGROUND; None where depth says too
        little: too many holes, nothing nearer than its surroundings, or no points.
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
    own = _together(nearer > PERHAPS, inverse, inside, points)
    sure = own & (nearer > SURELY)
    share = float(sure[inner].mean()) if sure[inner].size else 0.0
    if share < LEAST:
        return None
    layers = np.full(depth.shape, UNKNOWN, np.uint8)
    layers[own] = PROBABLY_OBJECT
    layers[cv2.erode(sure.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = OBJECT
    far = nearer < -BEYOND
    if share > CLEAR:
        far |= nearer < LEVEL
    # Where the object meets the ground its depth is the ground's: that is for colour to say.
    border = cv2.dilate(own.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    layers[known & far & ~border] = BACKGROUND
    return layers


def _surroundings(inverse: Values, inner: Window) -> Values | None:
    """Return (h, w) the inverse depth that one would see if the object were not there."""
    width = inverse.shape[1]
    columns = inner[1]
    left = _medians(inverse[:, : columns.start])
    right = _medians(inverse[:, columns.stop :])
    if not np.isfinite(left).any() or not np.isfinite(right).any():
        # The box ends at the picture's border on that side.
        left, right = (
            other if not np.isfinite(side).any() else side
            for side, other in ((left, right), (right, left))
        )
    if not np.isfinite(left).any():
        return None
    left, right = _filled(left), _filled(right)
    apart = np.abs(left - right) > ONE_SURFACE * np.maximum(left, right)
    farther = np.minimum(left, right)
    left, right = np.where(apart, farther, left), np.where(apart, farther, right)
    share = np.linspace(0, 1, width, dtype=np.float32)
    return np.asarray(left[:, None] * (1 - share) + right[:, None] * share, np.float32)


def _medians(strip: Values) -> Values:
    """Return each row's median of what is known, NaN where that is less than two pixels."""
    if strip.shape[1] < 2:
        return np.full(strip.shape[0], np.nan, np.float32)
    known = strip > 0
    count = known.sum(axis=1)
    ordered = np.sort(np.where(known, strip, np.inf), axis=1)
    middle = ordered[np.arange(len(strip)), np.maximum(count - 1, 0) // 2]
    return np.where(count > 1, middle, np.nan).astype(np.float32)


def _filled(values: Values) -> Values:
    """Return a row of values without holes, smoothed by a median of nine."""
    known = np.flatnonzero(np.isfinite(values))
    every = np.arange(len(values))
    whole = np.interp(every, known, values[known]).astype(np.float32)
    around = np.clip(every[:, None] + np.arange(-4, 5), 0, len(values) - 1)
    return np.asarray(np.partition(whole[around], 4, axis=1)[:, 4])


def _together(mask: Mask, inverse: Values, inside: Mask, points: list[Place]) -> Mask:
    """Return the parts of a mask that hold a point and have no jump in depth within them."""
    chosen = mask & inside
    # Pixels and the edges between them, so that two pixels side by side can be apart.
    grid = np.zeros((2 * mask.shape[0] - 1, 2 * mask.shape[1] - 1), np.uint8)
    grid[::2, ::2] = chosen
    limit = JUMP * inverse
    beside = np.abs(np.diff(inverse, axis=1)) < limit[:, 1:]
    below = np.abs(np.diff(inverse, axis=0)) < limit[1:]
    grid[::2, 1::2] = chosen[:, :-1] & chosen[:, 1:] & beside
    grid[1::2, ::2] = chosen[:-1] & chosen[1:] & below
    count, parts = cv2.connectedComponents(grid, connectivity=4)
    parts = parts[::2, ::2]
    held = np.zeros(count, np.bool_)
    for column, row in points:
        held[parts[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]] = True
    held[0] = False
    return np.asarray(held[parts])
