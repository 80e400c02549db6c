"""From the bytes of a compressed image to an array, with a look at them before memory is taken."""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import BadImage

_LONGEST_WORD = 60
_PNG_BEGINS = b'\x89PNG\r\n\x1a\n'
_JPEG_BEGINS = b'\xff\xd8\xff'
_JPEG_ENDS = b'\xff\xd9'
_TIFF_BEGINS = (b'II*\0', b'MM\0*')
# Tags of a TIFF: how wide and high it is, and that it comes in tiles, which no driver writes.
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE = 256, 257, 322
# What a format may say that is a video or an image that is not read here.
_VIDEO = re.compile(
    r'\b(?:h\.?26[45]|avc1?|hevc|av1|vp[89]|mpeg4?|theora|ffmpeg|libx26[45]|hvc1)\b', re.I
)
_OTHER_IMAGE = re.compile(r'\b(?:avif|hei[cf]|jxl|jpeg-?xl|jp2|jpeg2000|gif|draco)\b', re.I)
# The markers of JPEG frames: 0xC0 to 0xCF without those of tables (C4, C8, CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: decoders step over them, so that reading a length there would hide the
# frame that they find.
_JPEG_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))


def quoted(text: str) -> str:
    """Return a word of a message for a sentence: in quotes, cut where nobody would read on."""
    return repr(text if len(text) <= _LONGEST_WORD else text[:_LONGEST_WORD] + '…')


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImage for a picture without pixels or with too many."""
    if width <= 0 or height <= 0:
        raise BadImage(f'The image is empty: {width}x{height} pixels.')
    if width * height > max_pixels:
        raise BadImage(
            f'The image has {width}x{height} pixels; more than {max_pixels:,} are not decoded.'
        )


def is_jpeg(data: bytes) -> bool:
    """Return whether data begins as a JPEG does."""
    return data.startswith(_JPEG_BEGINS)


def is_png(data: bytes) -> bool:
    """Return whether data begins as a PNG does."""
    return data.startswith(_PNG_BEGINS)


def is_tiff(data: bytes) -> bool:
    """Return whether data begins as a TIFF does."""
    return data.startswith(_TIFF_BEGINS)


def inflate(data: bytes, what: str, max_pixels: int) -> NDArray[Any]:
    """Decompress an image.

    Args:
        data: of a JPEG, a PNG, a TIFF or a WebP.
        what: the message's own word for it, for the errors.
        max_pixels: larger images are refused before memory is taken for them.

    Returns:
        (H, W), (H, W, 3) BGR or (H, W, 4) BGRA; uint8, uint16 of a PNG or TIFF, or float32 of a
        TIFF. A TIFF's channels are in the order in which it was written, which for the transport
        `compressed` is the one of the image before.

    Raises:
        BadImage: it is something else, too large, cut short or broken.
    """
    width, height = _size(data, what)
    check_size(width, height, max_pixels)
    try:
        # Unchanged: no rotation by EXIF, and 16 bits and alpha are seen for what they are.
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage(
            f'The compressed image ({quoted(what)}) cannot be decoded: {error}'
        ) from error
    if picture is None:
        raise BadImage(f'The compressed image ({quoted(what)}, {width}x{height}) is broken.')
    return np.asarray(picture)


def _size(data: bytes, what: str) -> tuple[int, int]:
    """Return the width and height that an image claims to have."""
    if is_png(data):
        return _png_size(data)
    if is_jpeg(data):
        return _jpeg_size(data)
    if is_tiff(data):
        return _tiff_size(data)
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        return _webp_size(data)
    if _VIDEO.search(what):
        raise BadImage(
            f'The compressed image ({quoted(what)}) is a piece of a video, neither JPEG nor PNG, '
            'and cannot be read alone: subscribe to the raw topic, set its publisher to jpeg or '
            'png, or let `ros2 run image_transport republish` decode its transport to raw.'
        )
    if _OTHER_IMAGE.search(what):
        raise BadImage(
            f'The compressed image ({quoted(what)}) is neither JPEG nor PNG, nor TIFF nor WebP: '
            'set its publisher to one of them, or subscribe to the raw topic.'
        )
    raise BadImage(
        f'The compressed image ({quoted(what)}) is neither JPEG nor PNG; '
        f'its {len(data)} bytes begin with {data[:8].hex(" ") or "nothing"}.'
    )


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24:
        raise BadImage('The PNG is cut short: it ends in its header.')
    width, height = struct.unpack_from('>II', data, 16)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height after checking that the JPEG has its beginning and its end.

    Decoders only warn about a missing end, and fill the rest of the picture with grey.
    """
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_FRAMES:
            if data.rfind(_JPEG_ENDS, at) < 0:
                raise BadImage(f'The JPEG is cut short: its {len(data)} bytes have no end marker.')
            height, width = struct.unpack_from('>HH', data, at + 5)
            return width, height
        if data[at + 1] in _JPEG_BARE:
            break
        # 0xFF may be repeated before a marker; every other one here is followed by its length.
        filled = data[at + 1] == 0xFF
        at += 1 if filled else 2 + struct.unpack_from('>H', data, at + 2)[0]
    raise BadImage(f'The JPEG is broken: its {len(data)} bytes name no picture size.')


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a TIFF's first image, which is the one that is decoded."""
    order = '<' if data.startswith(b'II') else '>'
    cut_short = BadImage('The TIFF is cut short: it ends in its header.')
    if len(data) < 8:
        raise cut_short
    (at,) = struct.unpack_from(f'{order}I', data, 4)
    if at + 2 > len(data):
        raise cut_short
    (count,) = struct.unpack_from(f'{order}H', data, at)
    sides = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if entry + 12 > len(data):
            raise cut_short
        tag, kind = struct.unpack_from(f'{order}HH', data, entry)
        if tag == _TIFF_TILE:
            raise BadImage('The TIFF is made of tiles, which are not read here.')
        if tag in sides:
            # 3 is uint16, 4 uint32; both begin where the value's field does.
            (sides[tag],) = struct.unpack_from(
                f'{order}{"H" if kind == 3 else "I"}', data, entry + 8
            )
    return sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        raise BadImage('The WebP is cut short: it ends in its header.')
    chunk = data[12:16]
    if chunk == b'VP8X':
        width = int.from_bytes(data[24:27], 'little') + 1
        return width, int.from_bytes(data[27:30], 'little') + 1
    if chunk == b'VP8L':
        bits = int.from_bytes(data[21:25], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from('<HH', data, 26)
    return width & 0x3FFF, height & 0x3FFF
