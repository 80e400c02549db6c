"""Images of the transport `zstd`, which despite its name are compressed with zlib.

A CompressedImage of the format `zstd` holds, little-endian, height and width (uint32),
is_bigendian (uint8), step and the length of the encoding (uint32), the encoding, and then the
compressed pixels of a sensor_msgs/Image, as written by zstd_image_transport in Jazzy to Lyrical.
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
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
# Bytes of the largest pixel: four channels of 16 bits. Byte rows per image row: luma and chroma
# planes of NV24.
_MAX_PIXEL_BYTES, _MAX_PLANES = 8, 3
# Detect a zlib or a gzip header.
_ANY_HEADER = zlib.MAX_WBITS | 32


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
        data: of the message.
        max_pixels: larger images are refused before memory is allocated for them.

    Raises:
        BadImage: it is too large, truncated or corrupt.
    """
    if data.startswith(_ZSTD_MAGIC):
        raise BadImage(
            "The image ('zstd') is compressed with Zstandard itself, unlike image_transport's; "
            'subscribe to the raw topic, or to jpeg or png.'
        )
    if len(data) < _HEADER.size:
        raise BadImage(f"The image ('zstd') is truncated: {len(data)} bytes.")
    height, width, is_bigendian, step, length = _HEADER.unpack_from(data)
    check_size(width, height, max_pixels)
    start = _HEADER.size + length
    if start > len(data) or step * height > 2 * _MAX_PIXEL_BYTES * width * height:
        raise BadImage("The image ('zstd') is corrupt: its header contradicts its size.")
    try:
        max_bytes = max(step, _MAX_PLANES * min(step, 2 * width)) * height
        pixels = zlib.decompressobj(_ANY_HEADER).decompress(data[start:], max_bytes or 1)
    except zlib.error as error:
        raise BadImage(f"The image ('zstd') is corrupt: {error}.") from error
    encoding = data[_HEADER.size : start].decode('ascii', 'replace')
    return UnpackedImage(height, width, encoding, is_bigendian, step, pixels)
