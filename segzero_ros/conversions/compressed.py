"""Decompress JPEG, PNG, TIFF and WebP, checking the header's size before allocating memory."""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import BadImage

_MAX_QUOTE_LENGTH = 60
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_JPEG_START = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
_TIFF_SIGNATURES = (b'II*\0', b'MM\0*')
# TIFF tags: image width, image length, and tile width, which no driver writes.
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE = 256, 257, 322
# Video codecs and unsupported image formats that a message's `format` may name.
_VIDEO = re.compile(
    r'\b(?:h\.?26[45]|avc1?|hevc|av1|vp[89]|mpeg4?|theora|ffmpeg|libx26[45]|hvc1)\b', re.I
)
_OTHER_IMAGE = re.compile(r'\b(?:avif|hei[cf]|jxl|jpeg-?xl|jp2|jpeg2000|gif|draco)\b', re.I)
# JPEG's start-of-frame markers: 0xC0 to 0xCF except those of tables (C4, C8, CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length. Decoders skip them; reading a length there would skip past the frame
# that the decoder finds.
_JPEG_STANDALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))


def quoted(text: str) -> str:
    """Return a message's text for an error: in quotes, truncated."""
    return repr(text if len(text) <= _MAX_QUOTE_LENGTH else text[:_MAX_QUOTE_LENGTH] + '…')


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImage for an image without pixels or with more than max_pixels."""
    if width <= 0 or height <= 0:
        raise BadImage(f'The image is empty: {width}x{height} pixels.')
    if width * height > max_pixels:
        raise BadImage(
            f'The image has {width}x{height} pixels; at most {max_pixels:,} are decoded.'
        )


def is_jpeg(data: bytes) -> bool:
    """Return whether data starts like a JPEG."""
    return data.startswith(_JPEG_START)


def is_png(data: bytes) -> bool:
    """Return whether data starts like a PNG."""
    return data.startswith(_PNG_SIGNATURE)


def is_tiff(data: bytes) -> bool:
    """Return whether data starts like a TIFF."""
    return data.startswith(_TIFF_SIGNATURES)


def decompress(data: bytes, text: str, max_pixels: int) -> NDArray[Any]:
    """Decompress an image.

    Args:
        data: a JPEG, PNG, TIFF or WebP.
        text: the message's `format`, for error messages.
        max_pixels: larger images are refused before memory is allocated for them.

    Returns:
        (H, W), (H, W, 3) BGR or (H, W, 4) BGRA; uint8, uint16 from a PNG or TIFF, or float32 from
        a TIFF. A TIFF's channels keep the order in which they were written; the transport
        `compressed` writes them in the source image's order.

    Raises:
        BadImage: it is in another format, too large, truncated or corrupt.
    """
    width, height = _size(data, text)
    check_size(width, height, max_pixels)
    try:
        # Unchanged: no rotation by EXIF, and 16 bits and alpha are preserved.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage(
            f'The compressed image ({quoted(text)}) cannot be decoded: {error}'
        ) from error
    if image is None:
        raise BadImage(f'The compressed image ({quoted(text)}, {width}x{height}) is corrupt.')
    return np.asarray(image)


def _size(data: bytes, text: str) -> tuple[int, int]:
    """Return the width and height in an image's header."""
    if is_png(data):
        return _png_size(data)
    if is_jpeg(data):
        return _jpeg_size(data)
    if is_tiff(data):
        return _tiff_size(data)
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        return _webp_size(data)
    if _VIDEO.search(text):
        raise BadImage(
            f'The compressed image ({quoted(text)}) is a video packet, neither JPEG nor PNG, '
            'and cannot be decoded on its own: subscribe to the raw topic, set its publisher to '
            'jpeg or png, or decode its transport with `ros2 run image_transport republish`.'
        )
    if _OTHER_IMAGE.search(text):
        raise BadImage(
            f'The compressed image ({quoted(text)}) is neither JPEG nor PNG, nor TIFF nor WebP: '
            'set its publisher to one of them, or subscribe to the raw topic.'
        )
    raise BadImage(
        f'The compressed image ({quoted(text)}) is neither JPEG nor PNG; '
        f'its {len(data)} bytes start with {data[:8].hex(" ") or "nothing"}.'
    )


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24:
        raise BadImage('The PNG is truncated: it ends in its header.')
    width, height = struct.unpack_from('>II', data, 16)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height after checking for the end marker.

    Decoders only warn about a missing end marker, and fill the rest of the image with grey.
    """
    offset = 2
    while offset + 9 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker in _JPEG_FRAMES:
            if data.rfind(_JPEG_END, offset) < 0:
                raise BadImage(f'The JPEG is truncated: its {len(data)} bytes have no end marker.')
            height, width = struct.unpack_from('>HH', data, offset + 5)
            return width, height
        if marker in _JPEG_STANDALONE:
            break
        # 0xFF may be repeated before a marker; any other marker here is followed by its length.
        is_fill = marker == 0xFF
        offset += 1 if is_fill else 2 + struct.unpack_from('>H', data, offset + 2)[0]
    raise BadImage(f'The JPEG is corrupt: its {len(data)} bytes contain no image size.')


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a TIFF's first image, which is the one that is decoded."""
    order = '<' if data.startswith(b'II') else '>'
    truncated = BadImage('The TIFF is truncated: it ends in its header.')
    if len(data) < 8:
        raise truncated
    (directory,) = struct.unpack_from(f'{order}I', data, 4)
    if directory + 2 > len(data):
        raise truncated
    (count,) = struct.unpack_from(f'{order}H', data, directory)
    sizes = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if entry + 12 > len(data):
            raise truncated
        tag, value_type = struct.unpack_from(f'{order}HH', data, entry)
        if tag == _TIFF_TILE:
            raise BadImage('The TIFF is tiled, which is not supported.')
        if tag in sizes:
            # Type 3 is uint16, 4 is uint32; both are left-aligned in the value's field.
            (sizes[tag],) = struct.unpack_from(
                f'{order}{"H" if value_type == 3 else "I"}', data, entry + 8
            )
    return sizes[_TIFF_WIDTH], sizes[_TIFF_HEIGHT]


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        raise BadImage('The WebP is truncated: it ends in its header.')
    chunk = data[12:16]
    if chunk == b'VP8X':
        width = int.from_bytes(data[24:27], 'little') + 1
        return width, int.from_bytes(data[27:30], 'little') + 1
    if chunk == b'VP8L':
        bits = int.from_bytes(data[21:25], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from('<HH', data, 26)
    return width & 0x3FFF, height & 0x3FFF
