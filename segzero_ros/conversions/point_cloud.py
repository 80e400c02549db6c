"""Clouds of a frame and of its objects as sensor_msgs/PointCloud2.

The fields are x, y, z (float32, metres), rgb (as PCL packs it: the bytes B, G, R, 0 as one
float32) and object (uint16, the object's id in `label_image`; 0 for the rest).
"""

from __future__ import annotations

from array import array
import sys
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.result import Make
from segzero_ros.types import RgbImage

CLOUD = 'sensor_msgs/msg/PointCloud2'

# A point; its last two bytes are padding.
POINT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'rgb', 'object'],
        'formats': ['f4', 'f4', 'f4', 'f4', 'u2'],
        'offsets': [0, 4, 8, 12, 16],
        'itemsize': 20,
    }
)
# The datatypes of sensor_msgs/PointField.
_DATATYPES = {np.dtype('u2'): 4, np.dtype('f4'): 7}
_WORDS = POINT.itemsize // 4
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


class Packed(NamedTuple):
    """The points of a message.

    Attributes:
        data: their bytes.
        points: (H, W) POINT, a view of `data`.
    """

    data: array[int]
    points: NDArray[np.void]


class PointPacker:
    """Packs the points of one frame after the other.

    A cloud of a large image has tens of megabytes, which the system takes milliseconds to hand
    out. So packed points hold until those of the next frame are packed.
    """

    def __init__(self) -> None:
        self._frame = _packed(array('B'), 0, 0)
        self._objects = _packed(array('B'), 0, 0)

    def pack(
        self, cloud: Points, image: RgbImage, *, organised: bool, objects: bool
    ) -> tuple[Packed | None, Packed | None]:
        """Return the points of a frame.

        Args:
            cloud: of the frame.
            image: (H, W, 3) uint8 RGB.
            organised: whether to pack the first ones.
            objects: whether to pack the second ones.

        Returns:
            (H, W), a point for each pixel, and (1, N), those of the objects alone; None in place
            of what is not to be packed.
        """
        ids = cloud.object_ids
        height, width = ids.shape
        step = max(_PIXELS // width, 1)
        count = cv2.countNonZero(ids) if objects else 0
        if organised:
            self._frame = _packed(self._frame.data, height, width)
        if objects:
            self._objects = _packed(self._objects.data, 1, count)
        whole, own = _words(self._frame), _words(self._objects).reshape(-1, _WORDS)
        scratch = np.empty((step, width, _WORDS), np.float32)
        planes = np.empty((_WORDS, step, width), np.float32)
        done = 0
        for first in range(0, height, step):
            rows = slice(first, min(first + step, height))
            # Several times as fast with truths as with integers.
            pixels = np.flatnonzero(ids[rows] != 0) if done < count else ()
            if not organised and not len(pixels):
                continue
            block = whole[rows] if organised else scratch[: rows.stop - first]
            part = planes[:, : rows.stop - first]
            cloud.write_rows(rows.start, rows.stop, part[:3])
            _write_rgb(image[rows], part[3].view(np.uint32))
            part[4].view(np.uint32)[:] = ids[rows]
            # OpenCV interleaves several times as fast as NumPy, whatever the words mean.
            cv2.merge(list(part), block)
            if len(pixels):
                into = own[done : done + len(pixels)]
                block.reshape(-1, _WORDS).take(pixels, 0, out=into, mode='clip')
                done += len(pixels)
        return self._frame if organised else None, self._objects if objects else None


def cloud_message(make: Make, header: Any, packed: Packed, *, is_dense: bool) -> Any:
    """Return packed points as a message.

    Args:
        make: creates the messages.
        header: of the frame.
        packed: the points; the message takes their bytes as they are.
        is_dense: whether all of them have depth.
    """
    height, width = packed.points.shape
    fields = [
        make(
            'sensor_msgs/msg/PointField',
            name=name,
            offset=offset,
            datatype=_DATATYPES[kind],
            count=1,
        )
        for name, (kind, offset, *_) in (POINT.fields or {}).items()
    ]
    return make(
        CLOUD,
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=sys.byteorder == 'big',
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=packed.data,
        is_dense=is_dense,
    )


def _packed(data: array[int], height: int, width: int) -> Packed:
    """Return room for as many points: the given bytes if their number fits."""
    size = POINT.itemsize * height * width
    if len(data) != size:
        data = array('B', bytes(1)) * size
    return Packed(data, np.frombuffer(data, POINT).reshape(height, width))


def _words(packed: Packed) -> NDArray[np.float32]:
    """Return (H, W, 5) the words of the points."""
    return np.frombuffer(packed.data, np.float32).reshape(*packed.points.shape, _WORDS)


def _write_rgb(rgb: NDArray[np.uint8], words: NDArray[np.uint32]) -> None:
    """Write the bytes B, G, R, 0 of (h, w, 3) pixels into (h, w) words."""
    bgra = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    np.bitwise_and(bgra.view('<u4')[..., 0], 0xFFFFFF, out=words)
