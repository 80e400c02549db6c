"""Fourth stage: measure a region's outline and, with depth, its body, and classify the shape.

Outlines are in pixels of the working image. Bodies are in metres: heights above the supporting
surface, and positions seen from above. The thresholds were tuned on generated scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import quantile
from segzero_ros.reasoning.attributes.oversegmentation import (
    inward_distance,
    level,
    mean_of,
    Values,
)
from segzero_ros.types import Mask

# Slices along an outline, at whose borders its width is measured.
_SLICES = 5


@dataclass(frozen=True)
class Outline:
    """A region's border in the image.

    Attributes:
        elongation: length of its smallest rectangle over that one's width.
        fill: share of that rectangle that it fills.
        solidity: share of its convex hull that it fills.
        circularity: 4π·area / perimeter² of its convex hull; 1 for a circle.
        ellipse: 1 for an ellipse, less for what has corners or arms (area over 4π√det of moments).
        upright: rows that it spans over columns that it spans.
        taper: width of its upper third over that of its lower third.
        waist: width of its upper quarter over its widest.
    """

    elongation: float
    fill: float
    solidity: float
    circularity: float
    ellipse: float
    upright: float
    taper: float
    waist: float


@dataclass(frozen=True)
class Body:
    """A body above the supporting surface, measured by depth; lengths in metres.

    Attributes:
        height: above the plane.
        length: of its smallest rectangle seen from above.
        width: of that rectangle.
        fill: share of that rectangle that its convex outline fills.
        widths: its width along the rows at four levels above the lowest fifth, bottom to top, over
            the largest of them.
        top_share: share of its pixels on its uppermost level.
        top_fill: share of the smallest rectangle around that level that the level's outline fills.
        top_area: area of that level's outline over that of the whole.
        top_length: of that level, metres.
        top_width: of that level, metres.
        hollow: share of what is inside that level's outline that lies deep below it.
    """

    height: float
    length: float
    width: float
    fill: float
    widths: tuple[float, ...]
    top_share: float
    top_fill: float
    top_area: float
    top_length: float
    top_width: float
    hollow: float

    @property
    def slimness(self) -> float:
        """Height over length: small for what is flat."""
        return self.height / max(self.length, 1e-3)

    @property
    def elongation(self) -> float:
        """Length over width, seen from above."""
        return self.length / max(self.width, 1e-3)

    @property
    def top_elongation(self) -> float:
        """Length over width of the uppermost level."""
        return self.top_length / max(self.top_width, 1e-6)


@dataclass(frozen=True)
class Shape:
    """A region's outline, and its body where there is depth."""

    outline: Outline
    body: Body | None

    def fit(self, kind: str) -> float:
        """Return how well an adjective or noun fits the shape, 0 to 1; from 0.5 on it matches."""
        if kind in _ADJECTIVES:
            return _ADJECTIVES[kind](self)
        return self.kinds.get(kind, 0.0)

    @cached_property
    def kinds(self) -> dict[str, float]:
        """The fit of each kind, relative to the best other kind."""
        if self.body is None:
            # Many kinds share an outline, so all that are about as likely fit.
            scores = _outline_kinds(self.outline)
            best = max(*scores.values(), 0.2)
            return {kind: score / best for kind, score in scores.items()}
        scores = _body_kinds(self.body, self.outline)
        ranked = sorted(scores.values(), reverse=True)
        fits = {}
        for kind, score in scores.items():
            rival = ranked[1] if score == ranked[0] else ranked[0]
            fits[kind] = score / (score + rival) * min(1.0, score / 0.1) if score > 0 else 0.0
        return fits

    @property
    def kind(self) -> str:
        """The kind that fits best, empty if none does."""
        kind, fit = max(self.kinds.items(), key=lambda item: item[1])
        return kind if fit > 0.5 else ''


def up(value: float, low: float, high: float) -> float:
    """Return 0 below `low`, 1 above `high`, and a straight line between."""
    share = (value - low) / (high - low)
    return 0.0 if share < 0.0 else 1.0 if share > 1.0 else share


def down(value: float, low: float, high: float) -> float:
    """Return 1 below `low`, 0 above `high`, and a straight line between."""
    return 1.0 - up(value, low, high)


def _circle(fill: float) -> float:
    """Whether an outline fills its rectangle as a circle does, by π/4."""
    return up(fill, 0.70, 0.75) * down(fill, 0.845, 0.885)


