"""Resize on the GPU to the very pixels that Pillow's resize gives.

Checkpoints were trained on and published with Pillow's resizing; other antialiased resizing is off
by a few grey levels. This is Pillow's arithmetic: fixed-point weights of 22 bits, one direction
after the other, rounded to bytes in between. Which direction comes first differs between sizes and
Pillow's versions, so Pillow itself is asked, once per size.
"""

from __future__ import annotations

from functools import lru_cache
import math

import numpy as np
from PIL import Image
import torch

from segzero_ros.types import RgbImage

_BITS = 22
# Width first, height first, as axes of an image.
_ORDERS = ((1, 0), (0, 1))
_PROBES = 64
_REACH = {'bilinear': 1.0, 'bicubic': 2.0}


def resize_like_pillow(
    image: torch.Tensor, size: tuple[int, int], resampling: str
) -> torch.Tensor:
    """Resize an image on the device that it is on.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the result.
        resampling: `bilinear` or `bicubic`.

    Returns:
        (height, width, 3) uint8.
    """
    source = (image.shape[1], image.shape[0])
    axes = _order(source, size, resampling, image.device)
    if axes is None:
        resized = _by_pillow(image.cpu().numpy(), size, resampling)
        return torch.from_numpy(resized).to(image.device)
    return _in_order(image, size, resampling, axes)


@lru_cache(maxsize=8)
def _order(
    source: tuple[int, int], size: tuple[int, int], resampling: str, device: torch.device
) -> tuple[int, int] | None:
    """Return the axes in the order in which Pillow resizes them; None if it does otherwise."""
    generator = np.random.default_rng(0)
    for _ in range(_PROBES):
        noise = generator.integers(0, 2, (*source[::-1], 3), np.uint8) * np.uint8(255)
        expected = torch.from_numpy(_by_pillow(noise, size, resampling)).to(device)
        on_device = torch.from_numpy(noise).to(device)
        resized = {axes: _in_order(on_device, size, resampling, axes) for axes in _ORDERS}
        right = [axes for axes, image in resized.items() if torch.equal(image, expected)]
        # A few pixels may come out alike in both orders and tell nothing of other images.
        if len(right) < len(_ORDERS) or source[0] == size[0] or source[1] == size[1]:
            return right[0] if right else None
    return None


def _by_pillow(image: RgbImage, size: tuple[int, int], resampling: str) -> RgbImage:
    return np.array(Image.fromarray(image).resize(size, Image.Resampling[resampling.upper()]))


def _in_order(
    image: torch.Tensor, size: tuple[int, int], resampling: str, axes: tuple[int, int]
) -> torch.Tensor:
    for axis in axes:
        length = size[1 - axis]
        if image.shape[axis] != length:
            image = _along(image, axis, length, resampling)
    return image


def _along(image: torch.Tensor, axis: int, length: int, resampling: str) -> torch.Tensor:
    first, weights = _weights(image.shape[axis], length, resampling, image.device)
    shape = [1, 1, 1]
    shape[axis] = length
    last = image.shape[axis] - 1
    total: torch.Tensor | int = 1 << (_BITS - 1)
    for tap in range(weights.shape[1]):
        pixels = image.index_select(axis, (first + tap).clamp_(max=last)).to(torch.int32)
        total = total + pixels * weights[:, tap].view(shape)
    assert isinstance(total, torch.Tensor)
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=8)
def _weights(
    source: int, length: int, resampling: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first source pixel of each result pixel, (length,), and its weights."""
    scale = source / length
    stretch = max(scale, 1.0)
    reach = _REACH[resampling] * stretch
    taps = 2 * math.ceil(reach) + 1
    firsts, rows = [], []
    for place in range(length):
        centre = (place + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        stop = min(int(centre + reach + 0.5), source)
        raw = [_filter((at - centre + 0.5) / stretch, resampling) for at in range(first, stop)]
        total = sum(raw)
        row = [_fixed(value / total) for value in raw]
        firsts.append(first)
        rows.append(row + [0] * (taps - len(row)))
    return (
        torch.tensor(firsts, device=device),
        torch.tensor(rows, dtype=torch.int32, device=device),
    )


def _filter(distance: float, resampling: str) -> float:
    x = abs(distance)
    if resampling == 'bilinear':
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


def _fixed(value: float) -> int:
    return int(value * (1 << _BITS) + (0.5 if value >= 0 else -0.5))
