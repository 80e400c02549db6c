"""Colour images as RGB arrays from sensor_msgs/Image and sensor_msgs/CompressedImage.

Messages are read by their fields, so both rclpy's and a bag reader's can be given. OpenCV converts
colours and decompresses; row padding, byte order and validation are done here, because the usual
bridges do without: rosbags-image 0.10 ignores `step` and misreads NV12, and cv_bridge returns
views of the message and fails on big-endian pixels with NumPy 2.

Conversion to RGB: 16-bit channels are scaled by the sensor's range, see `white_level`; alpha is
dropped; YUV is BT.601 with luma 16 to 235, as video cameras send it; `8UC3` is BGR, as in OpenCV.
A JPEG, PNG or WebP defines its own channel order, which overrides the message's `format`.
"""

from __future__ import annotations

from functools import lru_cache
import logging
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions import zlib_image
from segzero_ros.conversions.bit_depth import to_8_bits
from segzero_ros.conversions.compressed import check_size, decompress, is_jpeg, is_tiff, quoted
from segzero_ros.conversions.raw_image import (
    CompressedImageMessage,
    ImageMessage,
    MAX_PIXELS,
    read_pixels,
    read_rows,
)
from segzero_ros.types import BadImage, RgbImage


class _Packed(NamedTuple):
    """An encoding with interleaved channels, and OpenCV's conversion from it to RGB."""

    channels: int
    to_rgb: int | None


