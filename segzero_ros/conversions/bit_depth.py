"""Scale 16-bit channels to 8 bits by the range that the sensor uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# White level by the brightest pixel: the full range of a sensor with 10, 12, 14 or 16 bits where
# that pixel is in the range's upper half, interpolated in between.
_BRIGHTEST = (0x3FF, 0x7FF, 0xFFF, 0x1FFF, 0x3FFF, 0x7FFF, 0xFFFF)
_WHITE = (0x400, 0x1000, 0x1000, 0x4000, 0x4000, 0x10000, 0x10000)
# One pixel in this many may be brighter: hot pixels.
_HOT_PIXEL_RATIO = 1000


def white_level(pixels: NDArray[np.uint16]) -> int:
    """Return the value to map to white in an image with 16-bit channels.

    2^10, 2^12, 2^14 or 2^16 where the brightest pixel (ignoring one in a thousand) is in the upper
    half of such a range. In between it is interpolated, so that a small change of the scene does
    not make the image flicker. It depends on this image alone, so the result is reproducible.

    Args:
        pixels: of any shape.
    """
    counts = np.bincount(pixels.reshape(-1), minlength=1 << 16)
    brighter = pixels.size - np.cumsum(counts)
    brightest = int(np.argmax(brighter <= pixels.size // _HOT_PIXEL_RATIO))
    return round(float(np.interp(brightest, _BRIGHTEST, _WHITE)))


def to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image of 16-bit channels scaled so that `white_level` is white.

    Args:
        pixels: (H, W) or (H, W, C), uint16 in any byte order; a fourth channel is alpha and does
            not count for the white level.
    """
    native = pixels.astype(np.uint16)
    colours = native[..., :3] if native.ndim == 3 else native
    lookup = np.arange(1 << 16) * 256 // white_level(colours)
    return np.minimum(lookup, 255).astype(np.uint8)[native]
