"""Images of the transport `zstd`, which in spite of its name are compressed with zlib.

A CompressedImage of the format `zstd` holds, little-endian, height and width (uint32), whether
the pixels are big-endian (a byte), the step and the length of the encoding (uint32), the encoding,
and then the compressed pixels of a sensor_msgs/Image. So zstd_image_transport writes it, in Jazzy
to Lyrical.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct
from typing import Any
import zlib

from segzero_ros.conversions.compressed import check_size
from segzero_ros.types import BadImage

FORMAT = 'zstd'
_HEADER = struct.Struct('<IIBII')
_ZSTD_BEGINS = b'\x28\xb5\x2f\xfd'
# Bytes of the widest pixel that is read, four channels of 16 bits; and how many rows of one byte a
# pixel there are at most, for one of the image, in planes of luma and chroma.
_WIDEST, _PLANES = 8, 3
# Either container of zlib's data is found out.
_ANY_CONTAINER = zlib.MAX_WBITS | 32


@dataclass
class UnpackedImage:
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


def unpack(data: bytes, max_pixels: int) -> UnpackedImage:
    """Decompress a message of the transport `zstd`.

    Args:
        data: the message's.
        max_pixels: larger images are refused before memory is taken for them.

    Raises:
        BadImage: it is too large, cut short or broken.
    """
    if data.startswith(_ZSTD_BEGINS):
        raise BadImage(
            "The image ('zstd') is compressed with Zstandard itself, which image_transport does "
            'not do; subscribe to the raw topic, or to jpeg or png.'
        )
    if len(data) < _HEADER.size:
        raise BadImage(f"The image ('zstd') is cut short: {len(data)} bytes.")
    height, width, is_bigendian, step, length = _HEADER.unpack_from(data)
    check_size(width, height, max_pixels)
    begin = _HEADER.size + length
    if begin > len(data) or step * height > 2 * _WIDEST * width * height:
        raise BadImage("The image ('zstd') is broken: its header contradicts its size.")
    try:
        most = max(step, _PLANES * min(step, 2 * width)) * height
        pixels = zlib.decompressobj(_ANY_CONTAINER).decompress(data[begin:], most or 1)
    except zlib.error as error:
        raise BadImage(f"The image ('zstd') is broken: {error}.") from error
    encoding = data[_HEADER.size : begin].decode('ascii', 'replace')
    return UnpackedImage(height, width, encoding, is_bigendian, step, pixels)
