"""Decode image files, with the same brightness as the same image from a camera."""

from __future__ import annotations

import cv2
import numpy as np

from segzero_ros.conversions.bit_depth import to_8_bits
from segzero_ros.types import RgbImage


def decode_file(data: bytes, *, stored: bool = False) -> RgbImage | None:
    """Decode any image file that OpenCV reads.

    16-bit channels are scaled as in a camera's images, see `white_level`. Grey becomes RGB, alpha
    is dropped.

    Args:
        data: the file's content.
        stored: ignore the EXIF orientation.

    Returns:
        (H, W, 3) uint8 RGB; None if it is not an image.
    """
    orientation = cv2.IMREAD_IGNORE_ORIENTATION if stored else 0
    content = np.frombuffer(data, np.uint8)
    # Grey images keep one channel here, so that the white level counts each pixel once.
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | orientation
    image = cv2.imdecode(content, flags) if data else None
    if image is not None and image.dtype == np.uint16:
        image = to_8_bits(image)
    elif image is not None and image.dtype != np.uint8:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR | orientation)
    if image is None:
        return None
    to_rgb = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, to_rgb), np.uint8)