_PACKED = {
    'mono': _Packed(1, cv2.COLOR_GRAY2RGB),
    'rgb': _Packed(3, None),
    'bgr': _Packed(3, cv2.COLOR_BGR2RGB),
    'rgba': _Packed(4, cv2.COLOR_RGBA2RGB),
    'bgra': _Packed(4, cv2.COLOR_BGRA2RGB),
    # OpenCV names a Bayer pattern after the second row's second and third pixel, ROS after the
    # first row's first two, so OpenCV's BG is RGGB.
    'bayer_rggb': _Packed(1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr': _Packed(1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': _Packed(1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg': _Packed(1, cv2.COLOR_BayerGB2RGB),
}
_YUV_4_2_2 = {
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
}
_YUV_4_2_0 = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}
_YUV_4_4_4 = 'nv24'
# What OpenCV's generic pixel types contain when a camera uses them.
_GENERIC = {
    '8UC1': 'mono8',
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '16UC1': 'mono16',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
}
_DEPTH_ENCODINGS = ('32FC1', '64FC1')

# BT.601, luma 16 to 235 and chroma 16 to 240 to RGB 0 to 255, as in OpenCV's conversions.
_YUV_TO_RGB = np.array(
    [
        [1.1644, 0.0, 1.5960, -1.1644 * 16 - 1.5960 * 128],
        [1.1644, -0.3918, -0.8130, -1.1644 * 16 + (0.3918 + 0.8130) * 128],
        [1.1644, 2.0172, 0.0, -1.1644 * 16 - 2.0172 * 128],
    ]
)

_logger = logging.getLogger(__name__)


def decode_image(
    msg: ImageMessage | CompressedImageMessage, max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Decode a colour or grey image.

    Args:
        msg: sensor_msgs/Image in any encoding named above, or CompressedImage with JPEG, PNG, TIFF
            or WebP or of the transport `zstd`. EXIF orientation is ignored, so pixels stay where
            the camera's calibration has them.
        max_pixels: larger images are refused before memory is allocated for them.

    Returns:
        (H, W, 3) uint8 RGB in memory of its own.

    Raises:
        BadImage: the image cannot be decoded; the text gives the reason.
    """
    if isinstance(msg, CompressedImageMessage):
        return _decode_compressed(msg, max_pixels)
    check_size(msg.width, msg.height, max_pixels)
    encoding = _GENERIC.get(msg.encoding, msg.encoding)
    if encoding in _YUV_4_2_2:
        _check_even(msg, 'width')
        pixels = read_pixels(msg, np.dtype(np.uint8), 2)
        return _as_rgb(cv2.cvtColor(pixels, _YUV_4_2_2[encoding]))
    if encoding in _YUV_4_2_0:
        return _decode_nv12(msg, _YUV_4_2_0[encoding])
    if encoding == _YUV_4_4_4:
        return _decode_nv24(msg)
    packed, dtype = _find_packed(encoding)
    return _packed_to_rgb(read_pixels(msg, dtype, packed.channels), packed)


def _check_even(msg: ImageMessage, *sides: str) -> None:
    for side in sides:
        if getattr(msg, side) % 2:
            raise BadImage(
                f'{msg.encoding!r} subsamples chroma by 2, so its {side} must be even, '
                f'but the image has {msg.width}x{msg.height} pixels.'
            )


def _find_packed(encoding: str) -> tuple[_Packed, np.dtype[Any]]:
    for bits, dtype in (('8', np.uint8), ('16', np.uint16)):
        packed = _PACKED.get(encoding.removesuffix(bits))
        if packed is not None and encoding.endswith(bits):
            return packed, np.dtype(dtype)
    if encoding in _DEPTH_ENCODINGS:
        raise BadImage(f'{encoding!r} is a depth encoding: set `depth` to this topic.')
    supported = (
        *(f'{name}8' for name in _PACKED),
        *(f'{name}16' for name in _PACKED),
        *_YUV_4_2_2,
        *_YUV_4_2_0,
        _YUV_4_4_4,
        *_GENERIC,
    )
    raise BadImage(
        f'The encoding {quoted(encoding)} is not supported; supported are {", ".join(supported)}.'
    )


def _packed_to_rgb(pixels: NDArray[Any], packed: _Packed) -> RgbImage:
    """Scale 16-bit channels to 8, then demosaic or reorder; the result is a copy."""
    if pixels.dtype.itemsize == 2:
        pixels = to_8_bits(pixels)
    if packed.to_rgb is None:
        return np.array(pixels, np.uint8, order='C')
    return _as_rgb(cv2.cvtColor(np.ascontiguousarray(pixels), packed.to_rgb))


def _as_rgb(image: Any) -> RgbImage:
    return np.asarray(image, np.uint8)


def _decode_nv12(msg: ImageMessage, to_rgb: int) -> RgbImage:
    """Decode a luma plane followed by a plane of interleaved chroma at half resolution."""
    _check_even(msg, 'width', 'height')
    planes = read_rows(msg, msg.height * 3 // 2, msg.width, msg.step)[:, : msg.width]
    return _as_rgb(cv2.cvtColor(np.ascontiguousarray(planes), to_rgb))


def _decode_nv24(msg: ImageMessage) -> RgbImage:
    """Decode a luma plane followed by a plane of interleaved chroma at full resolution."""
    height, width = msg.height, msg.width
    planes = read_rows(msg, height * 3, width, msg.step)
    luma = planes[:height, :width, None]
    chroma = planes[height:].reshape(height, 2 * msg.step)[:, : 2 * width]
    yuv = np.concatenate((luma, chroma.reshape(height, width, 2)), axis=2)
    return _as_rgb(cv2.transform(yuv, _YUV_TO_RGB))


@lru_cache(maxsize=32)
def _warn_once(warning: str) -> None:
    """Log a warning about a camera's images only once."""
    _logger.warning(warning)


def _decode_compressed(msg: CompressedImageMessage, max_pixels: int) -> RgbImage:
    data = bytes(msg.data)
    if msg.format == zlib_image.FORMAT:
        return decode_image(zlib_image.unpack(data, max_pixels), max_pixels)
    source, _, compression = (part.strip() for part in msg.format.partition(';'))
    if 'compressedDepth' in compression:
        raise BadImage(f'{quoted(msg.format)} is a depth format: set `depth` to this topic.')
    image = decompress(data, msg.format, max_pixels)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype not in (np.uint8, np.uint16) or channels == 2:
        raise BadImage(
            f'The compressed image ({quoted(msg.format)}) has {image.shape} {image.dtype}, '
            'which is not a colour image; if it is depth, set `depth` to this topic.'
        )
    if channels == 1:
        if is_jpeg(data) and source.endswith('16') and image.dtype == np.uint8:
            # A JPEG holds only the upper byte.
            image = image.astype(np.uint16) << 8
        packed, _ = _find_packed(f'{_grey_or_bayer(msg.format, source, compression)}8')
    else:
        order = _channel_order(data, msg.format, source, compression)
        packed, _ = _find_packed(f'{order[channels]}8')
    return _packed_to_rgb(image, packed)


def _grey_or_bayer(text: str, source: str, compression: str) -> str:
    """Return the encoding of a one-channel image without its bit depth: mono or a Bayer pattern.

    The transport `compressed` stores a Bayer image unchanged in a PNG or TIFF; for JPEG it
    converts the image to grey first and names that in the format.
    """
    if not source.startswith('bayer_'):
        return 'mono'
    if 'compressed mono' not in compression:
        return source.rstrip('0123456789')
    _warn_once(
        f'The images ({quoted(text)}) are grey, because image_transport converts a Bayer image to '
        'grey for JPEG. For colours, set the publisher to png, subscribe to the raw image, or '
        'compress the output of image_proc.'
    )
    return 'mono'


def _channel_order(data: bytes, text: str, source: str, compression: str) -> dict[int, str]:
    """Return the decoded channel order of a three-channel and of a four-channel image."""
    if is_tiff(data):
        # image_transport writes the channels in the image's order, not in TIFF's.
        is_rgb = source.startswith('rgb') and 'compressed bgr' not in compression
        return {3: 'rgb', 4: 'rgba'} if is_rgb else {3: 'bgr', 4: 'bgra'}
    if 'compressed rgb' in compression:
        _warn_once(
            f'The format {quoted(text)} says that red and blue are swapped in the file. This is '
            'ignored: no version of image_transport writes it, and drivers that do write an '
            'ordinary file. If red and blue are swapped in `overlay`, have the publisher encode '
            'its images unswapped.'
        )
    return {3: 'bgr', 4: 'bgra'}
