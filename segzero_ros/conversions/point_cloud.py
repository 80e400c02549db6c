"""Clouds of a frame and of its objects as sensor_msgs/PointCloud2.

The fields are x, y, z (float32, metres), rgb (as PCL packs it: the bytes B, G, R, 0 as one
float32) and object (uint16, the object's id in `label_image`; 0 for the rest).
"""

from __future__ import annotations

from typing import Any

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
# With two bytes behind `object`, so that every point is aligned.
POINT = np.dtype(
    {
        'names': ['xyz', 'rgb', 'object'],
        'formats': ['(3,)<f4', '<u4', '<u2'],
        'offsets': [0, 12, 16],
        'itemsize': 20,
    }
)


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
        xyz: (H, W, 3) metres, NaN where there is no depth.
        image: (H, W, 3) uint8 RGB.
        object_ids: (H, W) uint16.
    """
    points = np.zeros(object_ids.shape, POINT)
    points['xyz'] = xyz
    points['rgb'] = _packed(image)
    points['object'] = object_ids
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
    points = np.zeros((1, len(pixels)), POINT)
    points['xyz'] = xyz.reshape(-1, 3)[pixels]
    points['rgb'] = _packed(image.reshape(-1, 3)[pixels])
    points['object'] = object_ids.reshape(-1)[pixels]
    return _message(make, header, points, is_dense=True)


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    wide = rgb.astype(np.uint32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], np.uint32)


def _message(make: Make, header: Any, points: NDArray[Any], *, is_dense: bool) -> Any:
    height, width = points.shape
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
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=points.tobytes(),
        is_dense=is_dense,
    )
