"""Masks as compressed COCO RLE text.

Runs of background and object alternate in column-major order, background first. From the third on,
a run's length minus that of the run two before it is written in groups of five bits, low bits
first, with a sixth bit if more follow, each plus 48 as an ASCII character.
`pycocotools.mask.decode({'size': [h, w], 'counts': text})` decodes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from segzero_ros.types import Mask

_BITS, _MORE, _SIGN, _FIRST = 5, 0x20, 0x10, 48


def to_rle(mask: Mask) -> str:
    """Return the RLE of an (H, W) bool mask."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)
    return ''.join(_encoded(_differences(runs)))


def from_rle(text: str, height: int, width: int) -> Mask:
    """Return the (height, width) bool mask of an RLE.

    Raises:
        ValueError: the RLE has another size.
    """
    runs: list[int] = []
    for value in _decoded(text):
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f'the runs of a mask of {width}x{height} pixels add up to {sum(runs)}')
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape((height, width), order='F'))


def _differences(runs: list[int]) -> Iterable[int]:
    return (run - runs[n - 2] if n > 2 else run for n, run in enumerate(runs))


def _encoded(values: Iterable[int]) -> Iterable[str]:
    for number in values:
        value, more = number, True
        while more:
            group = value & (_MORE - 1)
            value >>= _BITS
            more = value != (-1 if group & _SIGN else 0)
            yield chr(_FIRST + (group | _MORE if more else group))


def _decoded(text: str) -> Iterable[int]:
    value = shift = 0
    for character in text:
        group = ord(character) - _FIRST
        value |= (group & (_MORE - 1)) << shift
        shift += _BITS
        if not group & _MORE:
            yield value - (1 << shift) if group & _SIGN else value
            value = shift = 0
