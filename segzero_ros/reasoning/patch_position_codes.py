"""Position codes in an image's patches, for mini's vision tower.

Qwen2.5-VL's vision tower encodes only relative positions. A model with few layers and few training
images does not learn absolute positions from them; four pixels in the corner of each patch encode
these.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_CODE_SIDE = 2


def with_position_codes(images: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """Return images with a position code in each cell.

    Args:
        images: (..., S, S, 3) uint8; S is a multiple of `cell`.
        cell: side of the cells, pixels.

    Returns:
        (..., S, S, 3) uint8: the first two rows and columns of each cell hold the sine and cosine
        of the cell's position, in three frequencies for each axis.
    """
    side = images.shape[-2]
    count = side // cell
    coded: NDArray[np.uint8] = images.copy()
    view = coded.reshape(*images.shape[:-3], count, cell, count, cell, 3)
    view[..., :_CODE_SIDE, :, :_CODE_SIDE, :] = _codes(count)
    return coded


@cache
def _codes(count: int) -> NDArray[np.uint8]:
    """Return (count, 2, count, 2, 3) uint8: the codes of count by count cells."""
    position = (np.arange(count) + 0.5) / count
    waves = np.stack(
        [wave(np.pi * factor * position) for factor in (1, 2, 4) for wave in (np.cos, np.sin)], -1
    )
    codes = np.concatenate(
        np.broadcast_arrays(waves[:, None, :], waves[None, :, :]), axis=-1
    ).reshape(count, count, _CODE_SIDE, _CODE_SIDE, 3)
    grey_levels = np.rint(127.5 + 127.5 * codes).transpose(0, 2, 1, 3, 4)
    return np.asarray(grey_levels, np.uint8)
