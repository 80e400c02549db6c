"""Marks in a picture that tell a vision tower where each of its patches is.

Qwen2.5-VL's vision tower knows only how patches lie to each other. A model with few layers that
sees few pictures does not learn from that where in the picture it looks; four pixels in the corner
of each patch tell it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_MARK = 2


def with_position_codes(pictures: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """Return pictures with a mark in each cell.

    Args:
        pictures: (..., S, S, 3) uint8; S is a multiple of `cell`.
        cell: side of the cells, pixels.

    Returns:
        (..., S, S, 3) uint8: the first two rows and columns of each cell hold the sine and cosine
        of the cell's place, in three frequencies for each axis.
    """
    side = pictures.shape[-2]
    count = side // cell
    shown: NDArray[np.uint8] = pictures.copy()
    view = shown.reshape(*pictures.shape[:-3], count, cell, count, cell, 3)
    view[..., :_MARK, :, :_MARK, :] = _marks(count)
    return shown


@cache
def _marks(count: int) -> NDArray[np.uint8]:
    """Return (count, 2, count, 2, 3) uint8: the marks of count by count cells."""
    place = (np.arange(count) + 0.5) / count
    waves = np.stack(
        [wave(np.pi * factor * place) for factor in (1, 2, 4) for wave in (np.cos, np.sin)], -1
    )
    codes = np.concatenate(
        np.broadcast_arrays(waves[:, None, :], waves[None, :, :]), axis=-1
    ).reshape(count, count, _MARK, _MARK, 3)
    shades = np.rint(127.5 + 127.5 * codes).transpose(0, 2, 1, 3, 4)
    return np.asarray(shades, np.uint8)
