"""The box for GrabCut of an object that is given by points only: the region around them.

The region grows from each point over pixels of a similar colour, and of a similar depth if there
is depth. It need not be exact: GrabCut refines it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Box, DepthImage, Point

# Longest side of the image in which the region grows, pixels.
_WORKING_SIZE = 320
# Largest difference to the colour at the point, in 8-bit Lab: shading changes lightness more than
# colour.
_COLOUR_RANGE = (40, 12, 12)
# Largest difference to the depth at the point, as a share of it.
_DEPTH_RANGE = 0.15
# Margin of the box around the region, as a share of its sides; and the box's least side, pixels.
_MARGIN, _MIN_SIDE = 0.08, 8


def box_around(lab: NDArray[np.uint8], depth: DepthImage | None, points: tuple[Point, ...]) -> Box:
    """Return a box around the region of an object's points, with integer corners.

    Args:
        lab: (H, W, 3) uint8 in CIE Lab.
        depth: (H, W) metres, NaN where unknown; None without a depth camera.
        points: at least one, inside the image.
    """
    height, width = lab.shape[:2]
    scale = min(1.0, _WORKING_SIZE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.medianBlur(cv2.resize(lab, size, interpolation=cv2.INTER_AREA), 5)
    filled = np.zeros((size[1] + 2, size[0] + 2), np.uint8)
    region = np.zeros((size[1], size[0]), np.bool_)
    for x, y in points:
        seed = min(int(x * scale), size[0] - 1), min(int(y * scale), size[1] - 1)
        filled[:] = _barriers(depth, size, seed)
        cv2.floodFill(
            small,
            filled,
            seed,
            (0, 0, 0),
            _COLOUR_RANGE,
            _COLOUR_RANGE,
            4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (2 << 8),
        )
        region |= filled[1:-1, 1:-1] == 2
        region[seed[1], seed[0]] = True
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    left, right = _widened(columns[0] / scale, (columns[-1] + 1) / scale, width)
    top, bottom = _widened(rows[0] / scale, (rows[-1] + 1) / scale, height)
    return left, top, right, bottom


def _barriers(
    depth: DepthImage | None, size: tuple[int, int], seed: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return floodFill's mask, (h + 2, w + 2) uint8: 1 where the depth is another."""
    barriers = np.zeros((size[1] + 2, size[0] + 2), np.uint8)
    if depth is None:
        return barriers
    small = np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), np.float32)
    at_seed = small[seed[1], seed[0]]
    if np.isfinite(at_seed) and at_seed > 0:
        with np.errstate(invalid='ignore'):
            barriers[1:-1, 1:-1] = np.abs(small - at_seed) > _DEPTH_RANGE * at_seed
    return barriers


def _widened(start: float, stop: float, length: int) -> tuple[float, float]:
    """Return integer bounds with a margin, at least a few pixels apart, inside 0 … length."""
    margin = max(_MARGIN * (stop - start), (_MIN_SIDE - (stop - start)) / 2)
    return float(max(0, int(start - margin))), float(min(length, int(stop + margin) + 1))
