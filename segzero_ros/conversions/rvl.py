"""RVL, the lossless compression of depth images of compressed_depth_image_transport.

After the number of columns and that of rows (uint32) come 32-bit words, all little-endian, whose
nibbles are read from the highest to the lowest. A number has three bits in each nibble, the lowest
ones first; the nibble's highest bit says that more follow. The image is runs: how many zeros, how
many others, then for each other its difference to the pixel that was no zero before, 0 at first,
as 2d, or -2d - 1 where d is negative. (A. D. Wilson, Fast Lossless Depth Image Compression, 2017.)
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.compressed import check_size
from segzero_ros.types import BadImage

_SIZE = struct.Struct('<II')
# No count and no difference of a depth image takes more nibbles: 30 bits.
_LONGEST_NUMBER = 10
# A difference takes six nibbles at most, and a pixel between two zeros two more for the counts.
_MOST_BYTES_A_PIXEL = 4
_SHORT = 'The depth image is cut short: its RVL data ends after {} of {} pixels.'


def decompress(data: bytes, max_pixels: int) -> NDArray[np.uint16]:
    """Decompress an RVL image.

    Args:
        data: from the number of columns on.
        max_pixels: larger images are refused before memory is taken for them.

    Returns:
        (H, W) uint16.

    Raises:
        BadImage: it is too large, cut short or broken.
    """
    if len(data) < _SIZE.size:
        raise BadImage(f'The depth image is cut short: {len(data)} bytes of RVL.')
    width, height = _SIZE.unpack_from(data)
    check_size(width, height, max_pixels)
    pixels = width * height
    # What is behind the last word that can be needed is not looked at.
    words = min((len(data) - _SIZE.size) // 4, pixels * _MOST_BYTES_A_PIXEL // 4 + 8)
    numbers = _numbers(np.frombuffer(data, '<u4', words, _SIZE.size))
    counts, differences = _runs(numbers, pixels)
    values = np.cumsum((differences >> 1) ^ -(differences & 1))
    image = np.zeros(pixels, np.uint16)
    # Zeros and others in turn.
    image[np.repeat(np.arange(len(counts)) % 2 == 1, counts)] = values.astype(np.uint16)
    return image.reshape(height, width)


def _numbers(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return all numbers in the words; a last one without its end is left out."""
    octets = words.astype('>u4').view(np.uint8)
    nibbles = np.empty(2 * len(octets), np.uint8)
    nibbles[::2] = octets >> 4
    nibbles[1::2] = octets & 15
    ends = np.flatnonzero(nibbles < 8)
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.size and lengths.max() > _LONGEST_NUMBER:
        # Behind the image there may be anything, so what comes before is still read.
        wrong = int(np.argmax(lengths > _LONGEST_NUMBER))
        starts, lengths = starts[:wrong], lengths[:wrong]
    numbers = (nibbles[starts] & 7).astype(np.int64)
    longer = np.arange(len(starts))
    for place in range(1, _LONGEST_NUMBER):
        longer = longer[lengths[longer] > place]
        if not longer.size:
            break
        numbers[longer] |= (nibbles[starts[longer] + place] & 7).astype(np.int64) << 3 * place
    return numbers


def _runs(numbers: NDArray[np.int64], pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lengths of the runs, of zeros and of others in turn, and all differences."""
    # Faster than the array where single numbers are read.
    listed = numbers.data
    counts: list[int] = []
    places: list[int] = []
    place = done = 0
    while done < pixels:
        if place + 1 >= len(listed):
            # A run of zeros at the end needs no count of others.
            if place < len(listed) and done + listed[place] == pixels:
                counts += (listed[place], 0)
                break
            raise BadImage(_SHORT.format(done, pixels))
        zeros, others = listed[place], listed[place + 1]
        done += zeros + others
        counts += (zeros, others)
        places.append(place)
        place += 2 + others
    if sum(counts) != pixels:
        raise BadImage(f'The depth image is broken: its RVL data has more than {pixels} pixels.')
    if place > len(listed):
        raise BadImage(_SHORT.format(pixels - (place - len(listed)), pixels))
    is_count = np.zeros(len(listed), np.bool_)
    is_count[places] = True
    is_count[np.add(places, 1, dtype=np.int64)] = True
    return np.array(counts, np.int64), numbers[:place][~is_count[:place]]