def _body_kinds(body: Body, outline: Outline) -> dict[str, float]:
    slim, long, top = body.slimness, body.elongation, body.top_area
    _, middle, high, highest = body.widths
    depth = body.height / max(body.top_length, 1e-3)
    lying = up(body.height, 0.0055, 0.0075) * down(long, 3.0, 4.0)
    full = up(body.top_share, 0.20, 0.27) * down(body.hollow, 0.08, 0.25)
    disc = max(
        up(body.hollow, 0.25, 0.5), _circle(body.top_fill) * up(outline.ellipse, 0.985, 0.993)
    )
    off_cone = min(
        max(abs(middle - 0.80), abs(high - 0.59), abs(highest - 0.38)),
        # A cone whose foot is occluded.
        max(abs(high - 0.74), abs(highest - 0.46)) if middle > 0.99 else 1.0,
    )
    return {
        'stick': up(long, 4.0, 6.0) * down(slim, 0.2, 0.35),
        'sheet': down(body.height, 0.0055, 0.0075) * down(long, 3.0, 4.0),
        'plate': down(slim, 0.15, 0.2) * _circle(body.fill) * down(long, 1.3, 1.6) * lying * disc,
        'book': down(slim, 0.31, 0.36) * up(max(body.fill, body.top_fill), 0.8, 0.88) * lying
        * down(body.hollow, 0.2, 0.4) * up(body.top_fill, 0.82, 0.88),
        'bowl': up(slim, 0.19, 0.24) * down(depth, 0.62, 0.72) * up(body.hollow, 0.5, 0.8)
        * down(long, 1.7, 2.1) * up(outline.solidity, 0.86, 0.9),
        'mug': up(slim, 0.34, 0.42) * up(depth, 0.62, 0.72) * up(body.top_share, 0.10, 0.14)
        * down(body.top_share, 0.25, 0.3) * up(top, 0.3, 0.4) * _circle(body.top_fill)
        * down(body.top_elongation, 1.35, 1.6) * down(slim, 1.5, 1.9),
        'can': up(slim, 0.33, 0.42) * full * _circle(body.top_fill)
        * down(body.top_elongation, 1.25, 1.5) * up(outline.elongation, 1.12, 1.25)
        * up(highest, 0.55, 0.68) * up(outline.solidity, 0.89, 0.93),
        'box': up(slim, 0.31, 0.36) * full * up(body.top_fill, 0.83, 0.89),
        'ball': up(slim, 0.4, 0.55) * up(outline.circularity, 0.9, 0.935) * up(top, 0.09, 0.13)
        * up(outline.ellipse, 0.945, 0.98) * down(outline.elongation, 1.15, 1.24)
        * down(top, 0.6, 0.7) * down(body.hollow, 0.25, 0.4) * down(body.top_fill, 0.84, 0.88),
        'cone': up(slim, 0.33, 0.42) * down(top, 0.09, 0.14) * down(off_cone, 0.12, 0.24),
        'bottle': up(slim, 0.8, 1.2) * down(top, 0.36, 0.45) * down(highest, 0.62, 0.75)
        * max(up(high, 0.64, 0.74) * up(top, 0.08, 0.12), up(slim, 1.7, 2.2)),
    }  # fmt: skip


def _outline_kinds(outline: Outline) -> dict[str, float]:
    """Return scores from the outline alone, for a table seen obliquely from above."""
    long, fill, solid, high = outline.elongation, outline.fill, outline.solidity, outline.upright
    oval, round_, taper, waist = outline.ellipse, outline.circularity, outline.taper, outline.waist
    smooth = up(oval, 0.978, 0.988) * up(solid, 0.93, 0.955)
    even = up(taper, 0.72, 0.85) * down(taper, 1.15, 1.3)
    return {
        'stick': up(long, 3.2, 4.0),
        'ball': smooth * down(long, 1.1, 1.17) * up(high, 0.86, 0.92) * down(high, 1.08, 1.16)
        * up(round_, 0.9, 0.925),
        'plate': up(oval, 0.985, 0.994) * up(solid, 0.93, 0.96) * down(high, 0.89, 0.94)
        * down(long, 2.6, 3.2) * even,
        'bowl': smooth * down(high, 0.97, 1.03) * down(long, 1.7, 2.0) * up(taper, 0.88, 0.98),
        'cone': down(taper, 0.6, 0.85) * down(waist, 0.45, 0.55) * up(solid, 0.9, 0.93)
        * up(high, 0.85, 0.95) * down(long, 1.8, 2.2),
        'bottle': up(high, 1.05, 1.2) * up(long, 1.35, 1.5) * down(waist, 0.66, 0.78)
        * up(solid, 0.87, 0.9) * down(long, 2.9, 3.4) * up(taper, 0.5, 0.6),
        'box': down(oval, 0.987, 0.994) * up(fill, 0.76, 0.8) * down(long, 1.7, 2.0)
        * up(high, 0.82, 0.92) * up(solid, 0.94, 0.955) * even * up(round_, 0.79, 0.82),
        'book': down(oval, 0.975, 0.985) * down(high, 0.98, 1.08) * up(fill, 0.7, 0.75)
        * down(long, 2.3, 2.8) * up(solid, 0.91, 0.94) * down(round_, 0.865, 0.89),
        'can': up(high, 1.05, 1.2) * up(long, 1.28, 1.4) * up(waist, 0.58, 0.68)
        * up(fill, 0.76, 0.79) * even * down(long, 1.9, 2.2),
        'mug': up(round_, 0.87, 0.895) * down(round_, 0.945, 0.955) * down(long, 1.4, 1.5)
        * up(high, 0.9, 0.97) * down(oval, 0.985, 0.99) * down(fill, 0.84, 0.87) * even,
    }  # fmt: skip


