"""First stage: fit the supporting surface (table or floor) in a depth image.

Works on every k-th pixel, so that the cost hardly depends on the image size. A plane in space is a
plane in inverse depth over the pixels (1/z = a·x + b·y + c), so it is fitted there, where stereo
and time-of-flight noise is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import median
from segzero_ros.types import DepthImage, Frame, Intrinsics, Mask

Array = NDArray[np.float64]
Values = NDArray[np.float32]

# Longest side of the working image, pixels.
MAX_WORKING_SIDE = 400

# Pixels sampled for RANSAC, how many of them rank the hypotheses, and how many hypotheses.
_SAMPLES = 2000
_RANKING = 500
_HYPOTHESES = 96
# Inlier tolerance relative to the inverse depth: 5 mm at 0.8 m for a table, else 1.2 cm for a
# floor seen by a stereo camera.
_INLIERS = (0.006, 0.015)
# Shares of the samples that must be inliers, and of the pixels that must have depth.
_MIN_INLIERS = 0.15
_MIN_VALID = 0.25


@dataclass(frozen=True, eq=False)
class Surface:
    """A supporting plane and the heights above it, on every `step`-th pixel.

    Attributes:
        step: source pixels per working pixel; working (x, y) is source (step·x, step·y) and on.
        heights: (h, w) metres above the plane; 0 where depth is unknown.
        smooth: (h, w) heights after a 5 × 5 median.
        near: (h, w) metres, the nearest depth of each working pixel, holes filled.
        noise: (h, w) metres, standard deviation of the heights of the plane itself.
        normal: (3,) unit, from the plane towards the camera, in the optical frame.
        distance: of the camera from the plane, metres.
        intrinsics: of the working image; assumed where the frame has none.
    """

    step: int
    heights: Values
    smooth: Values
    near: Values
    noise: Values
    normal: Array
    distance: float
    intrinsics: Intrinsics

    @cached_property
    def above_surface(self) -> Mask:
        """(h, w) pixels above the plane by more than the noise."""
        above = (self.smooth > np.maximum(0.0015, 3.2 * self.noise)) | (
            self.heights > np.maximum(0.012, 8.0 * self.noise)
        )
        return np.asarray(above)

    @cached_property
    def axes(self) -> Array:
        """The (2, 3) unit vectors that span the plane, the first along the image's rows."""
        across = np.array([1.0, 0.0, 0.0]) - self.normal[0] * self.normal
        across /= np.linalg.norm(across)
        return np.stack([across, np.cross(self.normal, across)])

    @cached_property
    def plan_points(self) -> Values:
        """(h, w, 2) metres of each working pixel along the two axes (see `plan`)."""
        return np.stack(self.plan(), axis=-1)

    def plan(self) -> tuple[Values, Values]:
        """Return each working pixel's (h, w) metres along the two axes, seen from above."""
        k = self.intrinsics
        x = (np.arange(k.width, dtype=np.float32) - np.float32(k.cx)) / np.float32(k.fx)
        y = (np.arange(k.height, dtype=np.float32)[:, None] - np.float32(k.cy)) / np.float32(k.fy)
        first, second = (
            (axis[0] * x + axis[1] * y + axis[2]) * self.near
            for axis in self.axes.astype(np.float32)
        )
        return first, second

    def to_pixels(self, plan: Values) -> Values:
        """Return (N, 2) working pixels of (N, 2) points of the plane itself."""
        k = self.intrinsics
        points = plan @ self.axes - self.distance * self.normal
        depth = np.maximum(points[:, 2], 1e-3)
        pixels = np.stack([points[:, 0] / depth * k.fx + k.cx, points[:, 1] / depth * k.fy + k.cy])
        return np.asarray(pixels.T, np.float32)


def working_step(height: int, width: int) -> int:
    """Return the source pixels per working pixel of an image of this size."""
    return max(1, math.ceil(max(height, width) / MAX_WORKING_SIDE))


def fit_surface(frame: Frame) -> Surface | None:
    """Fit the supporting plane; None without depth or without such a plane."""
    if frame.depth is None:
        return None
    step = working_step(frame.height, frame.width)
    nearest, mean, known = _inverse_depth(frame.depth, step)
    if known.mean() < _MIN_VALID:
        return None
    height, width = known.shape
    intrinsics = _working_intrinsics(frame, step, height, width)
    plane = _fit(mean, known & (nearest - mean < 0.01 * nearest), intrinsics)
    if plane is None:
        return None
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    expected = (plane[0] * x + plane[1] * y + plane[2]).astype(np.float32)
    scaled = _metric(plane, intrinsics)
    distance = 1.0 / float(np.linalg.norm(scaled))
    smooth = cv2.medianBlur(np.where(known, mean, expected).astype(np.float32), 3)
    ratio = np.asarray(expected / np.maximum(smooth, 1e-6), np.float32)
    heights = np.float32(distance) * (1 - ratio)
    depth = np.asarray(1.0 / np.maximum(_filled(nearest, known, expected), 1e-6), np.float32)
    steady = np.asarray(cv2.medianBlur(heights, 5), np.float32)
    noise = _noise(steady, depth)
    return Surface(step, heights, steady, depth, noise, -scaled * distance, distance, intrinsics)


