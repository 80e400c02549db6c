"""The things in a frame, each with what can be said of it. Imports `tabletop`, NumPy and OpenCV.

With depth and a plane under things, these are the things that stand on it (`standing`); otherwise
patches of colour that differ from what is around them (`patches`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.colours import ColourSummary, name_pixels, summarise
from segzero_ros.reasoning.attributes.fragments import Bytes, Labels
from segzero_ros.reasoning.attributes.patches import coloured_patches
from segzero_ros.reasoning.attributes.shapes import measure_body, measure_outline, Shape
from segzero_ros.reasoning.attributes.standing import standing_things
from segzero_ros.tabletop import find_support, Support, Values, working_step
from segzero_ros.types import Box, Frame, Mask, Point

# Of the picture: what is smaller is a crumb or noise.
_LEAST_SHARE = 0.0008

Checkpoint = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Region:
    """A thing, or what looks like one. Eq by identity.

    Attributes:
        mask: (h, w) bool, cropped to the region, on the working image.
        corner: column and row of that crop in the working image.
        step: source pixels per working pixel.
        centre: mean of its pixels, as shares of the picture's width and height.
        area: share of the picture's pixels.
        colour: what its pixels say.
        shape: outline and body.
        distance: from the camera to its middle, metres; NaN without depth.
        place: (3,) its middle in the optical frame, metres; NaN without depth.
    """

    mask: Mask
    corner: tuple[int, int]
    step: int
    centre: tuple[float, float]
    area: float
    colour: ColourSummary
    shape: Shape
    distance: float
    place: NDArray[np.float64]

    @property
    def box(self) -> Box:
        """Its box in source pixels."""
        x, y = self.corner
        height, width = self.mask.shape
        return (
            float(x * self.step),
            float(y * self.step),
            float((x + width) * self.step),
            float((y + height) * self.step),
        )

    @cached_property
    def point(self) -> Point:
        """The source pixel deepest inside it."""
        padded = np.pad(self.mask.astype(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        middle = (self.step - 1) / 2
        return (
            float((int(column) - 1 + self.corner[0]) * self.step + middle),
            float((int(row) - 1 + self.corner[1]) * self.step + middle),
        )


@dataclass(frozen=True, eq=False)
class View:
    """A frame's things.

    Attributes:
        regions: from left to right.
        aspect: height of the picture over its width.
        has_depth: whether distances are known.
        standing: whether these are things that stand on a plane, found by depth.
    """

    regions: tuple[Region, ...]
    aspect: float
    has_depth: bool
    standing: bool


def look(frame: Frame, checkpoint: Checkpoint) -> View:
    """Find the things in a frame.

    Args:
        frame: colour, and depth where there is one.
        checkpoint: called between steps; raises to stop.
    """
    step = working_step(frame.height, frame.width)
    height, width = frame.height // step, frame.width // step
    source = frame.image[: height * step, : width * step]
    rgb = np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    lab = np.asarray(cv2.medianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), 3), np.uint8)
    checkpoint()
    support = find_support(frame)
    checkpoint()
    labels = standing_things(support, lab) if support else coloured_patches(lab)
    checkpoint()
    regions = _describe(labels, rgb, lab, frame, support, step)
    checkpoint()
    return View(
        tuple(sorted(regions, key=lambda region: region.centre[0])),
        frame.height / frame.width,
        frame.depth is not None,
        support is not None,
    )


def _describe(
    labels: Labels, rgb: Bytes, lab: Bytes, frame: Frame, support: Support | None, step: int
) -> list[Region]:
    names = name_pixels(rgb)
    plan = np.stack(support.plan(), axis=-1) if support else None
    points = _Points(frame, labels.shape, step)
    height, width = labels.shape
    regions = []
    for number, window in windows(labels):
        mask = labels[window] == number
        area = int(mask.sum())
        if area < _LEAST_SHARE * labels.size:
            continue
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
        body = None
        if support is not None and plan is not None:
            heights = support.heights[window][mask]
            body = measure_body(plan[window][mask], heights, inner[mask])
        core = inner if inner.sum() >= 20 else mask
        rows, columns = np.nonzero(mask)
        top, left = window[0].start, window[1].start
        place = points.middle(window, core)
        regions.append(
            Region(
                mask,
                (left, top),
                step,
                ((left + columns.mean() + 0.5) / width, (top + rows.mean() + 0.5) / height),
                area / labels.size,
                summarise(names[window][core], rgb[window][core], lab[window][core]),
                Shape(measure_outline(mask), body),
                float(np.linalg.norm(place)),
                place,
            )
        )
    return regions


def windows(labels: Labels) -> list[tuple[int, tuple[slice, slice]]]:
    """Return each label above 0 with the rows and columns that hold it."""
    rows, columns = np.nonzero(labels)
    numbers = labels[rows, columns]
    count = int(labels.max()) + 1
    low = np.full((2, count), labels.size)
    high = np.zeros((2, count), np.int64)
    for axis, values in enumerate((rows, columns)):
        np.minimum.at(low[axis], numbers, values)
        np.maximum.at(high[axis], numbers, values + 1)
    present = np.flatnonzero(high[0])
    return [
        (int(n), (slice(int(low[0, n]), int(high[0, n])), slice(int(low[1, n]), int(high[1, n]))))
        for n in present
    ]


class _Points:
    """Where pixels of the working image are in space."""

    def __init__(self, frame: Frame, shape: tuple[int, ...], step: int) -> None:
        self._frame = frame
        self._step = step
        self._depth: Values | None = None
        if frame.depth is not None:
            self._depth = frame.depth[step // 2 :: step, step // 2 :: step][: shape[0], : shape[1]]

    def middle(self, window: tuple[slice, slice], chosen: Mask) -> NDArray[np.float64]:
        """Return (3,) the middle of a region's pixels in the optical frame; NaN if unknown.

        Without intrinsics x and y are 0: then only distances are known, not directions.
        """
        unknown = np.full(3, np.nan)
        if self._depth is None:
            return unknown
        depth = self._depth[window][chosen]
        known = np.isfinite(depth)
        if known.sum() < 5:
            return unknown
        z = float(np.median(depth[known]))
        k = self._frame.intrinsics
        if k is None:
            return np.array([0.0, 0.0, z])
        rows, columns = np.nonzero(chosen)
        column = (columns.mean() + window[1].start) * self._step + (self._step - 1) / 2
        row = (rows.mean() + window[0].start) * self._step + (self._step - 1) / 2
        return np.array([(column - k.cx) / k.fx * z, (row - k.cy) / k.fy * z, z])
