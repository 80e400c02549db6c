"""OpenCV's images from messages and into them, for users' own programs.

cv_bridge converts where it is installed and reads a message as it is; else the node's own decoder
does, with the same pixels. The node itself decodes without cv_bridge: see
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

from segzero_ros.conversions.image import decode_image, MAX_PIXELS
from segzero_ros.ros.message_factory import rgb_image
from segzero_ros.types import BadImage

Order = Literal['bgr8', 'rgb8']
Pixels = NDArray[np.uint8]

# Bytes a pixel of the encodings that cv_bridge turns into the same pixels as the node does.
# Deeper ones are shown in the sensor's range here, and YUV as cameras send it
# (docs/measurements/cv_bridge.md).
_BRIDGED = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1}
_logger = logging.getLogger(__name__)


def from_message(
    message: Image | CompressedImage, order: Order = 'bgr8', max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Return a message's image as OpenCV takes it.

    Args:
        message: in any encoding that the node reads.
        order: of the channels; OpenCV's own is `bgr8`.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 in memory of its own.

    Raises:
        BadImage: it cannot be decoded, or is no colour or grey image.
    """
    _check_order(order)
    bridge = _bridge()
    if bridge is not None and _is_plain(message, max_pixels):
        made = np.array(bridge.imgmsg_to_cv2(message, order), np.uint8)
    else:
        made = in_order(decode_image(message, max_pixels), order)
    return made


def to_message(image: Pixels, order: Order = 'bgr8', header: Header | None = None) -> Image:
    """Return an image of OpenCV's as a message.

    Args:
        image: (H, W, 3) uint8.
        order: of its channels, and the message's encoding.
        header: the message's; an empty one otherwise.

    Raises:
        BadImage: it is no such array.
    """
    _check_order(order)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise BadImage(
            f'An image must be (H, W, 3) uint8, not {image.shape} {image.dtype}: cv2.cvtColor '
            'makes a grey one or one with alpha so.'
        )
    bridge = _bridge()
    if bridge is not None:
        message = bridge.cv2_to_imgmsg(np.ascontiguousarray(image), order)
        # Not by cv_bridge: some releases set what is None.
        message.header = header or Header()
    else:
        message = rgb_image(image, header or Header())
        message.encoding = order
    return message


def in_order(image: Pixels, order: Order) -> Pixels:
    """Return an (H, W, 3) image in RGB with its channels in an order; also the way back."""
    return np.ascontiguousarray(image[..., ::-1]) if order == 'bgr8' else image


def _check_order(order: str) -> None:
    if order not in ('bgr8', 'rgb8'):
        raise BadImage(f'The order of channels is bgr8 (as OpenCV has it) or rgb8, not {order!r}.')


def _is_plain(message: Image | CompressedImage, max_pixels: int) -> bool:
    """Return whether cv_bridge reads a message as it is.

    It takes rows that end inside a pixel for pixels, fails on big-endian ones with NumPy 2, and
    believes sizes.
    """
    if isinstance(message, CompressedImage) or message.encoding not in _BRIDGED:
        return False
    pixel = _BRIDGED[message.encoding]
    return (
        0 < message.width * message.height <= max_pixels
        and message.step % pixel == 0
        and message.step >= message.width * pixel
        and len(message.data) == message.step * message.height
        and bool(message.is_bigendian) == (sys.byteorder == 'big')
    )


@lru_cache(maxsize=1)
def _bridge() -> Any:
    """Return cv_bridge's converter; None where it is not installed or does not work here.

    What PyPI has under its name is of ROS 1, and one that was compiled for NumPy 1 or OpenCV 4
    fails beside NumPy 2 or OpenCV 5 when it is first used.
    """
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    try:
        bridge = CvBridge()
        pixel = np.array([[[1, 2, 3]]], np.uint8)
        turned = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(pixel, 'rgb8'), 'bgr8')
        assert np.array_equal(turned, pixel[..., ::-1])
    except Exception as error:
        _logger.info('cv_bridge is installed but does not work here, so it is not used: %s', error)
        return None
    return bridge
