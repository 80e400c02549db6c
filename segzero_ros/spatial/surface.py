"""The visible surface of an object in 3-D: the depth inside its mask, cleaned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import median
from segzero_ros.spatial.plane import Plane, Points
from segzero_ros.types import DepthImage, Intrinsics, Mask

# Fewer measured pixels than this, or a smaller share of the mask, say nothing about a shape.
FEWEST = 30
_LEAST_SHARE = 0.08
# More points than this change nothing but the time it takes.
_MOST = 6000
# Among a pixel's neighbours depth may change by this much, in metres plus a share of the depth, on
# a slanted surface; beyond, one of the two lies behind the other.
_STEP, _STEP_SHARE = 0.012, 0.012
# How far a piece may lie before or behind its neighbour and still belong to it, metres.
_ASIDE = 0.02
# How far masks spill over, pixels.
_RIM = 4
_NEXT = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Surface:
    """The depth inside one mask, in the window of the picture that holds the mask.

    Attributes:
        inside: (h, w) bool, the mask.
        depth: (h, w) metres as measured.
        steady: (h, w) bool, measured in the mask and not at a depth edge.
        origin: the window's first row and column in the picture.
        intrinsics: of the picture.
    """

    inside: Mask
    depth: DepthImage
    steady: Mask
    origin: tuple[int, int]
    intrinsics: Intrinsics

    def points(self) -> Points:
        """Return the (N, 3) points of steady pixels as measured, metres in the optical frame."""
        return self._points(self.depth, self.steady)

    def above(self, plane: Plane, height: float) -> Surface:
        """Return the surface without what lies on a plane or below that height above it."""
        pixels = np.flatnonzero(self.steady)
        low = pixels[plane.heights(self._project(self.depth, pixels)) <= height]
        steady, inside = self.steady.copy(), self.inside.copy()
        steady.flat[low] = False
        inside.flat[low] = False
        return replace(self, steady=steady, inside=inside)

    def without_strays(self) -> Surface:
        """Return the surface without thin pieces of neighbours along the mask's border."""
        stray = _strays(self.depth, self.steady, self.inside)
        steady, inside = np.asarray(self.steady & ~stray), np.asarray(self.inside & ~stray)
        return replace(self, steady=steady, inside=inside)

    def smooth_points(self) -> Points:
        """Return (N, 3) points with noise averaged away.

        Pixels at depth edges, which lie on neither surface, and holes beside measured pixels
        get the depth of the steady pixels beside them: the outline stays where the mask has it.
        """
        weight = self.steady.astype(np.float32)
        depth = np.where(self.steady, self.depth, np.float32(0))
        total = cv2.GaussianBlur(depth, (7, 7), 1.4)
        share = cv2.GaussianBlur(weight, (7, 7), 1.4)
        smooth = np.asarray(total / np.maximum(share, 1e-6), np.float32)
        return self._points(smooth, np.asarray(self.inside & (share > 0.05)))

    def _points(self, depth: DepthImage, where: Mask) -> Points:
        pixels = np.flatnonzero(where)
        step = -(-len(pixels) // _MOST) or 1
        return self._project(depth, pixels[::step])

    def _project(self, depth: DepthImage, pixels: NDArray[np.int_]) -> Points:
        """Return the points of pixels that are numbered row by row."""
        rows, columns = np.divmod(pixels, depth.shape[1])
        top, left = self.origin
        return back_project(rows + top, columns + left, depth[rows, columns], self.intrinsics)


def visible_surface(mask: Mask, depth: DepthImage, intrinsics: Intrinsics) -> Surface | None:
    """Return the surface that a mask covers, or None if too little of it was measured.

    Args:
        mask: (H, W) bool.
        depth: (H, W) metres, NaN where unknown.
        intrinsics: of the picture.
    """
    window = _window(mask)
    if window is None:
        return None
    inside, near = mask[window], depth[window]
    measured = np.asarray(inside & np.isfinite(near) & (near > 0))
    steady = np.asarray(measured & ~_edges(near, measured))
    if steady.sum() < 0.3 * measured.sum():
        # A thing of a few pixels' width is all edge.
        steady = measured
    steady = np.asarray(steady & _close_to_most(near, steady))
    if steady.sum() < max(FEWEST, _LEAST_SHARE * inside.sum()):
        return None
    return Surface(inside, near, steady, (window[0].start, window[1].start), intrinsics)


def back_project(
    rows: NDArray[np.int_], columns: NDArray[np.int_], depth: DepthImage, k: Intrinsics
) -> Points:
    """Return the (N, 3) points of N pixels with N depths, metres in the optical frame."""
    points = np.empty((len(depth), 3))
    points[:, 2] = depth
    points[:, 0] = (columns - k.cx) / k.fx * points[:, 2]
    points[:, 1] = (rows - k.cy) / k.fy * points[:, 2]
    return points


def _window(mask: Mask) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold the mask and a margin, or None for an empty mask."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        return None
    rows, columns = mask.shape
    return (
        slice(max(y - 2, 0), min(y + height + 2, rows)),
        slice(max(x - 2, 0), min(x + width + 2, columns)),
    )


def _edges(depth: DepthImage, measured: Mask) -> Mask:
    """Return where depth jumps within a pixel's 3 × 3 neighbours, whether in the mask or not."""
    known = np.isfinite(depth) & (depth > 0)
    far = cv2.dilate(np.where(known, depth, np.float32(0)), _NEXT)
    near = cv2.erode(np.where(known, depth, np.float32(1e6)), _NEXT)
    return np.asarray(measured & (far - near > _STEP + _STEP_SHARE * np.where(known, depth, 0)))


def _close_to_most(depth: DepthImage, steady: Mask) -> Mask:
    """Return where depth is not far from that of most of the mask (median absolute deviation)."""
    values = depth[steady]
    if not values.size:
        return steady
    middle = median(values)
    spread = 1.4826 * median(np.abs(values - middle))
    return np.asarray(np.abs(depth - middle) <= 4.0 * spread + 0.03)


def _strays(depth: DepthImage, steady: Mask, inside: Mask) -> Mask:
    """Return pieces that belong to something else in front or behind: a mask may spill over.

    A piece is what no depth edge cuts through. Strays are thin and lie along the mask's border; a
    bowl's near wall stands as much in front of its inside, but it is wider.
    """
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(steady.view(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    core = cv2.erode(np.pad(inside.view(np.uint8), 1), _NEXT, iterations=_RIM)[1:-1, 1:-1]
    thin = np.bincount(pieces[steady & (core > 0)], minlength=count) == 0
    if count <= 2:
        return np.zeros_like(steady)
    largest = 1 + int(areas[1:].argmax())
    off = np.zeros(count, np.bool_)
    for number in np.flatnonzero(thin & (areas < 0.25 * areas[largest])).tolist():
        if number:
            off[number] = _off(depth, pieces, largest, number, stats[number].tolist())
    return np.asarray(off[pieces])


def _off(
    depth: DepthImage, pieces: NDArray[Any], largest: int, number: int, box: list[int]
) -> bool:
    """Return whether a piece lies before or behind the part of the largest one beside it."""
    x, y, width, height, area = box
    if area < 8:
        return True
    near = slice(max(y - 6, 0), y + height + 6), slice(max(x - 6, 0), x + width + 6)
    pieces, depth = pieces[near], depth[near]
    piece = pieces == number
    wide = cv2.dilate(piece.view(np.uint8), _NEXT, iterations=5)
    beside = depth[(pieces == largest) & (wide > 0)]
    if not beside.size:
        return True
    return bool(abs(median(depth[piece]) - median(beside)) > _ASIDE)