def _roundness(shape: Shape) -> float:
    if shape.body is None:
        outline = shape.outline
        oval = up(outline.ellipse, 0.96, 0.985) * up(outline.solidity, 0.9, 0.95)
        disc = up(outline.circularity, 0.93, 0.97) * up(outline.solidity, 0.93, 0.96)
        return max(oval * down(outline.elongation, 2.0, 2.6), disc)
    kinds = shape.kinds
    likely = max(kinds['ball'], 0.9 * max(kinds['plate'], kinds['bowl']))
    return max(likely, 0.6 * max(kinds[name] for name in ('can', 'mug', 'cone', 'bottle')))


def _rectangular(shape: Shape) -> float:
    if shape.body is None:
        return max(
            up(shape.outline.fill, 0.8, 0.9),
            max(shape.kinds[name] for name in ('box', 'book')),
        )
    return max(shape.kinds[name] for name in ('box', 'book', 'sheet'))


def _square(shape: Shape) -> float:
    body = shape.body
    long = body.elongation if body else shape.outline.elongation
    return _rectangular(shape) * down(long, 1.3, 1.6)


def _flatness(shape: Shape) -> float:
    if shape.body is None:
        return max(shape.kinds['plate'], shape.kinds['book'])
    return down(shape.body.slimness, 0.3, 0.4) * down(shape.body.elongation, 3.0, 9.0)


def _length(shape: Shape) -> float:
    if shape.body is None:
        return up(shape.outline.elongation, 1.8, 3.2)
    return up(max(shape.body.elongation, shape.body.slimness), 2.0, 4.0)


def _tallness(shape: Shape) -> float:
    if shape.body is None:
        return up(shape.outline.upright, 1.1, 1.9)
    return up(shape.body.slimness, 0.8, 1.6)


def _pointed(shape: Shape) -> float:
    if shape.body is None:
        outline = shape.outline
        corner = down(outline.fill, 0.62, 0.72) * up(outline.solidity, 0.88, 0.93)
        return max(shape.kinds['cone'], corner)
    return max(shape.kinds['cone'], 0.6 * shape.kinds['stick'])


def _cylindrical(shape: Shape) -> float:
    return max(shape.kinds['can'], 0.6 * max(shape.kinds['mug'], shape.kinds['bottle']))


_ADJECTIVES: dict[str, Callable[[Shape], float]] = {
    'round': _roundness,
    'spherical': lambda shape: shape.kinds['ball'],
    'rectangular': _rectangular,
    'square': _square,
    'flat': _flatness,
    'long': _length,
    'tall': _tallness,
    'short': lambda shape: 1.0 - _tallness(shape),
    'wide': lambda shape: 1.0 - _length(shape),
    'triangular': _pointed,
    'cylindrical': _cylindrical,
}


