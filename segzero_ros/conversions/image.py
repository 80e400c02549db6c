"""From a camera's messages to arrays: colour images, depth images and intrinsics.

Reads messages by their fields, so those of rclpy and those of a bag reader both do. OpenCV does
the colour science and the decompression; row padding, byte order and the checks are done here,
because the usual bridges do without: rosbags-image 0.10 ignores `step` and misreads NV12, and
cv_bridge hands out views of the message and fails on big-endian pixels with NumPy 2.

How values become RGB: 16-bit channels by the range that the sensor uses, see `white_level`; alpha
is dropped; YUV is BT.601 with luma 16 to 235, as video cameras send it; an `8UC3` has OpenCV's BGR
order. A JPEG, a PNG and a WebP say themselves what their colours are, and are believed rather than
the letters of the message's `format`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
import logging
import math
import re
import struct
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions import rvl, zlib_image
from segzero_ros.conversions.bit_depth import to_8_bits
from segzero_ros.conversions.compressed import (
    check_size,
    inflate,
    is_jpeg,
    is_png,
    is_tiff,
    quoted,
)
from segzero_ros.types import BadImage, DepthImage, Intrinsics, RgbImage

# No robot's camera has more pixels, and a compressed image can claim more than memory holds.
MAX_PIXELS = 64_000_000
# The longest of OpenCV's models of a lens, in coefficients; a message may have any number.
MOST_DISTORTION = 14


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


@runtime_checkable
class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


class _Packed(NamedTuple):
    """An encoding whose pixels follow each other: channels a pixel, and OpenCV's way to RGB."""

    channels: int
    to_rgb: int | None


