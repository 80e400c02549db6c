"""Clouds of a frame and of its objects as sensor_msgs/PointCloud2.

The fields are x, y, z (float32, metres), rgb (as PCL packs it: the bytes B, G, R, 0 as one
float32) and object (uint16, the object's id in `label_image`; 0 for the rest).
"""

from __future__ import annotations

from array import array
import math
import sys
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.result import Make
from segzero_ros.types import RgbImage

CLOUD = 'sensor_msgs/msg/PointCloud2'

# Datatypes of sensor_msgs/PointField.
_UINT16, _FLOAT32 = 4, 7
_FIELDS = (
    ('x', 0, _FLOAT32),
    ('y', 4, _FLOAT32),
    ('z', 8, _FLOAT32),
    ('rgb', 12, _FLOAT32),
    ('object', 16, _UINT16),
)
# Five words of four bytes: the last one is `object` and two bytes of padding.
_WORDS = 5
# Pixels that are packed at a time, so that their points stay in the processor's cache.
_PIXELS = 30_000


class Points(Protocol):
    """The points of a frame, as `spatial.clouds.Cloud` has them."""

    @property
    def object_ids(self) -> NDArray[np.uint16]:
        """(H, W), an object's id at its points; 0 elsewhere."""
        ...

    def write_rows(self, first: int, last: int, xyz: NDArray[np.float32]) -> None:
        """Write the points of some rows into (3, last - first, W): metres, NaN without depth."""
        ...


class CloudMessages:
    """Makes the clouds of one frame after the other.

    A cloud of a large image has tens of megabytes, which the system takes milliseconds to hand
    out. So a message's `data` holds until the clouds of the next frame are made.

    Args:
        make: creates the messages.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._frame_data = array('B')
        self._object_data = array('B')

    def of(
        self, header: Any, points: Points, image: RgbImage, *, organised: bool, objects: bool
    ) -> tuple[Any, Any]:
        """Return the clouds of a frame.

        Args:
            header: of the frame.
            points: of the frame.
            image: (H, W, 3) uint8 RGB.
            organised: whether to make the first cloud.
            objects: whether to make the second cloud.

        Returns:
            A cloud with one point for each pixel, and a dense one of the objects' points alone;
            None in place of one that is not to be made.
        """
        ids = points.object_ids
        height, width = ids.shape
        step = max(_PIXELS // width, 1)
        planes = np.empty((_WORDS, step, width), np.float32)
        count = cv2.countNonZero(ids) if objects else 0
        self._object_data, own = _words(self._object_data, (count,))
        if organised:
            self._frame_data, packed = _words(self._frame_data, (height, width))
        else:
            packed = np.empty((step, width, _WORDS), np.float32)
        done = 0
        for first in range(0, height, step):
            rows = slice(first, min(first + step, height))
            # Several times as fast with truths as with integers.
            pixels = np.flatnonzero(ids[rows] != 0) if done < count else ()
            if not organised and not len(pixels):
                continue
            part = planes[:, : rows.stop - first]
            points.write_rows(rows.start, rows.stop, part[:3])
            _write_rgb(image[rows], part[3].view(np.uint32))
            part[4].view(np.uint32)[:] = ids[rows]
            block = packed[rows] if organised else packed[: rows.stop - first]
            # OpenCV interleaves several times as fast as NumPy, whatever the words mean.
            cv2.merge(list(part), block)
            if len(pixels):
                into = own[done : done + len(pixels)]
                block.reshape(-1, _WORDS).take(pixels, 0, out=into, mode='clip')
                done += len(pixels)
        return (
            self._message(header, self._frame_data, (height, width), is_dense=False)
            if organised
            else None,
            self._message(header, self._object_data, (1, count), is_dense=True)
            if objects
            else None,
        )

    def _message(
        self, header: Any, data: array[int], size: tuple[int, int], *, is_dense: bool
    ) -> Any:
        height, width = size
        fields = [
            self._make(
                'sensor_msgs/msg/PointField', name=name, offset=offset, datatype=kind, count=1
            )
            for name, offset, kind in _FIELDS
        ]
        return self._make(
            CLOUD,
            header=header,
            height=height,
            width=width,
            fields=fields,
            is_bigendian=sys.byteorder == 'big',
            point_step=4 * _WORDS,
            row_step=4 * _WORDS * width,
            data=data,
            is_dense=is_dense,
        )


def _words(data: array[int], size: tuple[int, ...]) -> tuple[array[int], NDArray[np.float32]]:
    """Return the bytes of as many points, the given ones if they fit, and a view as words."""
    length = 4 * _WORDS * math.prod(size)
    if len(data) != length:
        data = array('B', bytes(1)) * length
    return data, np.frombuffer(data, np.float32).reshape(*size, _WORDS)


def _write_rgb(rgb: NDArray[np.uint8], words: NDArray[np.uint32]) -> None:
    """Write the bytes B, G, R, 0 of (h, w, 3) pixels into (h, w) words."""
    bgra = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    np.bitwise_and(bgra.view('<u4')[..., 0], 0xFFFFFF, out=words)
