"""Masks of the shapes in files of ReasonSeg, labelme and X-AnyLabeling.

Polygons are drawn as in LISA's published code: with their outline, coordinates truncated to
integers. Other shapes are drawn as in labelme.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask

TARGET, IGNORE = 1, 255
# A shape with a corner this many image sides away is an error.
_MAX_CORNER_DISTANCE = 10

_Corners = NDArray[np.float64]


def is_flag(label: str) -> bool:
    """Return whether a label is a flag, which marks no region."""
    return label.lower() == 'flag'


def is_ignored(label: str) -> bool:
    """Return whether a label marks an ignored region."""
    return 'ignore' in label.lower()


def label_of(shape: Any) -> str:
    """Return a shape's label, also if it is a number.

    Raises:
        TypeError: it has no label.
    """
    label = shape.get('label') if isinstance(shape, dict) else None
    if isinstance(label, bool) or not isinstance(label, (str, int, float)):
        raise TypeError(f'a shape has the label {label!r}: give each shape a text as label')
    return str(label)


def draw_shapes(shapes: list[dict[str, Any]], height: int, width: int) -> NDArray[np.uint8]:
    """Return (height, width) uint8: 1 for the target, 255 for ignored regions, else 0.

    Larger shapes are drawn first, as in the published code; flags are skipped.

    Args:
        shapes: of the file.
        height: rows of the image.
        width: columns of the image.

    Raises:
        ValueError, TypeError: a shape is malformed, or no shape marks a pixel of the image.
    """
    regions = [shape for shape in shapes if not is_flag(label_of(shape))]
    # Drawn twice to save memory: a large image may have hundreds of shapes.
    areas = [int(mask_of(shape, height, width).sum()) for shape in regions]
    is_visible = [
        bool(area)
        for area, shape in zip(areas, regions, strict=True)
        if not is_ignored(label_of(shape))
    ]
    if is_visible and not any(is_visible):
        raise ValueError(f'no shape marks a pixel of the image of {width}x{height} pixels')
    values = np.zeros((height, width), np.uint8)
    # The same order as in the published code, also for equal areas.
    for index in np.argsort(areas)[::-1].tolist() if areas else ():
        value = IGNORE if is_ignored(label_of(regions[index])) else TARGET
        values[mask_of(regions[index], height, width)] = value
    return values


def mask_of(shape: dict[str, Any], height: int, width: int) -> Mask:
    """Return the (height, width) bool mask of a shape.

    Args:
        shape: of the file.
        height: rows of the image.
        width: columns of the image.

    Raises:
        ValueError, TypeError: it marks no region, or lies far outside the image.
    """
    corners = _corners(shape)
    far = _MAX_CORNER_DISTANCE * max(height, width)
    if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) > far:
        raise ValueError(
            f'a corner of {label_of(shape)!r} is far outside the image of {width}x{height} pixels'
        )
    kind = shape.get('shape_type') or 'polygon'
    if kind == 'mask':
        return _bitmap(shape, corners, height, width)
    if kind == 'circle':
        return _circle(shape, corners, height, width)
    if kind == 'rectangle' and len(corners) == 2:
        (x1, y1), (x2, y2) = corners
        corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    elif kind not in ('polygon', 'rectangle', 'rotation'):
        raise ValueError(
            f'{label_of(shape)!r} is {_named(str(kind))}, which marks no region: draw a '
            'polygon, a rectangle, a circle or a mask'
        )
    values = np.zeros((height, width), np.uint8)
    polygon = [corners.astype(np.int32)]
    cv2.polylines(values, polygon, isClosed=True, color=1, thickness=1)
    cv2.fillPoly(values, polygon, 1)
    return np.asarray(values != 0)


def _named(kind: str) -> str:
    """Return a shape type with its article."""
    if kind == 'points':
        return 'a set of points'
    return f'{"an" if kind[:1] in tuple("aeiou") else "a"} {kind}'


def _corners(shape: dict[str, Any]) -> _Corners:
    try:
        corners = np.array(shape['points'], np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError):
        corners = np.empty((0, 2))
    if not len(corners):
        raise ValueError(
            f'the points of {label_of(shape)!r} are not a list of [x, y]: correct or remove it'
        )
    return corners


def _circle(shape: dict[str, Any], corners: _Corners, height: int, width: int) -> Mask:
    """Return the disc given by its centre and a point on its edge."""
    if len(corners) != 2:
        raise ValueError(
            f'the circle {label_of(shape)!r} must have two points: its centre and one on its edge'
        )
    (x, y), edge = corners
    rows, columns = np.ogrid[:height, :width]
    radius = math.hypot(edge[0] - x, edge[1] - y)
    return np.asarray(np.hypot(columns - x, rows - y) <= radius)


def _bitmap(shape: dict[str, Any], corners: _Corners, height: int, width: int) -> Mask:
    """Return a labelme brush mask: a PNG of the region between two corners."""
    try:
        data = np.frombuffer(base64.b64decode(shape['mask']), np.uint8)
    except (KeyError, TypeError, ValueError):
        data = np.empty(0, np.uint8)
    # Keep 16 bits: the high byte alone would be background.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    part = cv2.imdecode(data, flags) if data.size else None
    if part is None:
        raise ValueError(
            f'the mask of {label_of(shape)!r} is not an image: draw it again, or remove it'
        )
    x, y = corners.min(axis=0).astype(int).tolist()
    whole = np.zeros((height, width), np.bool_)
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    inside = (part != 0)[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole
