"""Conversion between image messages and OpenCV images, for users' own programs.

Uses cv_bridge if it is installed and decodes the message correctly, else the node's own decoder,
with the same pixels. The node itself does not use cv_bridge, see
docs/measurements/cv_bridge.md.
"""

from __future__ import annotations

from functools import lru_cache
import logging
import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.conversions.image import decode_image
from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.ros.message_factory import rgb_image
from segzero_ros.types import BadImage

Order = Literal['bgr8', 'rgb8']
Pixels = NDArray[np.uint8]

# Bytes per pixel of the encodings that cv_bridge decodes to the same pixels as the node. The node
# scales deeper ones by the sensor's range and decodes YUV as cameras send it, see
# docs/measurements/cv_bridge.md.
_BRIDGE_ENCODINGS = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1}
_logger = logging.getLogger(__name__)


def from_message(
    message: Image | CompressedImage, order: Order = 'bgr8', max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Return a message's image as an OpenCV image.

    Args:
        message: in any encoding that the node decodes.
        order: of the channels; OpenCV's is `bgr8`.
        max_pixels: larger images are refused before decoding.

    Returns:
        (H, W, 3) uint8, a copy.

    Raises:
        BadImage: it cannot be decoded, or is not a colour or grey image.
    """
    _check_order(order)
    bridge = _bridge()
    if bridge is not None and _is_plain(message, max_pixels):
        made = np.array(bridge.imgmsg_to_cv2(message, order), np.uint8)
    else:
        made = in_order(decode_image(message, max_pixels), order)
    return made


def to_message(image: Pixels, order: Order = 'bgr8', header: Header | None = None) -> Image:
    """Return an OpenCV image as a message.

    Args:
        image: (H, W, 3) uint8.
        order: of its channels; becomes the encoding.
        header: of the message; None for an empty one.

    Raises:
        BadImage: it is no such array.
    """
    _check_order(order)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise BadImage(
            f'An image must be (H, W, 3) uint8, not {image.shape} {image.dtype}: convert grey '
            'images or images with alpha by cv2.cvtColor.'
        )
    bridge = _bridge()
    if bridge is not None:
        message = bridge.cv2_to_imgmsg(np.ascontiguousarray(image), order)
        # Some releases of cv_bridge fail on a header of None.
        message.header = header or Header()
    else:
        message = rgb_image(image, header or Header())
        message.encoding = order
    return message


def in_order(image: Pixels, order: Order) -> Pixels:
    """Convert an (H, W, 3) image between RGB and another channel order, in either direction."""
    return np.ascontiguousarray(image[..., ::-1]) if order == 'bgr8' else image


def _check_order(order: str) -> None:
    if order not in ('bgr8', 'rgb8'):
        raise BadImage(f'The channel order is bgr8 (as in OpenCV) or rgb8, not {order!r}.')


def _is_plain(message: Image | CompressedImage, max_pixels: int) -> bool:
    """Return whether cv_bridge decodes a message correctly.

    It misreads rows whose step is not a multiple of the pixel size, fails on big-endian images
    with NumPy 2, and does not check sizes.
    """
    if isinstance(message, CompressedImage) or message.encoding not in _BRIDGE_ENCODINGS:
        return False
    pixel = _BRIDGE_ENCODINGS[message.encoding]
    return (
        0 < message.width * message.height <= max_pixels
        and message.step % pixel == 0
        and message.step >= message.width * pixel
        and len(message.data) == message.step * message.height
        and bool(message.is_bigendian) == (sys.byteorder == 'big')
    )


@lru_cache(maxsize=1)
def _bridge() -> Any:
    """Return cv_bridge's converter; None if it is not installed or does not work.

    PyPI's package of that name belongs to ROS 1, and a build for NumPy 1 or OpenCV 4 fails on
    first use with NumPy 2 or OpenCV 5.
    """
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    try:
        bridge = CvBridge()
        pixel = np.array([[[1, 2, 3]]], np.uint8)
        decoded = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(pixel, 'rgb8'), 'bgr8')
        assert np.array_equal(decoded, pixel[..., ::-1])
    except Exception as error:
        _logger.info('cv_bridge is installed but does not work and is not used: %s', error)
        return None
    return bridge
