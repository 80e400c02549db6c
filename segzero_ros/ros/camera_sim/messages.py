"""Conversion of frames to the messages of a camera driver."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.types import DepthImage, Intrinsics, RgbImage

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


def _converted(code: int) -> Callable[[RgbImage], Pixels]:
    return lambda image: np.asarray(cv2.cvtColor(image, code), np.uint8)


def _mono16(image: RgbImage) -> Pixels:
    # 257 maps 0 … 255 to 0 … 65535.
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint16) * np.uint16(257)


def _mosaic(image: RgbImage) -> Pixels:
    """Return the Bayer mosaic of a sensor with an RGGB filter."""
    mosaic = image[..., 1].copy()
    mosaic[0::2, 0::2] = image[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = image[1::2, 1::2, 2]
    return mosaic


_ENCODERS: dict[str, Callable[[RgbImage], Pixels]] = {
    'rgb8': lambda image: image,
    'bgr8': _converted(cv2.COLOR_RGB2BGR),
    'rgba8': _converted(cv2.COLOR_RGB2RGBA),
    'bgra8': _converted(cv2.COLOR_RGB2BGRA),
    'mono8': _converted(cv2.COLOR_RGB2GRAY),
    'mono16': _mono16,
    'bayer_rggb8': _mosaic,
}
ENCODINGS = tuple(_ENCODERS)


def image_message(image: RgbImage, encoding: str, header: Header) -> Image:
    """Return the message of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        encoding: one of ENCODINGS.
        header: of the message.
    """
    return _message(_ENCODERS[encoding](image), encoding, header)


def depth_message(depth: DepthImage, encoding: str, header: Header) -> Image:
    """Return the message of a depth image.

    Args:
        depth: (H, W) float32 metres, NaN where unknown.
        encoding: `32FC1`, or `16UC1` for millimetres with 0 where unknown.
        header: of the message.
    """
    if encoding == '32FC1':
        return _message(depth.astype(np.float32), encoding, header)
    millimetres = np.nan_to_num(depth * 1000, nan=0.0, posinf=0.0, neginf=0.0)
    millimetres[millimetres > np.iinfo(np.uint16).max] = 0
    return _message(np.round(millimetres).astype(np.uint16), '16UC1', header)


def compressed_message(image: RgbImage, compression: str, header: Header) -> CompressedImage:
    """Return the compressed message of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        compression: `jpeg` or `png`.
        header: of the message.
    """
    extension = {'jpeg': '.jpg', 'png': '.png'}[compression]
    _, encoded = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    # The format string of compressed_image_transport.
    message = CompressedImage(header=header, format=f'bgr8; {compression} compressed bgr8')
    message.data = encoded.tobytes()
    return message


def camera_info_message(intrinsics: Intrinsics, header: Header) -> CameraInfo:
    """Return the message of a pinhole camera.

    Args:
        intrinsics: of the image, in pixels.
        header: of the message.
    """
    fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
    message = CameraInfo(header=header, width=intrinsics.width, height=intrinsics.height)
    message.distortion_model = 'plumb_bob'
    message.d = [*intrinsics.distortion] or [0.0] * 5
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def _message(pixels: Pixels, encoding: str, header: Header) -> Image:
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1])
    message.encoding = encoding
    message.is_bigendian = int(not np.little_endian)
    message.step = pixels.nbytes // pixels.shape[0]
    # As bytes: the setter would copy a NumPy array element by element.
    message.data = pixels.tobytes()
    return message
