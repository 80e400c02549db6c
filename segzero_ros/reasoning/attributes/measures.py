"""Positions, relations and measures of regions.

Everything is measured in the image, in shares of its sides, except for bodies and distances, which
are in metres.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np

from segzero_ros.reasoning.attributes.regions import Region, View
from segzero_ros.reasoning.attributes.shapes import down, up


def position_fit(region: Region, name: str) -> float:
    """Return how well an image position fits, 0 to 1.

    Args:
        region: the region.
        name: such as `left`, `top right`, `centre`, `corner`.
    """
    x, y = region.centre
    sides = name.removesuffix(' edge')
    if name in ('front', 'back'):
        return up(y, 0.4, 0.7) if name == 'front' else down(y, 0.3, 0.6)
    if name == 'corner':
        return min(
            max(_side(x, 'left'), _side(x, 'right')), max(_side(y, 'top'), _side(y, 'bottom'))
        )
    if name == 'centre':
        return down(max(abs(x - 0.5), abs(y - 0.5)), 0.08, 0.3)
    if name == 'edge':
        return max(_side(x, 'left'), _side(x, 'right'), _side(y, 'top'), _side(y, 'bottom'))
    fits = [_side(x if side in ('left', 'right') else y, side) for side in sides.split()]
    return min(fits)


def _side(value: float, side: str) -> float:
    share = value if side in ('left', 'top') else 1.0 - value
    return down(share, 0.3, 0.56)


def _beside(region: Region, anchor: Region, view: View, axis: int, sign: float) -> float:
    """Return how well a region is on one side of another in the image."""
    offset = (
        region.centre[0] - anchor.centre[0],
        (region.centre[1] - anchor.centre[1]) * view.aspect,
    )
    along, across = sign * offset[axis], abs(offset[1 - axis])
    if along < 0.035:
        return 0.0
    slope = along / max(across, 1e-6)
    # Prefer the one that is most directly in that direction.
    return up(along, 0.0, 0.07) * (0.9 * up(slope, 0.0, 0.6) + 0.1 * up(slope, 0.6, 3.0))


def apart(region: Region, anchor: Region, view: View) -> float:
    """Return the distance of two regions, in shares of the image's width."""
    flat = math.hypot(
        region.centre[0] - anchor.centre[0], (region.centre[1] - anchor.centre[1]) * view.aspect
    )
    deep = float(np.linalg.norm(region.position - anchor.position))
    if not math.isfinite(deep):
        return flat
    # The image is about as wide as the anchor is far.
    return 0.5 * (flat + deep / max(anchor.distance, 1e-3))


def between(region: Region, one: Region, other: Region, view: View) -> float:
    """Return how well a region lies between two others in the image."""
    stretch = np.array([1.0, view.aspect])
    start, end, at = (np.array(item.centre) * stretch for item in (one, other, region))
    line = end - start
    length = max(float(np.linalg.norm(line)), 1e-6)
    along = float((at - start) @ line) / length**2
    across = abs(float((at - start)[0] * line[1] - (at - start)[1] * line[0])) / length**2
    inside = min(up(along, 0.0, 0.22), up(1.0 - along, 0.0, 0.22))
    return inside * down(across, 0.2, 0.6)


def _touching(region: Region, anchor: Region, view: View) -> float:
    """Return whether a region is on or in another: its centre is within the other's box."""
    x1, y1, x2, y2 = anchor.box
    x, y = region.point
    del view
    return float(x1 <= x <= x2 and y1 - 0.35 * (y2 - y1) <= y <= y2 and region.area < anchor.area)


def _in_front(region: Region, anchor: Region, view: View) -> float:
    return _beside(region, anchor, view, 1, 1.0)


def _behind(region: Region, anchor: Region, view: View) -> float:
    return _beside(region, anchor, view, 1, -1.0)


RELATIONS: dict[str, Callable[[Region, Region, View], float]] = {
    'left_of': lambda region, anchor, view: _beside(region, anchor, view, 0, -1.0),
    'right_of': lambda region, anchor, view: _beside(region, anchor, view, 0, 1.0),
    'above': _behind,
    'below': _in_front,
    'behind': _behind,
    'in_front': _in_front,
    'on': _touching,
    'in': _touching,
    'larger': lambda region, anchor, view: up(region.area / anchor.area, 1.0, 1.3),
    'smaller': lambda region, anchor, view: up(anchor.area / region.area, 1.0, 1.3),
    'same_colour': lambda region, anchor, view: region.colour.fit(anchor.colour.name),
    'between': lambda region, anchor, view: 0.0,
}


def _length(region: Region) -> float:
    body = region.shape.body
    if body is not None:
        return max(body.length, body.height)
    return math.sqrt(region.area * region.shape.outline.elongation)


def _height(region: Region) -> float:
    body = region.shape.body
    return body.height if body is not None else float(region.mask.shape[0])


def _thickness(region: Region) -> float:
    body = region.shape.body
    if body is not None:
        return min(body.width, body.height)
    return math.sqrt(region.area / region.shape.outline.elongation)


def _flatness(region: Region) -> float:
    body = region.shape.body
    return -body.slimness if body is not None else -region.shape.outline.upright


MEASURES: dict[str, Callable[[Region], float]] = {
    'x': lambda region: region.centre[0],
    'y': lambda region: region.centre[1],
    'size': lambda region: region.area,
    'depth': lambda region: region.distance,
    'length': _length,
    'height': _height,
    'thickness': _thickness,
    'roundness': lambda region: region.shape.outline.circularity * region.shape.outline.ellipse,
    'flatness': _flatness,
    'brightness': lambda region: region.colour.lightness,
    'centrality': lambda region: -math.hypot(region.centre[0] - 0.5, region.centre[1] - 0.5),
}
