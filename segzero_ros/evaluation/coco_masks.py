"""Masks of COCO's `segmentation`: polygons and RLE, rasterised as pycocotools does."""

from __future__ import annotations

from collections.abc import Iterator
import math
from typing import Any

import numpy as np

from segzero_ros.evaluation.samples import DataError
from segzero_ros.extras import lacking
from segzero_ros.replay.coco_rle import from_rle
from segzero_ros.types import Box, Mask

# A polygon with a corner this many image sides away is an error.
_MAX_CORNER_DISTANCE = 10
_MIN_CORNERS = 3
_RLE_HINT = 'write {"size": [height, width], "counts": …}, or [] if there is no mask'


def read_segmentation(segmentation: Any, height: int, width: int) -> Mask:
    """Return an annotation's mask, the union of its parts.

    Args:
        segmentation: polygons, each [x, y, x, y, …] or [[x, y], …]; one such polygon; an RLE
            {size, counts}, compressed or not; or a list of these. Polygons of fewer than three
            corners have no area and are ignored.
        height: rows of the image.
        width: columns of the image.

    Returns:
        (height, width) bool.

    Raises:
        ValueError, TypeError: it is malformed.
        DataError: pycocotools is not installed.
    """
    drawn = np.zeros((height, width), np.bool_)
    polygons = []
    for part in parts_of(segmentation):
        if isinstance(part, dict):
            drawn |= _decoded(part, height, width)
        elif len(part) >= 2 * _MIN_CORNERS:
            _check_corners(part, height, width)
            polygons.append(part)
    return drawn | _rasterised(polygons, height, width) if polygons else drawn


def parts_of(segmentation: Any) -> Iterator[list[float] | dict[str, Any]]:
    """Yield RLEs unchanged, and polygons as [x, y, x, y, …]."""
    if isinstance(segmentation, dict):
        yield segmentation
        return
    if not isinstance(segmentation, list):
        raise TypeError(f'a segmentation must be polygons or an RLE, not {segmentation!r}')
    if segmentation and not isinstance(segmentation[0], (list, dict)):
        segmentation = [segmentation]
    for part in segmentation:
        if isinstance(part, dict):
            yield part
            continue
        if not isinstance(part, list):
            raise TypeError(f'a polygon must be [x, y, x, y, …], not {part!r}')
        if part and isinstance(part[0], list):
            part = [value for pair in part for value in pair]
        if len(part) % 2:
            raise ValueError(
                f'a polygon has {len(part)} numbers, which cannot be pairs of x and y'
            )
        try:
            yield [float(value) for value in part]
        except (TypeError, ValueError) as error:
            raise ValueError(
                'a polygon contains something other than numbers: write [x, y, x, y, …]'
            ) from error


def extent_of(segmentation: Any) -> Box | None:
    """Return the box around an annotation's polygons, (x1, y1, x2, y2); None without any."""
    polygons = [part for part in parts_of(segmentation) if not isinstance(part, dict)]
    numbers = [part for part in polygons if len(part) >= 2 * _MIN_CORNERS]
    if not numbers:
        return None
    columns = [value for part in numbers for value in part[::2]]
    rows = [value for part in numbers for value in part[1::2]]
    return min(columns), min(rows), max(columns), max(rows)


def size_of(segmentation: Any) -> tuple[int, int] | None:
    """Return the (width, height) of an RLE; None for polygons."""
    if not isinstance(segmentation, dict):
        return None
    try:
        height, width = map(int, segmentation['size'])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'an RLE has no size: {_RLE_HINT}') from error
    return width, height


def _check_corners(polygon: list[float], height: int, width: int) -> None:
    far = _MAX_CORNER_DISTANCE * max(height, width)
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        if not (math.isfinite(x) and math.isfinite(y)) or max(abs(x), abs(y)) > far:
            raise ValueError(
                f'a corner at ({x:g}, {y:g}) is far outside the image of {width}x{height} pixels'
            )


def _rasterised(polygons: list[list[float]], height: int, width: int) -> Mask:
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise DataError(f'{lacking("Drawing polygons needs", error, "data")}.') from error
    whole = coco.merge(coco.frPyObjects(polygons, height, width))
    return np.ascontiguousarray(coco.decode(whole) != 0)


def _decoded(rle: dict[str, Any], height: int, width: int) -> Mask:
    columns, rows = size_of(rle) or (0, 0)
    if (rows, columns) != (height, width):
        raise ValueError(f'the RLE has {columns}x{rows} pixels, not {width}x{height}')
    counts: Any = rle.get('counts')
    if isinstance(counts, str):
        return from_rle(counts, height, width)
    try:
        counts = [int(run) for run in counts]
    except (TypeError, ValueError) as error:
        raise ValueError(f'an RLE has no counts: {_RLE_HINT}') from error
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f'the runs of {width}x{height} pixels add up to {sum(counts)}')
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape((height, width), order='F'))
