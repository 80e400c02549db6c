"""Segment without weights: OpenCV's GrabCut in a crop around each box.

GrabCut (Rother, Kolmogorov and Blake, 2004) fits a colour mixture model to the object and one to
the background, and cuts between them. Pixels outside the box are certain background, those at
points are certain foreground, and those with the surroundings' colours are probable background. If
the frame has depth, it labels pixels first (`depth_layers`), and colour refines the border. Crops
are resized to a limited size, so the cost does not depend on the image's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.cancellation import Check
from segzero_ros.segmentation.depth_layers import (
    BACKGROUND,
    depth_layers,
    OBJECT,
    PROBABLY_OBJECT,
)
from segzero_ros.segmentation.point_region import box_around
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Box, DepthImage, Frame, Grounding, Mask, Point

# Margin of the crop around the box, as a share of the box's sides, and in pixels.
MARGIN = 0.25
MIN_MARGIN = 6
# Longest side of the crop for GrabCut, pixels.
WORKING_SIZE = 128
ITERATIONS = 3
# OpenCV requires a rectangle even if it is initialised from labels.
UNUSED_RECTANGLE = (0, 0, 1, 1)
# A colour is initially background if it is this many times likelier outside the box than in its
# centre.
BACKGROUND_ODDS = 2.0
BINS = (8, 8, 8)
# Half-axes of the ellipse in the box's centre, as a share of its sides.
CENTRE_SHARE = 0.35
# Radius of the disc of certain foreground around a point, as a share of the crop's shorter side.
POINT_SHARE = 0.03
# Largest gap between components of one object, as a share of the crop's shorter side.
GAP_SHARE = 0.03
# Minimum size of a component without a point, relative to the largest one.
COMPONENT_SHARE = 0.25
# Minimum share of the box that the mask must fill; less means that the cut failed.
MIN_FILL = 0.05


@dataclass(frozen=True, eq=False)
class FrameColours:
    """The input for GrabCut.

    Attributes:
        lab: (H, W, 3) uint8 in CIE Lab, which separates colour from lightness.
        depth: (H, W) float32 metres, NaN where unknown; None without a depth camera.
    """

    lab: NDArray[np.uint8]
    depth: DepthImage | None = None


class GrabCutSegmenter:
    """Segments by colour, and depth if available; deterministic."""

    name = 'grabcut'
    takes_all_processors = False

    def encode(self, frame: Frame, check: Check | None = None) -> FrameColours:
        """Convert the frame's colours to CIE Lab."""
        lab = cv2.cvtColor(frame.image, cv2.COLOR_RGB2LAB).astype(np.uint8)
        return FrameColours(lab, frame.depth)

    def segment(
        self, encoding: FrameColours, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Segment each object in its box; GrabCut does not estimate quality, so scores are NaN.

        Args:
            encoding: from `encode`.
            grounding: boxes in integer pixels inside the image; for an object without a box, one
                around the region of its points is used. The points of the other objects count as
                background.
            check: called before each object; an exception it raises aborts the segmentation.

        Returns:
            One mask per object.
        """
        masks = []
        for grounded in grounding.objects:
            if check is not None:
                check()
            others = [
                point
                for other in grounding.objects
                if other is not grounded
                for point in other.points
            ]
            box = grounded.box or box_around(encoding.lab, encoding.depth, grounded.points)
            window = segment_box(encoding, box, grounded.points, others)
            x, y = int(box[0]), int(box[1])
            size = (encoding.lab.shape[0], encoding.lab.shape[1])
            masks.append(SegmentedMask.from_window(window, x, y, size, math.nan))
        return masks

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


def segment_box(
    frame: FrameColours, box: Box, points: tuple[Point, ...], others: list[Point]
) -> Mask:
    """Return an object's mask inside its box.

    Args:
        frame: from `encode`.
        box: of the object.
        points: inside it.
        others: points of other objects.

    Returns:
        (box height, box width) bool; the whole box if GrabCut fails.
    """
    lab = frame.lab
    crop = Crop.around(box, lab.shape[1], lab.shape[0])
    small = crop.shrink(lab)
    labels = initial_labels(small, crop, box, points, others)
    if frame.depth is not None:
        apply_depth(labels, crop.sample(frame.depth), crop, box, points)
    inside = np.zeros(labels.shape, np.bool_)
    inside[crop.inner(box)] = True
    if not ((labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)).any():
        # The box is the whole image, but GrabCut needs some background.
        labels[[0, -1]] = cv2.GC_PR_BGD
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        small, labels, UNUSED_RECTANGLE, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK
    )
    mask = main_components(
        (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), crop, points, others
    )
    if mask.sum() < MIN_FILL * inside.sum():
        mask = inside
    return crop.enlarge(mask, box)


@dataclass(frozen=True)
class Crop:
    """A window of the image around a box, and its working size (width, height)."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    @staticmethod
    def around(box: Box, image_width: int, image_height: int) -> Crop:
        """Return the window around a box, within the image."""
        x1, y1, x2, y2 = (int(value) for value in box)
        margin_x = max(MIN_MARGIN, round(MARGIN * (x2 - x1)))
        margin_y = max(MIN_MARGIN, round(MARGIN * (y2 - y1)))
        left, top = max(x1 - margin_x, 0), max(y1 - margin_y, 0)
        right, bottom = min(x2 + margin_x, image_width), min(y2 + margin_y, image_height)
        scale = min(1.0, WORKING_SIZE / max(right - left, bottom - top))
        width, height = (
            max(2, round(scale * (right - left))),
            max(2, round(scale * (bottom - top))),
        )
        return Crop(left, top, right, bottom, width, height)

    def shrink(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the window of an image at the working size."""
        window = image[self.top : self.bottom, self.left : self.right]
        small = cv2.resize(window, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return small.astype(np.uint8)

    def sample(self, depth: DepthImage) -> DepthImage:
        """Return the window of a depth image at the working size, by nearest neighbour."""
        window = depth[self.top : self.bottom, self.left : self.right]
        size = (self.width, self.height)
        return np.asarray(cv2.resize(window, size, interpolation=cv2.INTER_NEAREST), np.float32)

    def to_crop(self, x: float, y: float) -> tuple[int, int]:
        """Return the (column, row) at the working size of an image pixel."""
        column = (x + 0.5 - self.left) * self.width / (self.right - self.left)
        row = (y + 0.5 - self.top) * self.height / (self.bottom - self.top)
        return math.floor(column), math.floor(row)

    def inner(self, box: Box) -> tuple[slice, slice]:
        """Return the (rows, columns) index of a box at the working size, at least one pixel."""
        left, top = self.to_crop(box[0], box[1])
        right, bottom = self.to_crop(box[2] - 1, box[3] - 1)
        return slice(top, max(bottom, top) + 1), slice(left, max(right, left) + 1)

    def inside(self, points: Iterable[Point]) -> list[tuple[int, int]]:
        """Return the (column, row) at the working size of the points inside the window."""
        pixels = (self.to_crop(x, y) for x, y in points)
        return [
            (column, row)
            for column, row in pixels
            if 0 <= column < self.width and 0 <= row < self.height
        ]

    def enlarge(self, small: Mask, box: Box) -> Mask:
        """Return the part of a working-size mask that is in the box, in image pixels."""
        size = (self.right - self.left, self.bottom - self.top)
        window = cv2.resize(small.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        x1, y1, x2, y2 = (int(value) for value in box)
        result: Mask = window[y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left]
        return result


def initial_labels(
    small: NDArray[np.uint8], crop: Crop, box: Box, points: tuple[Point, ...], others: list[Point]
) -> NDArray[np.uint8]:
    """Return GrabCut's initial labels.

    Args:
        small: (height, width, 3) uint8 Lab, the crop at its working size.
        crop: its window.
        box: the object's box.
        points: inside the object.
        others: inside other objects.

    Returns:
        (height, width) uint8 of GC_BGD, GC_FGD, GC_PR_BGD and GC_PR_FGD.
    """
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    inner = crop.inner(box)
    has_background_colour = background_colours(small, inner)[inner]
    labels[inner] = np.where(has_background_colour, cv2.GC_PR_BGD, cv2.GC_PR_FGD)
    mark(labels, crop, others, cv2.GC_BGD)
    mark(labels, crop, points, cv2.GC_FGD)
    return labels


def apply_depth(
    labels: NDArray[np.uint8],
    depth: DepthImage,
    crop: Crop,
    box: Box,
    points: tuple[Point, ...],
) -> None:
    """Update GrabCut's probable labels by depth; certain ones stay.

    Args:
        labels: (height, width) uint8, changed in place.
        depth: (height, width) metres at the crop's working size.
        crop: its window.
        box: of the object.
        points: inside it.
    """
    layers = depth_layers(depth, crop.inner(box), crop.inside(points))
    if layers is None:
        return
    probable = (labels == cv2.GC_PR_BGD) | (labels == cv2.GC_PR_FGD)
    for layer, label in (
        (OBJECT, cv2.GC_FGD),
        (PROBABLY_OBJECT, cv2.GC_PR_FGD),
        (BACKGROUND, cv2.GC_BGD),
    ):
        labels[probable & (layers == layer)] = label


def background_colours(small: NDArray[np.uint8], inner: tuple[slice, slice]) -> Mask:
    """Return the pixels whose colours are more frequent outside a box than in its centre.

    Args:
        small: (height, width, 3) uint8 Lab.
        inner: the box's (rows, columns).

    Returns:
        (height, width) bool.
    """
    rows, columns = inner
    outside = np.ones(small.shape[:2], np.uint8)
    outside[inner] = 0
    central = np.zeros(small.shape[:2], np.uint8)
    centre = ((columns.start + columns.stop) // 2, (rows.start + rows.stop) // 2)
    axes = (
        max(1, round(CENTRE_SHARE * (columns.stop - columns.start))),
        max(1, round(CENTRE_SHARE * (rows.stop - rows.start))),
    )
    cv2.ellipse(central, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    likelihoods = []
    for where in (outside, central):
        histogram = cv2.calcHist([small], [0, 1, 2], where, BINS, [0, 256] * 3)
        likelihoods.append(histogram / max(1, int(where.sum())))
    likelier_outside: Mask = likelihoods[0] > BACKGROUND_ODDS * likelihoods[1] + 1e-6
    first, second, third = (small[..., channel] >> 5 for channel in range(3))
    result: Mask = likelier_outside[first, second, third]
    return result


def main_components(
    mask: Mask, crop: Crop, points: tuple[Point, ...], others: list[Point]
) -> Mask:
    """Return the components of an object, joined across small gaps.

    These contain one of its points, or are large and contain no other object's point.

    Args:
        mask: (height, width) bool at the crop's working size.
        crop: its window.
        points: inside the object.
        others: inside other objects.
    """
    gap = max(3, 2 * round(GAP_SHARE * min(crop.width, crop.height)) + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    # Fill the holes at other objects' points, so that these points get the surrounding component.
    filled = joined.copy()
    mark(filled, crop, others, 1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(filled, connectivity=4)
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    selected = np.zeros(count, np.bool_)
    selected[1:] = areas >= COMPONENT_SHARE * areas.max()
    selected[list(labels_at(labels, crop, others))] = False
    selected[list(labels_at(labels, crop, points))] = True
    result: Mask = selected[labels] & joined.astype(np.bool_)
    return result


def mark(labels: NDArray[np.uint8], crop: Crop, points: Iterable[Point], value: int) -> None:
    """Set a small disc around each point inside the crop.

    Args:
        labels: (height, width), changed in place.
        crop: its window.
        points: in image pixels.
        value: to set.
    """
    radius = max(1, round(POINT_SHARE * min(crop.width, crop.height)))
    for pixel in crop.inside(points):
        cv2.circle(labels, pixel, radius, value, cv2.FILLED)


def labels_at(labels: NDArray[np.int32], crop: Crop, points: Iterable[Point]) -> set[int]:
    """Return the labels of the components that contain a point."""
    return {int(labels[row, column]) for column, row in crop.inside(points)} - {0}