def _inverse_depth(depth: DepthImage, step: int) -> tuple[Values, Values, Mask]:
    """Return the largest and the mean of 1/z in each block of step × step, and where there is any.

    Between a near and a far surface, sensors report points that are on neither; the largest
    value of a block lies on the near one.
    """
    height, width = depth.shape[0] // step, depth.shape[1] // step
    offsets = range(step) if step < 3 else (step // 3, 2 * step // 3)
    blocks = np.stack([
        depth[row : height * step : step, column : width * step : step]
        for row in offsets
        for column in offsets
    ])  # fmt: skip
    known = np.isfinite(blocks) & (blocks > 0)
    with np.errstate(divide='ignore'):
        inverse = np.float32(1) / blocks
    np.copyto(inverse, 0, where=~known)
    count = known.sum(axis=0, dtype=np.uint8)
    mean = inverse.sum(axis=0) / np.maximum(count, 1).astype(np.float32)
    return reduce(np.maximum, inverse), mean, count > 0


def _working_intrinsics(frame: Frame, step: int, height: int, width: int) -> Intrinsics:
    k = frame.intrinsics
    if k is None:
        # Assume a horizontal field of view of about 60 degrees.
        focal = 0.9 * max(height, width)
        return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
    shift = (step - 1) / 2
    return Intrinsics(
        k.fx / step, k.fy / step, (k.cx - shift) / step, (k.cy - shift) / step, width, height
    )


def _metric(plane: Array, k: Intrinsics) -> Array:
    """Return the vector n with n · point = 1 for points of the plane, in metres.

    Args:
        plane: (3,) or (N, 3), as `_fit` returns it.
        k: intrinsics of the working image.
    """
    a, b, c = plane.T
    return np.stack([a * k.fx, b * k.fy, a * k.cx + b * k.cy + c], axis=-1)


def _fit(inverse: Values, usable: Mask, k: Intrinsics) -> Array | None:
    """Return (a, b, c) of the supporting plane by RANSAC with a fixed seed."""
    pixels = np.flatnonzero(usable)
    if len(pixels) < 100:
        return None
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(pixels), min(_SAMPLES, len(pixels)), replace=False)
    rows, columns = np.divmod(pixels[chosen], usable.shape[1])
    x, y = columns.astype(np.float64), rows.astype(np.float64)
    values = inverse[rows, columns].astype(np.float64)
    planes = _hypotheses(rng, x, y, values, 0.002 * usable.size)
    for tolerance in _INLIERS:
        plane = _best_plane(planes, x, y, values, k, tolerance)
        if plane is not None:
            return plane
    return None


def _best_plane(
    planes: Array, x: Array, y: Array, values: Array, k: Intrinsics, tolerance: float
) -> Array | None:
    """Return the best hypothesis, refined on its inliers; None if there are too few."""
    # Some samples rank the hypotheses; all samples refine the best one.
    few = slice(0, _RANKING)
    expected = planes[:, :1] * x[few] + planes[:, 1:2] * y[few] + planes[:, 2:]
    inliers = (np.abs(expected - values[few]) < tolerance * values[few]).sum(axis=1)
    scaled = _metric(planes, k)
    facing_up = scaled[:, 1] / np.maximum(np.linalg.norm(scaled, axis=1), 1e-9)
    # A supporting plane faces up in the image; a wall is the second choice.
    weights = np.where(facing_up > 0.25, 1.5, np.where(facing_up > -0.1, 1.0, 0.2))
    plane = planes[int((inliers * weights).argmax())]
    for share in (1.0, 0.7, 0.5):
        close = (
            np.abs(plane[0] * x + plane[1] * y + plane[2] - values) < share * tolerance * values
        )
        if close.mean() < _MIN_INLIERS * share:
            return None
        basis = np.stack([x[close], y[close], np.ones(int(close.sum()))])
        plane = np.linalg.solve(basis @ basis.T, basis @ values[close])
    return np.asarray(plane)


def _hypotheses(
    rng: np.random.Generator, x: Array, y: Array, values: Array, least_area: float
) -> Array:
    """Return (N, 3) planes through three samples each; nearly collinear ones are dropped."""
    i, j, k = rng.integers(0, len(x), (3, _HYPOTHESES))
    x1, y1, v1 = x[j] - x[i], y[j] - y[i], values[j] - values[i]
    x2, y2, v2 = x[k] - x[i], y[k] - y[i], values[k] - values[i]
    twice_area = x1 * y2 - x2 * y1
    wide = np.abs(twice_area) > least_area
    area = np.where(wide, twice_area, 1.0)
    a, b = (v1 * y2 - v2 * y1) / area, (x1 * v2 - x2 * v1) / area
    planes = np.stack([a, b, values[i] - a * x[i] - b * y[i]], axis=1)
    return np.asarray(planes[wide]) if wide.any() else np.zeros((1, 3))


def _filled(nearest: Values, known: Mask, expected: Values) -> Values:
    """Return the near inverse depth; holes are filled from neighbours, else from the plane."""
    around = cv2.dilate(np.where(known, nearest, np.float32(0)), np.ones((3, 3), np.uint8))
    plane = np.maximum(expected, np.float32(1e-3))
    filled = np.where(known, nearest, np.where(around > 0, around, plane))
    return np.asarray(cv2.medianBlur(filled.astype(np.float32), 3))


def _noise(smooth: Values, depth: Values) -> Values:
    """Return the standard deviation of heights on the plane; it grows with depth squared."""
    away, square = np.abs(smooth), depth * depth
    on_plane = np.flatnonzero(away < 0.0125 * np.maximum(square, 0.8))
    if not len(on_plane):
        return np.zeros_like(smooth)
    spread = 1.4826 * float(median(away.take(on_plane) / square.take(on_plane)))
    return np.asarray(np.float32(spread) * square)
