"""Draw the shapes of ReasonSeg's, labelme's and X-AnyLabeling's files.

Polygons are drawn as LISA's published code draws them: with their outline, coordinates cut to
whole pixels. The other kinds are as labelme's own window shows them.
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
# A corner this many sides of the picture away from it is no drawing of anything in it.
_FARTHEST = 10

_Corners = NDArray[np.float64]


def is_flag(label: str) -> bool:
    """Return whether a label marks a flag, which is no region."""
    return label.lower() == 'flag'


def is_ignored(label: str) -> bool:
    """Return whether a label marks what some conventions leave out."""
    return 'ignore' in label.lower()


def label_of(shape: Any) -> str:
    """Return a shape's label, also where it is a number.

    Raises:
        TypeError: it has none.
    """
    label = shape.get('label') if isinstance(shape, dict) else None
    if isinstance(label, bool) or not isinstance(label, (str, int, float)):
        raise TypeError(f'a shape has the label {label!r}: give each shape a name as its label')
    return str(label)


def draw_shapes(shapes: list[dict[str, Any]], height: int, width: int) -> NDArray[np.uint8]:
    """Return (height, width) uint8: 1 where something is meant, 255 where it is ignored, else 0.

    Larger shapes are drawn first, as the published code draws them; labels that say `flag` are
    left out.

    Raises:
        ValueError, TypeError: shapes are there, but nothing of the picture is marked by them.
    """
    kept = [shape for shape in shapes if not is_flag(label_of(shape))]
    # Drawn twice rather than kept: a large picture may have hundreds of shapes.
    areas = [int(mask_of(shape, height, width).sum()) for shape in kept]
    meant = [
        bool(area)
        for area, shape in zip(areas, kept, strict=True)
        if not is_ignored(label_of(shape))
    ]
    if meant and not any(meant):
        raise ValueError(f'no shape marks a pixel of the picture of {width}x{height}')
    values = np.zeros((height, width), np.uint8)
    # The very order of the published code, also among equal areas.
    for index in np.argsort(areas)[::-1].tolist() if areas else ():
        value = IGNORE if is_ignored(label_of(kept[index])) else TARGET
        values[mask_of(kept[index], height, width)] = value
    return values


def mask_of(shape: dict[str, Any], height: int, width: int) -> Mask:
    """Return the (height, width) bool mask of a shape.

    Raises:
        ValueError, TypeError: it marks no region, or lies far from the picture.
    """
    corners = _corners(shape)
    if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) > _FARTHEST * max(
        height, width
    ):
        raise ValueError(
            f'a corner of {label_of(shape)!r} is far from the picture of {width}x{height} pixels'
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
    """Return a kind of shape with its article."""
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
            f'the points of {label_of(shape)!r} are no list of [x, y]: draw it anew, or take it '
            'out'
        )
    return corners


def _circle(shape: dict[str, Any], corners: _Corners, height: int, width: int) -> Mask:
    """Return the disc of a centre and a point on its edge."""
    if len(corners) != 2:
        raise ValueError(f'the circle {label_of(shape)!r} has no centre and one point on its edge')
    (x, y), edge = corners
    rows, columns = np.ogrid[:height, :width]
    radius = math.hypot(edge[0] - x, edge[1] - y)
    return np.asarray(np.hypot(columns - x, rows - y) <= radius)


def _bitmap(shape: dict[str, Any], corners: _Corners, height: int, width: int) -> Mask:
    """Return a mask drawn with labelme's brush: a PNG of the part between two corners."""
    try:
        data = np.frombuffer(base64.b64decode(shape['mask']), np.uint8)
    except (KeyError, TypeError, ValueError):
        data = np.empty(0, np.uint8)
    # As deep as it is: of 16 bits the high byte alone would be background.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    part = cv2.imdecode(data, flags) if data.size else None
    if part is None:
        raise ValueError(
            f'the mask of {label_of(shape)!r} is no picture: brush it anew, or take it out'
        )
    x, y = corners.min(axis=0).astype(int).tolist()
    whole = np.zeros((height, width), np.bool_)
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    inside = (part != 0)[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole
