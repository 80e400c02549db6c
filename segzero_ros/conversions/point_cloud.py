"""Clouds of a frame and of its objects as sensor_msgs/PointCloud2.

The fields are x, y, z (float32, metres), rgb (as PCL packs it: the bytes B, G, R, 0 as one
float32) and object (uint16, the object's id in `label_image`; 0 for the rest).
"""

from __future__ import annotations

from typing import Any

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


def organised(
    make: Make,
    header: Any,
    xyz: NDArray[np.float32],
    image: RgbImage,
    object_ids: NDArray[np.uint16],
) -> Any:
    """Return a cloud with one point for each pixel.

    Args:
        make: creates the messages.
        header: of the frame.
        xyz: (3, H, W) metres, NaN where there is no depth.
        image: (H, W, 3) uint8 RGB.
        object_ids: (H, W) uint16.
    """
    points = np.empty((*object_ids.shape, _WORDS), np.float32)
    for axis in range(3):
        points[..., axis] = xyz[axis]
    words = points.view(np.uint32)
    words[..., 3] = _packed(image)
    words[..., 4] = object_ids
    return _message(make, header, points, is_dense=False)


def of_objects(
    make: Make,
    header: Any,
    xyz: NDArray[np.float32],
    image: RgbImage,
    object_ids: NDArray[np.uint16],
) -> Any:
    """Return a dense cloud of the objects' points alone; arguments as for `organised`."""
    pixels = np.flatnonzero(object_ids)
    points = np.empty((1, len(pixels), _WORDS), np.float32)
    points[0, :, :3] = xyz.reshape(3, -1)[:, pixels].T
    words = points.view(np.uint32)
    words[0, :, 3] = _packed(image.reshape(1, -1, 3)[:, pixels])
    words[0, :, 4] = object_ids.reshape(-1)[pixels]
    return _message(make, header, points, is_dense=True)


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return (h, w) the bytes B, G, R, 0 of each pixel as an integer."""
    if not rgb.size:
        return np.zeros(rgb.shape[:2], np.uint32)
    bgra = np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA))
    return np.asarray(bgra.view('<u4')[..., 0] & 0xFFFFFF, np.uint32)


def _message(make: Make, header: Any, points: NDArray[Any], *, is_dense: bool) -> Any:
    height, width = points.shape[:2]
    return make(
        CLOUD,
        header=header,
        height=height,
        width=width,
        fields=[
            make('sensor_msgs/msg/PointField', name=name, offset=offset, datatype=kind, count=1)
            for name, offset, kind in _FIELDS
        ],
        is_bigendian=False,
        point_step=4 * _WORDS,
        row_step=4 * _WORDS * width,
        data=points.astype('<f4', copy=False).tobytes(),
        is_dense=is_dense,
    )
