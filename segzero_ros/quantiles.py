"""Medians and quantiles, to the last bit as NumPy's, at a fraction of the time for small arrays.

NumPy's own handle every case there is and partition around two places at once, which it has no
vector instructions for: a hundred small calls a frame took longer than the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def quantiles(values: Floats, *shares: float) -> list[Any]:
    """Return what `np.quantile(values, share, axis=0)` does for each share.

    Args:
        values: (N,) or (N, K), at least one row, without NaN.
        shares: 0 to 1, ascending.

    Returns:
        For each share a scalar or (K,), of the values' dtype.
    """
    ordered = values.T.copy()
    last = ordered.shape[-1] - 1
    done, found = 0, []
    for share in shares:
        place = last * share
        below = int(place)
        part = place - below
        rest = ordered[..., done:]
        rest.partition(below - done, axis=-1)
        low = ordered[..., below]
        high = ordered[..., below + 1 :].min(axis=-1) if below < last else low
        step = high - low
        # From the nearer of the two, as NumPy does: it decides the last bit.
        found.append(high - step * (1 - part) if part >= 0.5 else low + step * part)
        done = below
    return found


def quantile(values: Floats, share: float) -> Any:
    """Return what `np.quantile(values, share, axis=0)` does; see `quantiles`."""
    return quantiles(values, share)[0]


def median(values: Floats) -> Any:
    """Return what `np.median` does for (N,) values, at least one, without NaN."""
    ordered = values.copy()
    middle = len(ordered) // 2
    ordered.partition(middle)
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[:middle].max() + ordered[middle]) / 2
