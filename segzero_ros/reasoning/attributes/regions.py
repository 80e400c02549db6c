"""Third stage: the regions of a frame, each with its measured colour, shape and position.

With depth and a supporting surface, regions are the components on it (`components_with_depth`);
otherwise patches whose colour differs from their surroundings (`components_from_colour`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import median
from segzero_ros.reasoning.attributes.colours import (
    classify_pixels,
    ColourSummary,
    NAMES,
    summarise,
)
from segzero_ros.reasoning.attributes.components_from_colour import components_from_colour
from segzero_ros.reasoning.attributes.components_with_depth import components_on_surface
from segzero_ros.reasoning.attributes.oversegmentation import Bytes, Labels, mean_of
from segzero_ros.reasoning.attributes.shapes import measure_body, measure_outline, Shape
from segzero_ros.reasoning.attributes.surface_fit import (
    fit_surface,
    Surface,
    Values,
    working_step,
)
from segzero_ros.types import Box, Frame, Mask, Point

# Share of the image below which a component is a crumb or noise.
_MIN_SHARE = 0.0008

CheckCancelled = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Region:
    """A thing, or what looks like one; compared by identity.

    Attributes:
        mask: (h, w) bool, cropped to the region, on the working image.
        corner: column and row of that crop in the working image.
        step: source pixels per working pixel.
        centre: mean of its pixels, as shares of the image's width and height.
        area: share of the image's pixels.
        colour: summary of its pixels' colours.
        shape: outline and body.
        distance: from the camera to its middle, metres; NaN without depth.
        position: (3,) its middle in the optical frame, metres; NaN without depth.
    """

    mask: Mask
    corner: tuple[int, int]
    step: int
    centre: tuple[float, float]
    area: float
    colour: ColourSummary
    shape: Shape
    distance: float
    position: NDArray[np.float64]

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
        # Of the deepest pixels of a bar or a ring, the one nearest to the middle.
        rows, columns = np.nonzero(depth >= 0.97 * depth.max())
        away = np.hypot(rows - rows.mean(), columns - columns.mean())
        row, column = rows[away.argmin()], columns[away.argmin()]
        middle = (self.step - 1) / 2
        return (
            float((int(column) - 1 + self.corner[0]) * self.step + middle),
            float((int(row) - 1 + self.corner[1]) * self.step + middle),
        )


@dataclass(frozen=True, eq=False)
class WorkingImages:
    """The downscaled images of a frame, all (h, w) or (h, w, 3).

    Attributes:
        frame: the frame.
        rgb: uint8.
        lab: uint8, OpenCV's Lab.
        names: uint8, each pixel's colour as an index into NAMES.
        labels: int32, the thing that each pixel belongs to.
        surface: the plane under things, where depth shows one.
        step: source pixels per working pixel.
    """

    frame: Frame
    rgb: Bytes
    lab: Bytes
    names: Bytes
    labels: Labels
    surface: Surface | None
    step: int


@dataclass(frozen=True, eq=False)
class View:
    """A frame's things.

    Attributes:
        regions: from left to right.
        aspect: height of the image over its width.
        has_depth: whether distances are known.
        on_surface: whether they are things on a supporting surface, found by depth.
        working: the images in which the regions were measured.
    """

    regions: tuple[Region, ...]
    aspect: float
    has_depth: bool
    on_surface: bool
    working: WorkingImages

    def parts(self, colour: str) -> tuple[Region, ...]:
        """Return the parts of things that have a colour: a white rim, for example."""
        name = NAMES.index(colour.rpartition(' ')[2]) if colour.rpartition(' ')[2] in NAMES else -1
        names = cv2.medianBlur(self.working.names, 5)
        coloured = ((names == name) & (self.working.labels > 0)).astype(np.uint8)
        coloured = cv2.morphologyEx(coloured, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, labels = cv2.connectedComponents(coloured, connectivity=4, ltype=cv2.CV_32S)
        found = describe(np.asarray(labels, np.int32), self.working)
        return tuple(region for region in found if region.colour.fit(colour) >= 0.5)


def find_regions(frame: Frame, checkpoint: CheckCancelled) -> View:
    """Find the things in a frame.

    Args:
        frame: colour, and depth where there is one.
        checkpoint: called between steps; raises to cancel.
    """
    step = min(working_step(frame.height, frame.width), frame.height, frame.width)
    height, width = frame.height // step, frame.width // step
    source = frame.image[: height * step, : width * step]
    rgb = np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    lab = np.asarray(cv2.medianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), 3), np.uint8)
    checkpoint()
    surface = fit_surface(frame)
    checkpoint()
    labels = components_on_surface(surface, lab) if surface else components_from_colour(lab)
    checkpoint()
    working = WorkingImages(frame, rgb, lab, classify_pixels(rgb), labels, surface, step)
    regions = describe(labels, working)
    checkpoint()
    return View(
        tuple(sorted(regions, key=lambda region: region.centre[0])),
        frame.height / frame.width,
        frame.depth is not None,
        surface is not None,
        working,
    )


def describe(labels: Labels, working: WorkingImages) -> list[Region]:
    """Return a region for each label above 0 that is not too small.

    Args:
        labels: (h, w) int32.
        working: the images to measure in.
    """
    points = _Points(working.frame, labels.shape, working.step)
    height, width = labels.shape
    surface = working.surface
    regions = []
    for number, window in windows(labels):
        mask = labels[window] == number
        area = int(np.count_nonzero(mask))
        if area < _MIN_SHARE * labels.size:
            continue
        top, left = window[0].start, window[1].start
        rows, columns = _nonzero(mask)
        # Its pixels' flat indices in the working images.
        pixels = (rows + top) * width + (columns + left)
        eroded = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
        inner = eroded[rows, columns] > 0
        body = None
        if surface is not None:
            heights = surface.heights.ravel()[pixels]
            body = measure_body(_pick(surface.plan_points, pixels), heights, inner)
        core = np.flatnonzero(inner)
        if len(core) < 20:
            core = np.arange(area)
        position = points.middle(window, rows[core], columns[core])
        inside = pixels[core]
        colour = summarise(
            working.names.ravel()[inside], _pick(working.rgb, inside), _pick(working.lab, inside)
        )
        regions.append(
            Region(
                mask,
                (left, top),
                working.step,
                ((left + mean_of(columns) + 0.5) / width, (top + mean_of(rows) + 0.5) / height),
                area / labels.size,
                colour,
                Shape(measure_outline(mask), body),
                float(np.linalg.norm(position)),
                position,
            )
        )
    return regions


def _nonzero(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the same as `np.nonzero`, faster."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def _pick(image: NDArray[Any], pixels: NDArray[np.intp]) -> NDArray[Any]:
    """Return the (N, C) values of pixels, by flat index, of an (h, w, C) image."""
    return image.reshape(-1, image.shape[2]).take(pixels, axis=0)


def windows(labels: Labels) -> list[tuple[int, tuple[slice, slice]]]:
    """Return each label above 0 with the rows and columns that hold it."""
    rows, columns = _nonzero(labels > 0)
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
    """3-D points of working pixels."""

    def __init__(self, frame: Frame, shape: tuple[int, ...], step: int) -> None:
        self._frame = frame
        self._step = step
        self._depth: Values | None = None
        if frame.depth is not None:
            self._depth = frame.depth[step // 2 :: step, step // 2 :: step][: shape[0], : shape[1]]

    def middle(
        self, window: tuple[slice, slice], rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Return (3,) the middle of a region's pixels in the optical frame; NaN if unknown.

        Without intrinsics x and y are 0: then only distances are known, not directions.

        Args:
            window: rows and columns of the working image that hold the region.
            rows: (N,) of the pixels, in that window.
            columns: (N,) of them, there.
        """
        unknown = np.full(3, np.nan)
        if self._depth is None:
            return unknown
        depth = self._depth[window][rows, columns]
        depth = depth[np.isfinite(depth)]
        if len(depth) < 5:
            return unknown
        z = float(median(depth))
        k = self._frame.intrinsics
        if k is None:
            return np.array([0.0, 0.0, z])
        column = (mean_of(columns) + window[1].start) * self._step + (self._step - 1) / 2
        row = (mean_of(rows) + window[0].start) * self._step + (self._step - 1) / 2
        return np.array([(column - k.cx) / k.fx * z, (row - k.cy) / k.fy * z, z])
