"""Bit-exact re-implementation of Pillow's resize in torch, for the GPU.

Checkpoints were trained and published with Pillow's resize; other antialiased filters differ by a
few grey levels. As in Pillow (Resample.c), the filter is separable with fixed-point weights of 22
bits, and rounds to bytes between the axes. Which axis comes first depends on the size and on
Pillow's version, so the order is found by comparison with Pillow, once per size.
"""

from __future__ import annotations

from functools import lru_cache
import math

import numpy as np
from PIL import Image
import torch

from segzero_ros.types import RgbImage

_PRECISION_BITS = 22
# Horizontal first, vertical first; numbers are axes of the image.
_AXIS_ORDERS = ((1, 0), (0, 1))
_PROBES = 64
# Pillow's filter support, in source pixels.
_SUPPORT = {'bilinear': 1.0, 'bicubic': 2.0}


def resize_like_pillow(
    image: torch.Tensor, size: tuple[int, int], resampling: str
) -> torch.Tensor:
    """Resize an image on its device.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the result.
        resampling: `bilinear` or `bicubic`.

    Returns:
        (height, width, 3) uint8.
    """
    source = (image.shape[1], image.shape[0])
    axes = _axis_order(source, size, resampling, image.device)
    if axes is None:
        resized = _resize_by_pillow(image.cpu().numpy(), size, resampling)
        return torch.from_numpy(resized).to(image.device)
    return _resize_axes(image, size, resampling, axes)


@lru_cache(maxsize=8)
def _axis_order(
    source: tuple[int, int], size: tuple[int, int], resampling: str, device: torch.device
) -> tuple[int, int] | None:
    """Return the axes in Pillow's order; None if neither order reproduces its result."""
    generator = np.random.default_rng(0)
    for _ in range(_PROBES):
        noise = generator.integers(0, 2, (*source[::-1], 3), np.uint8) * np.uint8(255)
        expected = torch.from_numpy(_resize_by_pillow(noise, size, resampling)).to(device)
        on_device = torch.from_numpy(noise).to(device)
        resized = {axes: _resize_axes(on_device, size, resampling, axes) for axes in _AXIS_ORDERS}
        matching = [axes for axes, image in resized.items() if torch.equal(image, expected)]
        # Small images may be equal in both orders by chance: try the next one.
        if len(matching) < len(_AXIS_ORDERS) or source[0] == size[0] or source[1] == size[1]:
            return matching[0] if matching else None
    return None


def _resize_by_pillow(image: RgbImage, size: tuple[int, int], resampling: str) -> RgbImage:
    return np.array(Image.fromarray(image).resize(size, Image.Resampling[resampling.upper()]))


def _resize_axes(
    image: torch.Tensor, size: tuple[int, int], resampling: str, axes: tuple[int, int]
) -> torch.Tensor:
    for axis in axes:
        length = size[1 - axis]
        if image.shape[axis] != length:
            image = _resize_axis(image, axis, length, resampling)
    return image


def _resize_axis(image: torch.Tensor, axis: int, length: int, resampling: str) -> torch.Tensor:
    start, weights = _weights(image.shape[axis], length, resampling, image.device)
    shape = [1, 1, 1]
    shape[axis] = length
    last = image.shape[axis] - 1
    total: torch.Tensor | int = 1 << (_PRECISION_BITS - 1)
    for tap in range(weights.shape[1]):
        pixels = image.index_select(axis, (start + tap).clamp_(max=last)).to(torch.int32)
        total = total + pixels * weights[:, tap].view(shape)
    assert isinstance(total, torch.Tensor)
    return (total >> _PRECISION_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=8)
def _weights(
    source: int, length: int, resampling: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first source pixel of each result pixel, (length,), and its weights."""
    scale = source / length
    stretch = max(scale, 1.0)
    support = _SUPPORT[resampling] * stretch
    taps = 2 * math.ceil(support) + 1
    starts, rows = [], []
    for index in range(length):
        centre = (index + 0.5) * scale
        start = max(int(centre - support + 0.5), 0)
        stop = min(int(centre + support + 0.5), source)
        raw = [_filter((tap - centre + 0.5) / stretch, resampling) for tap in range(start, stop)]
        total = sum(raw)
        row = [_to_fixed_point(value / total) for value in raw]
        starts.append(start)
        rows.append(row + [0] * (taps - len(row)))
    return (
        torch.tensor(starts, device=device),
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


def _to_fixed_point(value: float) -> int:
    return int(value * (1 << _PRECISION_BITS) + (0.5 if value >= 0 else -0.5))
