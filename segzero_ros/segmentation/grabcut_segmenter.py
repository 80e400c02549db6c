"""Masks without weights: OpenCV's GrabCut in a crop around each box.

GrabCut (Rother, Kolmogorov and Blake, 2004) learns one colour mixture for the object and one for
what surrounds it and cuts between them. Here the box says what is surely outside, the points what
is surely inside, and the colours along the box's border what is probably outside. Where the frame
has depth, that says first what stands out from its surroundings (`depth_layers`), and colour finds
the border. Each crop is worked on at a bounded size, so an object costs the same in a large image
as in a small one.
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
from segzero_ros.types import (
    Box,
    DepthImage,
    Frame,
    GroundedObject,
    Grounding,
    Mask,
    Point,
    SegmentedMask,
)

# The crop reaches this share of the box's sides beyond it, so that the surroundings are seen.
MARGIN = 0.25
LEAST_MARGIN = 6
# Longest side of the crop that GrabCut works on, pixels.
WORKING_SIZE = 128
ITERATIONS = 3
# OpenCV asks for a rectangle even where the labels say it all.
NO_RECTANGLE = (0, 0, 1, 1)
# A colour of the box's inside is taken for background at first when it is this much likelier
# outside the box than in its middle.
BACKGROUND_ODDS = 2.0
BINS = (8, 8, 8)
# Half-axes of the ellipse that counts as a box's middle, as a share of its sides.
MIDDLE = 0.35
# Radius of the disc around a point that is surely inside, as a share of the crop's shorter side.
POINT_SHARE = 0.03
# Gaps of up to about this share of the crop's shorter side lie between parts of one object.
GAP_SHARE = 0.03
# A part counts when it is this large beside the largest one, even without a point in it.
PART_SHARE = 0.25
# The smallest share of its box that an object's mask may fill; less means that the cut failed.
LEAST_FILL = 0.05


@dataclass(frozen=True, eq=False)
class FrameColours:
    """A frame as GrabCut takes it.

    Attributes:
        lab: (H, W, 3) uint8 in CIE Lab, which tells colour from shade.
        depth: (H, W) float32 metres, NaN where unknown; None without a depth camera.
    """

    lab: NDArray[np.uint8]
    depth: DepthImage | None = None


class GrabCutSegmenter:
    """Makes masks from colour, and depth where there is one; deterministic."""

    name = 'grabcut'
    takes_all_processors = False

    def encode(self, frame: Frame, check: Check | None = None) -> FrameColours:
        """Turn the frame's colours into Lab."""
        lab = cv2.cvtColor(frame.image, cv2.COLOR_RGB2LAB).astype(np.uint8)
        return FrameColours(lab, frame.depth)

    def segment(
        self, encoding: FrameColours, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Cut each object out of its box; GrabCut gives no estimate of quality, so scores are NaN.

        Args:
            encoding: what `encode` made of the frame.
            grounding: boxes in whole pixels inside the image; the points of the other objects
                count as background.
            check: called before each object; what it raises ends the work.

        Returns:
            One mask per object.
        """
        masks = []
        for found in grounding.objects:
            if check is not None:
                check()
            others = [
                point
                for other in grounding.objects
                if other is not found
                for point in other.points
            ]
            x, y = int(found.box[0]), int(found.box[1])
            window = cut_out(encoding, found, others)
            size = (encoding.lab.shape[0], encoding.lab.shape[1])
            masks.append(SegmentedMask.placed(window, x, y, size, math.nan))
        return masks

    def close(self) -> None:
        """Nothing is kept."""


def cut_out(frame: FrameColours, found: GroundedObject, others: list[Point]) -> Mask:
    """Return one object's mask inside its box.

    Args:
        frame: what `encode` made of the frame.
        found: its box and points.
        others: points of other objects, which it does not contain.

    Returns:
        Of the box's size, bool; the whole box where GrabCut finds nothing in it.
    """
    lab = frame.lab
    crop = Crop.around(found.box, lab.shape[1], lab.shape[0])
    small = crop.shrink(lab)
    labels = first_guess(small, crop, found.box, found.points, others)
    if frame.depth is not None:
        heed_depth(labels, crop.sample(frame.depth), crop, found)
    inside = np.zeros(labels.shape, np.bool_)
    inside[crop.inner(found.box)] = True
    if not ((labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)).any():
        # The box is the whole image: GrabCut needs some background to learn from.
        labels[[0, -1]] = cv2.GC_PR_BGD
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        small, labels, NO_RECTANGLE, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK
    )
    kept = main_part(
        (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), crop, found.points, others
    )
    if kept.sum() < LEAST_FILL * inside.sum():
        kept = inside
    return crop.grow(kept, found.box)


@dataclass(frozen=True)
class Crop:
    """A window of the image around a box, and the scale it is worked on at."""

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
        across = max(LEAST_MARGIN, round(MARGIN * (x2 - x1)))
        down = max(LEAST_MARGIN, round(MARGIN * (y2 - y1)))
        left, top = max(x1 - across, 0), max(y1 - down, 0)
        right, bottom = min(x2 + across, image_width), min(y2 + down, image_height)
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
        """Return the window of a depth image at the working size, without mixing depths."""
        window = depth[self.top : self.bottom, self.left : self.right]
        size = (self.width, self.height)
        return np.asarray(cv2.resize(window, size, interpolation=cv2.INTER_NEAREST), np.float32)

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Return where a pixel of the image is at the working size, as (column, row)."""
        column = (x + 0.5 - self.left) * self.width / (self.right - self.left)
        row = (y + 0.5 - self.top) * self.height / (self.bottom - self.top)
        return math.floor(column), math.floor(row)

    def inner(self, box: Box) -> tuple[slice, slice]:
        """Index (rows, columns) of a box at the working size, at least one pixel."""
        left, top = self.place(box[0], box[1])
        right, bottom = self.place(box[2] - 1, box[3] - 1)
        return slice(top, max(bottom, top) + 1), slice(left, max(right, left) + 1)

    def places(self, points: Iterable[Point]) -> list[tuple[int, int]]:
        """Return where those points that lie in the window are at the working size."""
        placed = (self.place(x, y) for x, y in points)
        return [
            (column, row)
            for column, row in placed
            if 0 <= column < self.width and 0 <= row < self.height
        ]

    def grow(self, small: Mask, box: Box) -> Mask:
        """Return what lies in the box of a mask at the working size, in pixels of the image."""
        size = (self.right - self.left, self.bottom - self.top)
        window = cv2.resize(small.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        x1, y1, x2, y2 = (int(value) for value in box)
        inside: Mask = window[y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left]
        return inside


def first_guess(
    small: NDArray[np.uint8], crop: Crop, box: Box, points: tuple[Point, ...], others: list[Point]
) -> NDArray[np.uint8]:
    """Return GrabCut's labels to start from.

    Args:
        small: (height, width, 3) uint8 Lab, the crop at its working size.
        crop: where it is.
        box: the object's box.
        points: inside the object.
        others: inside other objects.

    Returns:
        (height, width) uint8 of GC_BGD, GC_FGD, GC_PR_BGD and GC_PR_FGD.
    """
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    inner = crop.inner(box)
    labels[inner] = np.where(looks_like_surroundings(small, inner), cv2.GC_PR_BGD, cv2.GC_PR_FGD)[
        inner
    ]
    mark(labels, crop, others, cv2.GC_BGD)
    mark(labels, crop, points, cv2.GC_FGD)
    return labels


def heed_depth(
    labels: NDArray[np.uint8], depth: DepthImage, crop: Crop, found: GroundedObject
) -> None:
    """Put what depth says into GrabCut's labels; points keep theirs.

    Args:
        labels: (height, width) uint8, changed in place.
        depth: (height, width) metres at the crop's working size.
        crop: where it is.
        found: the object.
    """
    layers = depth_layers(depth, crop.inner(found.box), crop.places(found.points))
    if layers is None:
        return
    open_to_depth = (labels == cv2.GC_PR_BGD) | (labels == cv2.GC_PR_FGD)
    for layer, label in (
        (OBJECT, cv2.GC_FGD),
        (PROBABLY_OBJECT, cv2.GC_PR_FGD),
        (BACKGROUND, cv2.GC_BGD),
    ):
        labels[open_to_depth & (layers == layer)] = label


def looks_like_surroundings(small: NDArray[np.uint8], inner: tuple[slice, slice]) -> Mask:
    """Return which pixels have colours that are commoner outside a box than in its middle.

    Args:
        small: (height, width, 3) uint8 Lab.
        inner: the box's (rows, columns).

    Returns:
        (height, width) bool.
    """
    rows, columns = inner
    outside = np.ones(small.shape[:2], np.uint8)
    outside[inner] = 0
    middle = np.zeros(small.shape[:2], np.uint8)
    centre = ((columns.start + columns.stop) // 2, (rows.start + rows.stop) // 2)
    axes = (
        max(1, round(MIDDLE * (columns.stop - columns.start))),
        max(1, round(MIDDLE * (rows.stop - rows.start))),
    )
    cv2.ellipse(middle, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    likelihoods = []
    for where in (outside, middle):
        histogram = cv2.calcHist([small], [0, 1, 2], where, BINS, [0, 256] * 3)
        likelihoods.append(histogram / max(1, int(where.sum())))
    likelier_outside: Mask = likelihoods[0] > BACKGROUND_ODDS * likelihoods[1] + 1e-6
    first, second, third = (small[..., channel] >> 5 for channel in range(3))
    result: Mask = likelier_outside[first, second, third]
    return result


def main_part(mask: Mask, crop: Crop, points: tuple[Point, ...], others: list[Point]) -> Mask:
    """Return the parts of an object, joined across stripes and small gaps.

    These are the parts that hold one of its points, and large ones that hold no other object's.
    """
    gap = max(3, 2 * round(GAP_SHARE * min(crop.width, crop.height)) + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    # Around other objects' points the cut has left holes, which belong to what is around them.
    filled = joined.copy()
    mark(filled, crop, others, 1)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(filled, connectivity=4)
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.zeros(count, np.bool_)
    kept[1:] = areas >= PART_SHARE * areas.max()
    kept[list(parts_at(parts, crop, others))] = False
    kept[list(parts_at(parts, crop, points))] = True
    result: Mask = kept[parts] & joined.astype(np.bool_)
    return result


def mark(labels: NDArray[np.uint8], crop: Crop, points: Iterable[Point], value: int) -> None:
    """Set a small disc around each point that lies in the crop."""
    radius = max(1, round(POINT_SHARE * min(crop.width, crop.height)))
    for place in crop.places(points):
        cv2.circle(labels, place, radius, value, cv2.FILLED)


def parts_at(parts: NDArray[np.int32], crop: Crop, points: Iterable[Point]) -> set[int]:
    """Return the numbers of the parts that hold a point."""
    return {int(parts[row, column]) for column, row in crop.places(points)} - {0}
