"""From the bytes of a JPEG or PNG to an array, with a look at them before memory is taken.

Imports `types`, OpenCV and NumPy only.
"""

from __future__ import annotations

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


def inflate(data: bytes, what: str, max_pixels: int) -> NDArray[Any]:
    """Decompress a picture.

    Args:
        data: of a JPEG or a PNG.
        what: the message's own word for it, for the errors.
        max_pixels: larger pictures are refused before memory is taken for them.

    Returns:
        (H, W), (H, W, 3) BGR or (H, W, 4) BGRA; uint8, or uint16 of a 16-bit PNG.

    Raises:
        BadImage: it is something else, too large, cut short or broken.
    """
    if data.startswith(_PNG_BEGINS):
        width, height = _png_size(data)
    elif data.startswith(_JPEG_BEGINS):
        width, height = _jpeg_size(data)
    else:
        raise BadImage(
            f'The compressed image ({quoted(what)}) is neither JPEG nor PNG; '
            f'its {len(data)} bytes begin with {data[:8].hex(" ") or "nothing"}.'
        )
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
