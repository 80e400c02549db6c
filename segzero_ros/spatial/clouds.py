"""Points of a frame and of its objects, from depth and intrinsics.

A depth camera smears the depth between an object and what is behind it. Such flying pixels inside
a mask are left out of the objects' points: a pixel at a depth edge belongs to the object only if
its depth is that of the reliable pixels beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.spatial.lifting import fitting_intrinsics
from segzero_ros.spatial.surface import depth_edges, is_measured, near_median, strays
from segzero_ros.types import DepthImage, Frame, Intrinsics, Mask, Segment

# Largest difference of a pixel at a depth edge to the reliable depth beside it, in metres plus a
# share of the depth: half of what makes an edge.
_SAME, _SAME_SHARE = 0.006, 0.006
# Pixels around a mask that are looked at for its depth edges.
_MARGIN = 2
# Depths of an object of which the median is taken.
_SAMPLE = 4000
_UNKNOWN = np.float32(np.nan)


@dataclass(frozen=True, eq=False)
class Cloud:
    """The points of a frame.

    Attributes:
        depth: (H, W) float32 metres, as measured.
        intrinsics: of the depth.
        object_ids: (H, W) uint16, an object's id at its points; 0 elsewhere.
    """

    depth: DepthImage
    intrinsics: Intrinsics
    object_ids: NDArray[np.uint16]

    def write_rows(self, first: int, last: int, xyz: NDArray[np.float32]) -> None:
        """Write the points of some rows: metres in the optical frame, NaN where there is no depth.

        Args:
            first: index of the first row.
            last: index behind the last row.
            xyz: (3, last - first, W) float32, to be written.
        """
        z = xyz[2]
        z[:] = self.depth[first:last]
        np.copyto(z, _UNKNOWN, where=z <= 0)
        np.multiply(z, self._across, out=xyz[0])
        np.multiply(z, self._down[first:last, None], out=xyz[1])

    @cached_property
    def _across(self) -> NDArray[np.float32]:
        k = self.intrinsics
        return ((np.arange(self.depth.shape[1]) - k.cx) / k.fx).astype(np.float32)

    @cached_property
    def _down(self) -> NDArray[np.float32]:
        k = self.intrinsics
        return ((np.arange(self.depth.shape[0]) - k.cy) / k.fy).astype(np.float32)


def cloud_of(frame: Frame, segments: tuple[Segment, ...]) -> Cloud | None:
    """Return the points of a frame and which of them belong to its objects.

    Args:
        frame: the frame.
        segments: its objects. Where masks overlap, the first one has the points, as in the label
            image.

    Returns:
        The points; None without depth or fitting intrinsics.
    """
    intrinsics = fitting_intrinsics(frame)
    if frame.depth is None or intrinsics is None:
        return None
    ids = np.zeros(frame.depth.shape, np.uint16)
    for segment in reversed(segments):
        if segment.mask.any():
            rows, columns = segment.mask_roi.slices
            window, mask = _with_margin(frame.depth, segment.mask, rows, columns)
            own = object_points(frame.depth[window], mask)
            inside = ids[window]
            # What is not on its surface is no other object's either.
            inside[mask] = 0
            inside[own] = segment.id
    return Cloud(np.ascontiguousarray(frame.depth), intrinsics, ids)


def object_points(depth: DepthImage, mask: Mask) -> Mask:
    """Return the pixels of a mask whose depth is the object's.

    Args:
        depth: (h, w) metres, NaN where unknown; with a margin around the mask.
        mask: (h, w) bool.

    Returns:
        (h, w) bool.
    """
    measured = np.asarray(mask & is_measured(depth))
    if not measured.any():
        return measured
    reliable = np.asarray(measured & ~depth_edges(depth, measured))
    if reliable.sum() < 0.3 * measured.sum():
        # An object a few pixels wide consists of edges only.
        reliable = measured
    reliable = np.asarray(reliable & near_median(depth, reliable, _SAMPLE))
    reliable = np.asarray(reliable & ~strays(depth, reliable, mask))
    weight = reliable.astype(np.float32)
    total = cv2.blur(np.where(reliable, depth, np.float32(0)), (5, 5))
    share = cv2.blur(weight, (5, 5))
    beside = np.asarray(total / np.maximum(share, 1e-6), np.float32)
    with np.errstate(invalid='ignore'):
        same = np.abs(depth - beside) <= _SAME + _SAME_SHARE * depth
    return np.asarray(reliable | (measured & (share > 0) & same))


def _with_margin(
    depth: DepthImage, mask: Mask, rows: slice, columns: slice
) -> tuple[tuple[slice, slice], Mask]:
    """Return the window of a cropped mask with a margin, and the mask in it."""
    top, left = max(rows.start - _MARGIN, 0), max(columns.start - _MARGIN, 0)
    bottom = min(rows.stop + _MARGIN, depth.shape[0])
    right = min(columns.stop + _MARGIN, depth.shape[1])
    padded = np.zeros((bottom - top, right - left), np.bool_)
    padded[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = mask
    return (slice(top, bottom), slice(left, right)), padded