_PACKED = {
    'mono': _Packed(1, cv2.COLOR_GRAY2RGB),
    'rgb': _Packed(3, None),
    'bgr': _Packed(3, cv2.COLOR_BGR2RGB),
    'rgba': _Packed(4, cv2.COLOR_RGBA2RGB),
    'bgra': _Packed(4, cv2.COLOR_BGRA2RGB),
    # OpenCV names a pattern after the second row's second and third pixel, ROS after the first
    # row's first two, so that its BG is RGGB.
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
# What OpenCV's own names for pixel types hold when a camera uses them.
_GENERIC = {
    '8UC1': 'mono8',
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '16UC1': 'mono16',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
}
_IN_MILLIMETRES = ('16UC1', 'mono16')
_IN_METRES = '32FC1'
# No depth camera measures further, in metres: some write an enormous number for what is not known.
_FARTHEST = 10_000.0

# BT.601, luma 16 to 235 and chroma 16 to 240 to RGB 0 to 255, as OpenCV's own conversions.
_YUV_TO_RGB = np.array(
    [
        [1.1644, 0.0, 1.5960, -1.1644 * 16 - 1.5960 * 128],
        [1.1644, -0.3918, -0.8130, -1.1644 * 16 + (0.3918 + 0.8130) * 128],
        [1.1644, 2.0172, 0.0, -1.1644 * 16 - 2.0172 * 128],
    ]
)

# As in image_rect, image_rect_color, rect/image, image_rectified.
_RECTIFIED = re.compile(r'(?:^|[/_])rect(?:ified)?(?:[/_]|$)')
# compressed_depth_image_transport puts an int32 (the kind) and two float32 before its PNG.
_DEPTH_HEADER = struct.Struct('<iff')
_logger = logging.getLogger(__name__)


def decode_image(
    msg: ImageMessage | CompressedImageMessage, max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Decode any colour or grey image that a camera sends.

    Args:
        msg: sensor_msgs/Image in any encoding named above, or CompressedImage with JPEG, PNG, TIFF
            or WebP or of the transport `zstd`. An orientation noted in a JPEG is ignored: pixels
            stay where the camera's calibration has them.
        max_pixels: larger pictures are refused before memory is taken for them.

    Returns:
        (H, W, 3) uint8 RGB in memory of its own.

    Raises:
        BadImage: the picture cannot be decoded; the text says why.
    """
    if isinstance(msg, CompressedImageMessage):
        return _decode_compressed(msg, max_pixels)
    check_size(msg.width, msg.height, max_pixels)
    encoding = _GENERIC.get(msg.encoding, msg.encoding)
    if encoding in _YUV_4_2_2:
        _check_even(msg, 'width')
        pixels = _pixels(msg, np.dtype(np.uint8), 2)
        return _as_rgb(cv2.cvtColor(pixels, _YUV_4_2_2[encoding]))
    if encoding in _YUV_4_2_0:
        return _decode_nv12(msg, _YUV_4_2_0[encoding])
    if encoding == _YUV_4_4_4:
        return _decode_nv24(msg)
    packed, dtype = _find_packed(encoding)
    return _packed_to_rgb(_pixels(msg, dtype, packed.channels), packed)


def decode_depth(
    msg: ImageMessage | CompressedImageMessage, max_pixels: int = MAX_PIXELS
) -> DepthImage:
    """Decode a depth image.

    Args:
        msg: sensor_msgs/Image as 16UC1 or mono16 (millimetres, 0 unknown) or 32FC1 (metres), or
            CompressedImage with a 16-bit PNG or RVL, as of the transport `compressedDepth` or
            plain, or with a TIFF, or of the transport `zstd`.
        max_pixels: larger images are refused before memory is taken for them.

    Returns:
        (H, W) float32 metres in memory of its own; NaN where unknown, not positive or over 10 km.

    Raises:
        BadImage: the image cannot be decoded or holds no depth; the text says why.
    """
    if isinstance(msg, CompressedImageMessage):
        return _decode_compressed_depth(msg, max_pixels)
    check_size(msg.width, msg.height, max_pixels)
    if msg.encoding in _IN_MILLIMETRES:
        return _from_millimetres(_pixels(msg, np.dtype(np.uint16), 1))
    if msg.encoding == _IN_METRES:
        return _only_positive(_pixels(msg, np.dtype(np.float32), 1).astype(np.float32))
    raise BadImage(
        f'{quoted(msg.encoding)} is no encoding of depth: it is 16UC1 (millimetres) or 32FC1 '
        '(metres).'
    )


def intrinsics_from(msg: Any, rectified: bool = False) -> Intrinsics | None:
    """Read a camera's intrinsics.

    Args:
        msg: sensor_msgs/CameraInfo. Its matrices are of the full sensor; binning and a region of
            interest are applied, as the picture has been through them.
        rectified: the image is a rectified one. Those come with the raw image's message, in which
            P is what holds for them, and the distortion is undone. Where there is no distortion,
            K and P are the same, and one that is zero is taken from the other.

    Returns:
        The intrinsics of the picture; None for a camera without calibration (zero or no number).
    """
    distortion = tuple(float(value) for value in msg.d[:MOST_DISTORTION])
    k, p = _focal_and_centre(msg.k, 3), _focal_and_centre(msg.p, 4)
    if not any(distortion):
        # Without distortion the two are the same, and drivers may fill in only one of them.
        k, p = k or p, p or k
    found = p if rectified else k
    if found is None:
        return None
    fx, fy, cx, cy = found
    # Zero means "not given" for both, as the message says.
    across, down = max(msg.binning_x, 1), max(msg.binning_y, 1)
    roi = msg.roi
    return Intrinsics(
        fx=fx / across,
        fy=fy / down,
        cx=(cx - roi.x_offset) / across,
        cy=(cy - roi.y_offset) / down,
        width=(roi.width or msg.width) // across,
        height=(roi.height or msg.height) // down,
        distortion=() if rectified else distortion,
    )


def _focal_and_centre(
    matrix: Sequence[float], columns: int
) -> tuple[float, float, float, float] | None:
    """Return fx, fy, cx and cy of a matrix of so many columns; None where it is not filled in."""
    fx, cx, fy, cy = (float(matrix[at]) for at in (0, 2, columns + 1, columns + 2))
    filled = all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0
    return (fx, fy, cx, cy) if filled else None


def is_rectified(topic: str) -> bool:
    """Return whether a topic's name says, as names in ROS do, that its pictures are rectified."""
    return _RECTIFIED.search(topic) is not None


def _check_even(msg: ImageMessage, *sides: str) -> None:
    for side in sides:
        if getattr(msg, side) % 2:
            raise BadImage(
                f'{msg.encoding!r} has one colour for two pixels, so its {side} must be even, '
                f'but the image has {msg.width}x{msg.height} pixels.'
            )


def _rows(msg: ImageMessage, count: int, row_bytes: int, step: int) -> NDArray[np.uint8]:
    """Return (count, step) uint8, a view of the message, after checking that it is all there."""
    if step < row_bytes:
        raise BadImage(
            f'step is {step}, but a row of {msg.width} pixels in {msg.encoding!r} takes '
            f'{row_bytes} bytes.'
        )
    if len(msg.data) < count * step:
        raise BadImage(
            f'The image is cut short: {msg.width}x{msg.height} pixels in {msg.encoding!r} with '
            f'step {msg.step} take {count * step} bytes, but it has {len(msg.data)}.'
        )
    return np.frombuffer(msg.data, np.uint8, count * step).reshape(count, step)


def _pixels(msg: ImageMessage, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """Return (H, W) or (H, W, channels) without padding, a view of the message."""
    row_bytes = msg.width * channels * dtype.itemsize
    rows = _rows(msg, msg.height, row_bytes, msg.step)[:, :row_bytes]
    pixels: NDArray[Any] = rows.view(dtype.newbyteorder('>' if msg.is_bigendian else '<'))
    return pixels if channels == 1 else pixels.reshape(msg.height, msg.width, channels)


def _find_packed(encoding: str) -> tuple[_Packed, np.dtype[Any]]:
    for bits, dtype in (('8', np.uint8), ('16', np.uint16)):
        packed = _PACKED.get(encoding.removesuffix(bits))
        if packed is not None and encoding.endswith(bits):
            return packed, np.dtype(dtype)
    if encoding in (_IN_METRES, '64FC1'):
        raise BadImage(f'{encoding!r} is depth, no picture: give its topic as `depth`.')
    known = (*(f'{name}8' for name in _PACKED), *(f'{name}16' for name in _PACKED))
    others = (*_YUV_4_2_2, *_YUV_4_2_0, _YUV_4_4_4, *_GENERIC)
    raise BadImage(
        f'The encoding {quoted(encoding)} is not known; there are {", ".join((*known, *others))}.'
    )


def _packed_to_rgb(pixels: NDArray[Any], packed: _Packed) -> RgbImage:
    """Take 16-bit channels down to 8, demosaic or reorder; the result shares no memory."""
    if pixels.dtype.itemsize == 2:
        pixels = to_8_bits(pixels)
    if packed.to_rgb is None:
        return np.array(pixels, np.uint8, order='C')
    return _as_rgb(cv2.cvtColor(np.ascontiguousarray(pixels), packed.to_rgb))


def _as_rgb(picture: Any) -> RgbImage:
    return np.asarray(picture, np.uint8)


def _decode_nv12(msg: ImageMessage, to_rgb: int) -> RgbImage:
    """Decode a luma plane above a plane of interleaved chroma at half the size."""
    _check_even(msg, 'width', 'height')
    planes = _rows(msg, msg.height * 3 // 2, msg.width, msg.step)[:, : msg.width]
    return _as_rgb(cv2.cvtColor(np.ascontiguousarray(planes), to_rgb))


def _decode_nv24(msg: ImageMessage) -> RgbImage:
    """Decode a luma plane above a plane of interleaved chroma at full size, rows twice as long."""
    height, width = msg.height, msg.width
    planes = _rows(msg, height * 3, width, msg.step)
    luma = planes[:height, :width, None]
    chroma = planes[height:].reshape(height, 2 * msg.step)[:, : 2 * width]
    yuv = np.concatenate((luma, chroma.reshape(height, width, 2)), axis=2)
    return _as_rgb(cv2.transform(yuv, _YUV_TO_RGB))


@lru_cache(maxsize=32)
def _warn_once(warning: str) -> None:
    """Log a warning about a camera once, not for each of its images."""
    _logger.warning(warning)


def _decode_compressed(msg: CompressedImageMessage, max_pixels: int) -> RgbImage:
    data = bytes(msg.data)
    if msg.format == zlib_image.FORMAT:
        return decode_image(zlib_image.unpack(data, max_pixels), max_pixels)
    source, _, how = (part.strip() for part in msg.format.partition(';'))
    if 'compressedDepth' in how:
        raise BadImage(f'{quoted(msg.format)} is depth, no picture: give its topic as `depth`.')
    picture = inflate(data, msg.format, max_pixels)
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    if picture.dtype not in (np.uint8, np.uint16) or channels == 2:
        raise BadImage(
            f'The compressed image ({quoted(msg.format)}) has {picture.shape} {picture.dtype}, '
            'which is no picture; if it is depth, give its topic as `depth`.'
        )
    if channels == 1:
        if is_jpeg(data) and source.endswith('16') and picture.dtype == np.uint8:
            # A JPEG keeps the upper byte alone.
            picture = picture.astype(np.uint16) << 8
        packed, _ = _find_packed(f'{_grey_or_mosaic(msg.format, source, how)}8')
    else:
        packed, _ = _find_packed(f'{_colour_order(data, msg.format, source, how)[channels]}8')
    return _packed_to_rgb(picture, packed)


def _grey_or_mosaic(text: str, source: str, how: str) -> str:
    """Return what an image of one channel is: grey, or a sensor's mosaic.

    The transport `compressed` leaves a mosaic as it is in a PNG and a TIFF, and writes it as grey;
    for a JPEG, it makes a grey image of it first and says so.
    """
    if not source.startswith('bayer_'):
        return 'mono'
    if 'compressed mono' not in how:
        return source.rstrip('0123456789')
    _warn_once(
        f'The images ({quoted(text)}) are grey: image_transport makes a grey JPEG of a Bayer '
        'image. For colours, set the publisher to png, subscribe to the raw image, or compress '
        'what image_proc has made of it.'
    )
    return 'mono'


def _colour_order(data: bytes, text: str, source: str, how: str) -> dict[int, str]:
    """Return the names of three and of four channels in the order in which they were decoded."""
    if is_tiff(data):
        # Written as the image was, whatever a TIFF's readers take the first channel for.
        swapped = source.startswith('rgb') and 'compressed bgr' not in how
        return {3: 'rgb', 4: 'rgba'} if swapped else {3: 'bgr', 4: 'bgra'}
    if 'compressed rgb' in how:
        _warn_once(
            f'The format {quoted(text)} says that red and blue have changed places in the file; '
            'they are taken as the file itself has them, as no version of image_transport writes '
            'this and drivers that do mean an ordinary file. If red and blue are exchanged in '
            '`overlay`, have the publisher encode its images as they are.'
        )
    return {3: 'bgr', 4: 'bgra'}


def _decode_compressed_depth(msg: CompressedImageMessage, max_pixels: int) -> DepthImage:
    data = bytes(msg.data)
    if msg.format == zlib_image.FORMAT:
        return decode_depth(zlib_image.unpack(data, max_pixels), max_pixels)
    source, _, how = (part.strip() for part in msg.format.partition(';'))
    data, scale = _without_depth_header(data, msg.format, how)
    if 'rvl' in msg.format.lower():
        image: NDArray[Any] = rvl.decompress(data, max_pixels)
    else:
        image = inflate(data, msg.format, max_pixels)
    if image.ndim == 2 and image.dtype == np.float32:
        return _only_positive(image)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise BadImage(
            f'The depth image ({quoted(msg.format)}) has {image.shape} {image.dtype}; '
            'depth is a PNG of one 16-bit channel.'
        )
    if source != _IN_METRES:
        return _from_millimetres(image)
    if scale is None:
        raise BadImage(f'{quoted(msg.format)} does not say how its metres were written.')
    return _from_inverse(image, *scale)


def _without_depth_header(
    data: bytes, text: str, how: str
) -> tuple[bytes, tuple[float, float] | None]:
    """Take off what compressed_depth_image_transport puts before the image, if it is there.

    Its older versions do not say in the format that they do.
    """
    size = _DEPTH_HEADER.size
    # RVL alone begins with the number of columns, the header with a kind that is always 0.
    headed = 'compressedDepth' in how or is_png(data[size:])
    headed |= 'rvl' in text.lower() and data.startswith(bytes(4))
    if not headed or is_png(data) or is_tiff(data):
        return data, None
    if len(data) < size:
        raise BadImage(f'The depth image ({quoted(text)}) is cut short: {len(data)} bytes.')
    _, a, b = _DEPTH_HEADER.unpack_from(data)
    return data[size:], (a, b)


def _from_millimetres(image: NDArray[np.uint16]) -> DepthImage:
    return _only_positive(image.astype(np.float32) * np.float32(0.001))


def _from_inverse(image: NDArray[np.uint16], a: float, b: float) -> DepthImage:
    """Undo compressedDepth's a / depth + b; 0 is unknown."""
    with np.errstate(divide='ignore', invalid='ignore'):
        depth = np.float32(a) / (image.astype(np.float32) - np.float32(b))
    depth[image == 0] = np.nan
    return _only_positive(depth)


def _only_positive(depth: DepthImage) -> DepthImage:
    depth[~((depth > 0) & (depth <= _FARTHEST))] = np.nan
    return depth
