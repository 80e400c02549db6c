"""Depth images in metres from sensor_msgs/Image and sensor_msgs/CompressedImage."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions import rvl, zlib_image
from segzero_ros.conversions.compressed import check_size, decompress, is_png, is_tiff, quoted
from segzero_ros.conversions.raw_image import (
    CompressedImageMessage,
    ImageMessage,
    MAX_PIXELS,
    read_pixels,
)
from segzero_ros.types import BadImage, DepthImage

_MILLIMETRE_ENCODINGS = ('16UC1', 'mono16')
_METRE_ENCODING = '32FC1'
# Longer than any depth camera's range, in metres: some write a huge value for unknown depth.
_MAX_DEPTH = 10_000.0
# compressed_depth_image_transport's ConfigHeader, before its PNG or RVL data: the format (int32)
# and the two quantisation parameters a and b (float32).
_CONFIG_HEADER = struct.Struct('<iff')


def decode_depth(
    msg: ImageMessage | CompressedImageMessage, max_pixels: int = MAX_PIXELS
) -> DepthImage:
    """Decode a depth image.

    Args:
        msg: sensor_msgs/Image as 16UC1 or mono16 (millimetres, 0 unknown) or 32FC1 (metres), or
            CompressedImage with a 16-bit PNG or RVL, plain or of the transport `compressedDepth`,
            with a TIFF, or of the transport `zstd`.
        max_pixels: larger images are refused before memory is allocated for them.

    Returns:
        (H, W) float32 metres in memory of its own; NaN where unknown, not positive or over 10 km.

    Raises:
        BadImage: the image cannot be decoded or is not a depth image; the text gives the reason.
    """
    if isinstance(msg, CompressedImageMessage):
        return _decode_compressed(msg, max_pixels)
    check_size(msg.width, msg.height, max_pixels)
    if msg.encoding in _MILLIMETRE_ENCODINGS:
        return _from_millimetres(read_pixels(msg, np.dtype(np.uint16), 1))
    if msg.encoding == _METRE_ENCODING:
        return _mask_invalid(read_pixels(msg, np.dtype(np.float32), 1).astype(np.float32))
    raise BadImage(
        f'{quoted(msg.encoding)} is not a depth encoding: expected 16UC1 (millimetres) or 32FC1 '
        '(metres).'
    )


def _decode_compressed(msg: CompressedImageMessage, max_pixels: int) -> DepthImage:
    data = bytes(msg.data)
    if msg.format == zlib_image.FORMAT:
        return decode_depth(zlib_image.unpack(data, max_pixels), max_pixels)
    source, _, compression = (part.strip() for part in msg.format.partition(';'))
    data, quantisation = _split_config_header(data, msg.format, compression)
    if 'rvl' in msg.format.lower():
        image: NDArray[Any] = rvl.decompress(data, max_pixels)
    else:
        image = decompress(data, msg.format, max_pixels)
    if image.ndim == 2 and image.dtype == np.float32:
        return _mask_invalid(image)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise BadImage(
            f'The depth image ({quoted(msg.format)}) has {image.shape} {image.dtype}; '
            'depth is a PNG of one 16-bit channel.'
        )
    if source != _METRE_ENCODING:
        return _from_millimetres(image)
    if quantisation is None:
        raise BadImage(f'{quoted(msg.format)} has no quantisation parameters for its metres.')
    return _from_inverse(image, *quantisation)


def _split_config_header(
    data: bytes, text: str, compression: str
) -> tuple[bytes, tuple[float, float] | None]:
    """Return the image's data, and a and b of compressed_depth_image_transport's header, if any.

    Its older versions write the header without naming the transport in the format.
    """
    size = _CONFIG_HEADER.size
    # Plain RVL starts with the number of columns, the header with a format that is always 0.
    has_header = 'compressedDepth' in compression or is_png(data[size:])
    has_header |= 'rvl' in text.lower() and data.startswith(bytes(4))
    if not has_header or is_png(data) or is_tiff(data):
        return data, None
    if len(data) < size:
        raise BadImage(f'The depth image ({quoted(text)}) is truncated: {len(data)} bytes.')
    _, a, b = _CONFIG_HEADER.unpack_from(data)
    return data[size:], (a, b)


def _from_millimetres(image: NDArray[np.uint16]) -> DepthImage:
    return _mask_invalid(image.astype(np.float32) * np.float32(0.001))


def _from_inverse(image: NDArray[np.uint16], a: float, b: float) -> DepthImage:
    """Undo compressedDepth's quantisation a / depth + b; 0 is unknown."""
    with np.errstate(divide='ignore', invalid='ignore'):
        depth = np.float32(a) / (image.astype(np.float32) - np.float32(b))
    depth[image == 0] = np.nan
    return _mask_invalid(depth)


def _mask_invalid(depth: DepthImage) -> DepthImage:
    depth[~((depth > 0) & (depth <= _MAX_DEPTH))] = np.nan
    return depth
