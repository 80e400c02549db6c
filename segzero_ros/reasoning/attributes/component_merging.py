"""Decide whether two pieces above the supporting surface belong to one body.

Seen from above, a body's pieces overlap (a label, a lid), or touch without the surface showing
between them; the inside and the outside of a vessel share a rim, and a handle is next to its body.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.oversegmentation import (
    Array,
    Bytes,
    inward_distance,
    Labels,
    level,
    mean_colour,
    mean_of,
    Values,
)
from segzero_ros.reasoning.attributes.surface_fit import Surface
from segzero_ros.types import Mask

# Metres that a piece may extend beyond another's outline, seen from above, and still overlap it.
_MARGIN = 0.008


@dataclass(frozen=True, eq=False)
class MergedPieces:
    """The measures of some pieces together; lengths in metres.

    Attributes:
        hull: (N, 2) their convex outline from above.
        sample: (M, 2) some of their points from above.
        area: of the outline.
        top: height of their upper end.
        low: height of their lower end.
        rim: (K, 2) their points about as high as their upper end, from above.
        pixels: how many they are.
        lab: (3,) mean colour.
    """

    hull: Values
    sample: Values
    area: float
    top: float
    low: float
    rim: Values
    pixels: int
    lab: Array


class Pixels:
    """The pixels of all pieces, sorted by piece."""

    def __init__(self, pieces: Labels, count: int, lab: Bytes, surface: Surface) -> None:
        pixels = np.flatnonzero(pieces)
        numbers = pieces.ravel()[pixels]
        order = np.argsort(numbers, kind='stable')
        pixels = pixels[order]
        self._plan_points = surface.plan_points.reshape(-1, 2).take(pixels, axis=0)
        self._heights = surface.heights.ravel()[pixels]
        self._inner = _inner(pieces).ravel()[pixels]
        self._lab = lab.reshape(-1, 3).take(pixels, axis=0)
        self._starts = np.searchsorted(numbers[order], np.arange(count + 2))

    def merged(self, pieces: NDArray[np.intp]) -> MergedPieces:
        """Measure some pieces together."""
        starts = self._starts
        member = np.concatenate([np.arange(starts[piece], starts[piece + 1]) for piece in pieces])
        chosen = member[self._inner[member]]
        if len(chosen) < 12:
            chosen = member
        points, heights = self._plan_points.take(chosen, axis=0), self._heights[chosen]
        hull = np.asarray(cv2.convexHull(points)[:, 0], np.float32)
        top = level(heights, 0.95)
        return MergedPieces(
            hull,
            points[:: max(1, len(points) // 32)],
            max(float(cv2.contourArea(hull)), 1e-6),
            top,
            level(heights, 0.15),
            points[heights > top - max(0.006, 0.1 * top)],
            len(member),
            mean_colour(self._lab.take(chosen, axis=0)),
        )


def _inner(pieces: Labels) -> Mask:
    """Return the pixels inside their piece; at borders depth may belong to a neighbour."""
    same = np.zeros(pieces.shape, np.bool_)
    middle = pieces[1:-1, 1:-1]
    same[1:-1, 1:-1] = (
        (middle == pieces[:-2, 1:-1]) & (middle == pieces[2:, 1:-1])
        & (middle == pieces[1:-1, :-2]) & (middle == pieces[1:-1, 2:])
    )  # fmt: skip
    return same


def same_body_score(surface: Surface, one: MergedPieces, other: MergedPieces, gap: float) -> float:
    """Return the score that two neighbours are one body; 0 if they are not.

    Args:
        surface: the supporting surface.
        one: measures of the first.
        other: measures of the second.
        gap: share of their common border that is a depth gap.
    """
    if gap < 0.85:
        beyond = _outside(one.hull, other.sample), _outside(other.hull, one.sample)
        inside = max(mean_of(distance < _MARGIN) for distance in beyond)
        if inside > 0.75 and gap < 0.6:
            return 1.0 + inside
        touching = min(float(distance.min()) for distance in beyond) < 2 * _MARGIN
        if touching and _is_handle(one, other):
            return 1.0
    if gap >= 0.4:
        # Across a depth gap only the inside and the outside of one rim are merged.
        equally_high = abs(one.top - other.top) < 0.012
        return float(equally_high and _is_rim(np.concatenate([one.rim, other.rim])))
    corners = cv2.convexHull(np.concatenate([one.hull, other.hull]))
    both = np.asarray(corners[:, 0], np.float32)
    if _plane_between(surface, both, one.hull, other.hull) >= 0.12:
        return 0.0
    return min((one.area + other.area) / max(float(cv2.contourArea(both)), 1e-6), 0.99)


def _is_handle(one: MergedPieces, other: MergedPieces) -> bool:
    """Whether the smaller piece is beside the larger, of its colour, and off the surface."""
    small, large = (one, other) if one.pixels < other.pixels else (other, one)
    floats = small.low > max(0.011, 0.15 * small.top) and small.top < large.top + 0.01
    alike = float(np.hypot(*(small.lab - large.lab)[1:])) < 12
    return floats and alike and small.pixels < 0.4 * large.pixels


def _is_rim(points: Values) -> bool:
    """Whether points, seen from above, go around a circle."""
    centred = points - points.mean(axis=0)
    system = np.column_stack([2 * centred, np.ones(len(centred))])
    x, y, rest = np.linalg.lstsq(system, (centred**2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(rest + x * x + y * y, 1e-9)))
    offset = centred - (x, y)
    spread = float(np.std(np.hypot(offset[:, 0], offset[:, 1])))
    sectors = np.floor(np.arctan2(offset[:, 1], offset[:, 0]) / (np.pi / 4)).astype(int) % 8
    around = np.bincount(sectors, minlength=8) >= 2
    sides = int(around.sum())
    return (spread < 0.12 * radius and sides >= 6) or (spread < 0.17 * radius and sides == 8)


def _outside(hull: Values, points: Values) -> Values:
    """Return the approximate distance of (N, 2) points outside an outline, metres."""
    if len(hull) < 3:
        return np.asarray(np.linalg.norm(points[:, None] - hull[None], axis=2).min(axis=1))
    return np.asarray(-inward_distance(hull, points).min(axis=0))


def _plane_between(surface: Surface, both: Values, one: Values, other: Values) -> float:
    """Return the share of the area between two outlines in which the surface is visible."""
    corners = surface.to_pixels(both)
    k = surface.intrinsics
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (k.width, k.height)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, (k.width, k.height)).astype(int)
    if (high <= low).any():
        return 0.0
    between = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(between, [np.round(corners - low).astype(np.int32)], 1)
    for hull in (one, other):
        covered = np.zeros_like(between)
        cv2.fillPoly(covered, [np.round(surface.to_pixels(hull) - low).astype(np.int32)], 1)
        between[cv2.dilate(covered, np.ones((3, 3), np.uint8)) > 0] = 0
    total = int(between.sum())
    if total < 6:
        return 0.0
    bare = ~surface.above_surface[low[1] : high[1], low[0] : high[0]]
    return float((between[bare] > 0).sum() / total)
