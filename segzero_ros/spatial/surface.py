"""The visible surface of an object: the depth inside its mask, without outliers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import median
from segzero_ros.spatial.plane import Plane, Points
from segzero_ros.types import DepthImage, Intrinsics, Mask

# Minimum number of measured pixels, and minimum share of the mask, for a pose.
MIN_PIXELS = 30
_MIN_SHARE = 0.08
# More points than this take time without changing the box.
_MAX_POINTS = 6000
# Depth edge: a larger difference within a pixel's 3 x 3 neighbourhood, in metres plus a share of
# the depth. A slanted surface has smaller ones.
_EDGE, _EDGE_SHARE = 0.012, 0.012
# Depth difference, in metres, from which a component belongs to another object.
_MAX_OFFSET = 0.02
# Pixels by which a mask may overlap its surroundings.
_OVERLAP = 4
# A component of fewer pixels is noise.
_SPECK = 8
_KERNEL_3X3 = np.ones((3, 3), np.uint8)
_KERNEL_CORE = np.ones((2 * _OVERLAP + 1, 2 * _OVERLAP + 1), np.uint8)


@dataclass(frozen=True, eq=False)
class Surface:
    """The depth inside one mask, in a window of the image around the mask.

    Attributes:
        inside: (h, w) bool, the mask.
        depth: (h, w) metres as measured.
        reliable: (h, w) bool, measured in the mask and not at a depth edge.
        origin: the window's first row and column in the image.
        intrinsics: of the image.
    """

    inside: Mask
    depth: DepthImage
    reliable: Mask
    origin: tuple[int, int]
    intrinsics: Intrinsics

    def points(self) -> Points:
        """Return the (N, 3) points of reliable pixels as measured, metres in the optical frame."""
        return self._points(self.depth, self.reliable)

    def above(self, plane: Plane, height: float) -> Surface:
        """Return the surface without points up to a height above a plane, metres."""
        pixels = np.flatnonzero(self.reliable)
        low = pixels[plane.heights(self._project(self.depth, pixels)) <= height]
        reliable, inside = self.reliable.copy(), self.inside.copy()
        reliable.flat[low] = False
        inside.flat[low] = False
        return replace(self, reliable=reliable, inside=inside)

    def without_strays(self) -> Surface:
        """Return the surface without thin components of other objects at the mask's border."""
        stray = strays(self.depth, self.reliable, self.inside)
        reliable, inside = np.asarray(self.reliable & ~stray), np.asarray(self.inside & ~stray)
        return replace(self, reliable=reliable, inside=inside)

    def smooth_points(self) -> Points:
        """Return (N, 3) points of smoothed depth, metres in the optical frame.

        Pixels at depth edges, and holes next to measured pixels, get the depth of the reliable
        pixels beside them, so that the mask keeps its outline.
        """
        weight = self.reliable.astype(np.float32)
        depth = np.where(self.reliable, self.depth, np.float32(0))
        total = cv2.GaussianBlur(depth, (7, 7), 1.4)
        share = cv2.GaussianBlur(weight, (7, 7), 1.4)
        smooth = np.asarray(total / np.maximum(share, 1e-6), np.float32)
        return self._points(smooth, np.asarray(self.inside & (share > 0.05)))

    def _points(self, depth: DepthImage, where: Mask) -> Points:
        pixels = np.flatnonzero(where)
        step = -(-len(pixels) // _MAX_POINTS) or 1
        return self._project(depth, pixels[::step])

    def _project(self, depth: DepthImage, pixels: NDArray[np.int_]) -> Points:
        """Return the points of pixels, given as flat indices."""
        rows, columns = np.divmod(pixels, depth.shape[1])
        top, left = self.origin
        return back_project(rows + top, columns + left, depth[rows, columns], self.intrinsics)


def visible_surface(mask: Mask, depth: DepthImage, intrinsics: Intrinsics) -> Surface | None:
    """Return the surface inside a mask, or None if too little of it was measured.

    Args:
        mask: (H, W) bool.
        depth: (H, W) metres, NaN where unknown.
        intrinsics: of the image.
    """
    window = _window(mask)
    if window is None:
        return None
    inside, near = mask[window], depth[window]
    measured = np.asarray(inside & np.isfinite(near) & (near > 0))
    reliable = np.asarray(measured & ~depth_edges(near, measured))
    if reliable.sum() < 0.3 * measured.sum():
        # An object a few pixels wide consists of edges only.
        reliable = measured
    reliable = np.asarray(reliable & near_median(near, reliable))
    if reliable.sum() < max(MIN_PIXELS, _MIN_SHARE * inside.sum()):
        return None
    return Surface(inside, near, reliable, (window[0].start, window[1].start), intrinsics)


def back_project(
    rows: NDArray[np.int_], columns: NDArray[np.int_], depth: DepthImage, k: Intrinsics
) -> Points:
    """Return the points of pixels.

    Args:
        rows: (N,).
        columns: (N,).
        depth: (N,) metres.
        k: intrinsics.

    Returns:
        (N, 3) metres in the optical frame.
    """
    points = np.empty((len(depth), 3))
    points[:, 2] = depth
    points[:, 0] = (columns - k.cx) / k.fx * points[:, 2]
    points[:, 1] = (rows - k.cy) / k.fy * points[:, 2]
    return points


def _window(mask: Mask) -> tuple[slice, slice] | None:
    """Return the rows and columns of the mask with a margin, or None for an empty mask."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        return None
    rows, columns = mask.shape
    return (
        slice(max(y - 2, 0), min(y + height + 2, rows)),
        slice(max(x - 2, 0), min(x + width + 2, columns)),
    )


def is_measured(depth: DepthImage) -> Mask:
    """Return the pixels with depth."""
    return np.asarray(np.isfinite(depth) & (depth > 0))


def depth_edges(depth: DepthImage, measured: Mask) -> Mask:
    """Return the pixels with a depth edge in their 3 x 3 neighbourhood, inside the mask or not."""
    known = is_measured(depth)
    far = cv2.dilate(np.where(known, depth, np.float32(0)), _KERNEL_3X3)
    near = cv2.erode(np.where(known, depth, np.float32(1e6)), _KERNEL_3X3)
    return np.asarray(measured & (far - near > _EDGE + _EDGE_SHARE * np.where(known, depth, 0)))


def near_median(depth: DepthImage, reliable: Mask, most: int | None = None) -> Mask:
    """Return the pixels whose depth is near the median, by the median absolute deviation.

    Args:
        depth: (h, w) metres.
        reliable: (h, w) bool, the pixels of which the median is taken.
        most: about as many of them are enough; None: all are used.
    """
    values = depth[reliable]
    if most is not None:
        values = values[:: max(len(values) // most, 1)]
    if not values.size:
        return reliable
    middle = median(values)
    spread = 1.4826 * median(np.abs(values - middle))
    return np.asarray(np.abs(depth - middle) <= 4.0 * spread + 0.03)


def strays(depth: DepthImage, reliable: Mask, inside: Mask) -> Mask:
    """Return components that belong to another object in front or behind.

    A component has no depth edge inside. Strays are thin and lie along the mask's border; a bowl's
    near wall is as far in front of its inside, but wider.
    """
    count, labels = cv2.connectedComponents(reliable.view(np.uint8))
    # Their areas by NumPy: OpenCV's takes six times as long with them.
    areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    small = areas < 0.25 * areas.max()
    if count <= 2 or not small[1:].any():
        return np.zeros_like(reliable)
    padded = np.pad(inside.view(np.uint8), 1)
    core = cv2.erode(padded, _KERNEL_CORE)[1:-1, 1:-1]
    small &= np.bincount(labels[reliable & (core > 0)], minlength=count) == 0
    small[0] = False
    stray = small & (areas < _SPECK)
    for label in np.flatnonzero(small & ~stray).tolist():
        stray[label] = _is_stray(depth, labels, int(areas.argmax()), label)
    return np.asarray(stray[labels])


def _is_stray(depth: DepthImage, labels: NDArray[Any], largest: int, label: int) -> bool:
    """Return whether a component is in front of or behind the adjacent part of the largest one."""
    x, y, width, height = cv2.boundingRect((labels == label).view(np.uint8))
    window = slice(max(y - 6, 0), y + height + 6), slice(max(x - 6, 0), x + width + 6)
    labels, depth = labels[window], depth[window]
    component = labels == label
    dilated = cv2.dilate(component.view(np.uint8), _KERNEL_3X3, iterations=5)
    adjacent = depth[(labels == largest) & (dilated > 0)]
    if not adjacent.size:
        return True
    return bool(abs(median(depth[component]) - median(adjacent)) > _MAX_OFFSET)
