"""From 16-bit channels to 8-bit ones by the range that a sensor uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# What is white in 16 bits, by the brightest pixel: where that is in the upper half of the range of
# a sensor of 10, 12, 14 or 16 bits, the range's end. One pixel in so many, hot ones, may exceed it
_BRIGHTEST = (0x3FF, 0x7FF, 0xFFF, 0x1FFF, 0x3FFF, 0x7FFF, 0xFFFF)
_WHITE = (0x400, 0x1000, 0x1000, 0x4000, 0x4000, 0x10000, 0x10000)
_HOT = 1000


def white_level(pixels: NDArray[np.uint16]) -> int:
    """Return the value that shall be white in an image of 16-bit channels.

    That is 2^10, 2^12, 2^14 or 2^16 where the brightest pixel, but for one in a thousand, lies in
    the upper half of such a range, and in between where it does not: a small change of the scene
    is a small one of the brightness. By the image alone: the same one always looks the same.

    Args:
        pixels: of any shape.
    """
    counts = np.bincount(pixels.reshape(-1), minlength=1 << 16)
    brighter = pixels.size - np.cumsum(counts)
    brightest = int(np.argmax(brighter <= pixels.size // _HOT))
    return round(float(np.interp(brightest, _BRIGHTEST, _WHITE)))


def to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image of 16-bit channels scaled so that `white_level` is white.

    Args:
        pixels: (H, W) or (H, W, C), uint16 in any byte order; a fourth channel is alpha, which
            says nothing of the sensor.
    """
    native = pixels.astype(np.uint16)
    seen = native[..., :3] if native.ndim == 3 else native
    greys = np.arange(1 << 16) * 256 // white_level(seen)
    return np.minimum(greys, 255).astype(np.uint8)[native]
