"""From a picture's file to an array, as bright as the same picture from a camera."""

from __future__ import annotations

import cv2
import numpy as np

from segzero_ros.conversions.bit_depth import to_8_bits
from segzero_ros.types import RgbImage


def decode_file(data: bytes, *, stored: bool = False) -> RgbImage | None:
    """Decode any picture file that OpenCV reads.

    Channels of 16 bits are scaled by the range that the sensor uses, see `white_level`, as those
    of a camera's images are. Grey becomes RGB, transparency is dropped.

    Args:
        data: the file's content.
        stored: leave the picture as it is stored, rather than turn it as its EXIF says.

    Returns:
        (H, W, 3) uint8 RGB; None where it is no picture.
    """
    way = cv2.IMREAD_IGNORE_ORIENTATION if stored else 0
    content = np.frombuffer(data, np.uint8)
    # Grey ones stay of one channel here: the range is that of the pixels.
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | way
    picture = cv2.imdecode(content, flags) if data else None
    if picture is not None and picture.dtype == np.uint16:
        picture = to_8_bits(picture)
    elif picture is not None and picture.dtype != np.uint8:
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR | way)
    if picture is None:
        return None
    to_rgb = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, to_rgb), np.uint8)
