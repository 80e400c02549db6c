"""RVL, the lossless depth compression of compressed_depth_image_transport.

The number of columns and of rows (uint32) are followed by 32-bit words, all little-endian, whose
nibbles are read from the highest to the lowest. A number has three bits per nibble, the lowest
bits first; the nibble's highest bit marks a continuation. The image is a sequence of runs: a count
of zeros, a count of non-zeros, then each non-zero pixel's difference d to the previous non-zero
pixel (0 at first), zigzag-coded as 2d, or -2d - 1 if negative. (A. D. Wilson, Fast Lossless Depth
Image Compression, 2017.)
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.compressed import check_size
from segzero_ros.types import BadImage

_SIZE = struct.Struct('<II')
# Nibbles of the largest count or difference in a depth image: 30 bits.
_MAX_NIBBLES = 10
# A difference takes at most six nibbles, and a pixel between two zeros two more for the counts.
_MAX_BYTES_PER_PIXEL = 4
_TRUNCATED = 'The depth image is truncated: its RVL data ends after {} of {} pixels.'


def decompress(data: bytes, max_pixels: int) -> NDArray[np.uint16]:
    """Decompress an RVL image.

    Args:
        data: starts with the number of columns.
        max_pixels: larger images are refused before memory is allocated for them.

    Returns:
        (H, W) uint16.

    Raises:
        BadImage: it is too large, truncated or corrupt.
    """
    if len(data) < _SIZE.size:
        raise BadImage(f'The depth image is truncated: {len(data)} bytes of RVL.')
    width, height = _SIZE.unpack_from(data)
    check_size(width, height, max_pixels)
    pixels = width * height
    # Words beyond those that the pixels can take are not decoded.
    words = min((len(data) - _SIZE.size) // 4, pixels * _MAX_BYTES_PER_PIXEL // 4 + 8)
    numbers = _numbers(np.frombuffer(data, '<u4', words, _SIZE.size))
    counts, differences = _runs(numbers, pixels)
    values = np.cumsum((differences >> 1) ^ -(differences & 1))
    image = np.zeros(pixels, np.uint16)
    # Runs of zeros and of non-zeros alternate.
    image[np.repeat(np.arange(len(counts)) % 2 == 1, counts)] = values.astype(np.uint16)
    return image.reshape(height, width)


def _numbers(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return all complete numbers in the words."""
    octets = words.astype('>u4').view(np.uint8)
    nibbles = np.empty(2 * len(octets), np.uint8)
    nibbles[::2] = octets >> 4
    nibbles[1::2] = octets & 15
    ends = np.flatnonzero(nibbles < 8)
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.size and lengths.max() > _MAX_NIBBLES:
        # The image may be followed by arbitrary bytes: decode what precedes the invalid number.
        invalid = int(np.argmax(lengths > _MAX_NIBBLES))
        starts, lengths = starts[:invalid], lengths[:invalid]
    numbers = (nibbles[starts] & 7).astype(np.int64)
    longer = np.arange(len(starts))
    for nibble in range(1, _MAX_NIBBLES):
        longer = longer[lengths[longer] > nibble]
        if not longer.size:
            break
        numbers[longer] |= (nibbles[starts[longer] + nibble] & 7).astype(np.int64) << 3 * nibble
    return numbers


def _runs(numbers: NDArray[np.int64], pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lengths of the runs, alternately of zeros and non-zeros, and all differences."""
    # Reading single numbers from a memoryview is faster than from the array.
    values = numbers.data
    counts: list[int] = []
    count_indices: list[int] = []
    index = done = 0
    while done < pixels:
        if index + 1 >= len(values):
            # A final run of zeros needs no count of non-zeros.
            if index < len(values) and done + values[index] == pixels:
                counts += (values[index], 0)
                break
            raise BadImage(_TRUNCATED.format(done, pixels))
        zeros, nonzeros = values[index], values[index + 1]
        done += zeros + nonzeros
        counts += (zeros, nonzeros)
        count_indices.append(index)
        index += 2 + nonzeros
    if sum(counts) != pixels:
        raise BadImage(f'The depth image is corrupt: its RVL data has more than {pixels} pixels.')
    if index > len(values):
        raise BadImage(_TRUNCATED.format(pixels - (index - len(values)), pixels))
    is_count = np.zeros(len(values), np.bool_)
    is_count[count_indices] = True
    is_count[np.add(count_indices, 1, dtype=np.int64)] = True
    return np.array(counts, np.int64), numbers[:index][~is_count[:index]]