def measure_outline(mask: Mask) -> Outline:
    """Measure a region's (h, w) mask."""
    filled = mask.astype(np.uint8)
    borders, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = max(borders, key=cv2.contourArea)
    # Fill holes: enclosed regions (the print on a badge) are part of the outline.
    filled = np.asarray(
        cv2.drawContours(np.zeros_like(filled), [border], 0, 1, cv2.FILLED), np.uint8
    )
    # A contour runs through pixel centres: half a pixel all around is added to its area.
    hull = cv2.convexHull(border)
    perimeter = cv2.arcLength(hull, True)
    area = float(cv2.contourArea(border)) + 0.5 * cv2.arcLength(border, True) + 1.0
    hull_area = float(cv2.contourArea(hull)) + 0.5 * perimeter + 1.0
    _, sides, _ = cv2.minAreaRect(hull)
    long, short = max(sides) + 1.0, min(sides) + 1.0
    spans = filled.sum(axis=1, dtype=np.intp)
    spans = spans[spans > 0]
    height, width = len(spans), int(np.count_nonzero(filled.any(axis=0)))
    third, quarter = max(height // 3, 1), max(height // 4, 1)
    return Outline(
        elongation=long / short,
        fill=min(area / (long * short), 1.0),
        solidity=min(area / hull_area, 1.0),
        circularity=min(4 * np.pi * hull_area / (perimeter + 4.0) ** 2, 1.0),
        ellipse=_ellipse(filled),
        upright=height / max(width, 1),
        taper=mean_of(spans[:third]) / max(mean_of(spans[-third:]), 1.0),
        waist=mean_of(spans[:quarter]) / max(int(spans.max()), 1),
    )


def _ellipse(filled: NDArray[np.uint8]) -> float:
    moments = cv2.moments(filled, True)
    # The second moment of a unit square pixel is 1/12.
    xx = moments['mu20'] / moments['m00'] + 1 / 12
    yy = moments['mu02'] / moments['m00'] + 1 / 12
    xy = moments['mu11'] / moments['m00']
    spread = float(np.sqrt(max(xx * yy - xy * xy, 1e-9)))
    return min(moments['m00'] / (4 * np.pi * spread), 1.0)


def measure_body(plan_points: Values, heights: Values, inner: Mask) -> Body:
    """Measure a body above the supporting surface.

    Args:
        plan_points: (N, 2) metres of its pixels seen from above.
        heights: (N,) metres of its pixels above the plane.
        inner: (N,) pixels away from the region's border, where depth is surely its own.
    """
    chosen = inner if np.count_nonzero(inner) >= 20 else np.ones(len(heights), np.bool_)
    height = max(float(quantile(heights, 0.97)), 1e-3)
    seen, levels = plan_points.compress(chosen, axis=0), heights[chosen]
    hull = cv2.convexHull(seen)
    _, sides, _ = cv2.minAreaRect(hull)
    area = max(float(cv2.contourArea(hull)), 1e-8)
    across, share = seen[:, 0], levels / height
    widths = [_width_at(across, share, index) for index in range(1, _SLICES)]
    widest = max(*widths, 1e-6)
    top = levels > height - max(0.12 * height, 0.003)
    top_fill, top_area, top_sides, hollow = _top(seen, levels, top, height)
    return Body(
        height=height,
        length=max(sides),
        width=max(min(sides), 1e-3),
        fill=area / max(sides[0] * sides[1], 1e-8),
        widths=tuple(width / widest if width else 1.0 for width in widths),
        top_share=mean_of(top),
        top_fill=top_fill,
        top_area=top_area / area,
        top_length=max(top_sides),
        top_width=min(top_sides),
        hollow=hollow,
    )


def _width_at(across: Values, share: Values, index: int) -> float:
    chosen = across[(share >= index / _SLICES) & (share < (index + 1) / _SLICES)]
    if len(chosen) < 5:
        return 0.0
    return level(chosen, 0.97) - level(chosen, 0.03)


def _top(
    plan_points: Values, heights: Values, top: Mask, height: float
) -> tuple[float, float, tuple[float, float], float]:
    """Return fill, area and sides of the uppermost level, and how hollow it is."""
    if np.count_nonzero(top) < 5:
        return 0.0, 0.0, (0.0, 0.0), 0.0
    hull = np.asarray(cv2.convexHull(plan_points.compress(top, axis=0))[:, 0], np.float32)
    area = float(cv2.contourArea(hull))
    _, sides, _ = cv2.minAreaRect(hull)
    fill = area / max(sides[0] * sides[1], 1e-8)
    some = slice(None, None, max(1, len(plan_points) // 400))
    inside = inward_distance(hull, plan_points[some]).min(axis=0) > 0.004
    deep = heights[some] < height - max(0.25 * height, 0.004)
    hollow = mean_of(deep[inside]) if np.count_nonzero(inside) > 4 else 0.0
    return fill, area, (float(sides[0]), float(sides[1])), hollow
