"""Cut a picture into small pieces that do not cross edges, and say how neighbours meet.

Imports NumPy and OpenCV. Label images are int32, 0 for what is left out, pieces count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask

Labels = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Array = NDArray[np.float64]

_CROSS = np.ones((3, 3), np.uint8)


class Groups:
    """Pieces that belong together: a union-find over the numbers 0 … count."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count + 1))

    def of(self, piece: int) -> int:
        """Return the number that stands for the piece's group."""
        parent = self._parent
        while parent[piece] != piece:
            parent[piece] = parent[parent[piece]]
            piece = parent[piece]
        return piece

    def join(self, one: int, other: int) -> None:
        """Put two groups together."""
        self._parent[self.of(one)] = self.of(other)

    def all(self) -> NDArray[np.intp]:
        """Return each number's group."""
        return np.array([self.of(piece) for piece in range(len(self._parent))])


@dataclass(frozen=True, eq=False)
class Meetings:
    """Pairs of neighbouring pieces.

    Attributes:
        first: (P,) the smaller number of each pair.
        second: (P,) the larger.
        length: (P,) how many pixel edges lie between them.
        sums: for each measure given to `meetings`, (P,) its sum over those edges.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    length: Array
    sums: tuple[Array, ...]


def cut(
    image: Bytes, inside: Mask, flat: int, least: int, broken: Mask | None = None
) -> tuple[Labels, int]:
    """Cut what is inside into pieces along the edges of a picture.

    Args:
        image: (h, w, 3) uint8; neighbours that differ in any channel have an edge between them.
        inside: (h, w) what to cut.
        flat: differences in a 3 × 3 neighbourhood below this are no edge.
        least: pixels of the smallest piece.
        broken: (h, w) further places where no piece begins.

    Returns:
        The pieces and how many there are.
    """
    spread = cv2.subtract(cv2.dilate(image, _CROSS), cv2.erode(image, _CROSS)).max(axis=2)
    calm = (spread < flat) & inside
    if broken is not None:
        calm &= ~broken
    markers, count = _seeds(calm.astype(np.uint8), least, 1, 4)
    # Thin things are all edge: what lies far from every calm place is a seed of its own.
    near = cv2.dilate((markers > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    rest = inside & (near == 0)
    if broken is not None:
        rest &= ~broken
    thin, count = _seeds(rest.astype(np.uint8), least, count, 8)
    markers = np.where(thin > 0, thin, markers)
    markers[~inside] = 1
    cv2.watershed(image, markers)
    pieces = _without_lines(markers)
    return np.where(inside & (pieces > 1), pieces - 1, 0).astype(np.int32), count - 1


def _seeds(mask: Bytes, least: int, before: int, neighbours: int) -> tuple[Labels, int]:
    """Number the mask's parts of at least so many pixels, going on after `before`."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=neighbours)
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= least)
    large = large[large > 0]
    numbers = np.zeros(count, np.int32)
    numbers[large] = np.arange(before + 1, before + 1 + len(large))
    return numbers[parts], before + len(large)


def _without_lines(markers: Labels) -> Labels:
    """Give the watershed's lines to a piece beside them."""
    for _ in range(2):
        line = markers <= 0
        if not line.any():
            break
        around = cv2.dilate(np.where(line, 0, markers).astype(np.float32), _CROSS)
        markers = np.where(line, around.astype(np.int32), markers)
    return np.asarray(np.where(markers <= 0, 1, markers), np.int32)


def meetings(labels: Labels, measures: Mapping[int, tuple[NDArray[np.float32], ...]]) -> Meetings:
    """Return which pieces touch, and measures summed over the edges between them.

    Args:
        labels: the pieces.
        measures: for axis 0 (below each other) and 1 (beside each other) the same number of
            arrays, one value per edge: (h - 1, w) and (h, w - 1).
    """
    count = int(labels.max()) + 1
    pairs: list[NDArray[np.int64]] = []
    values: list[list[NDArray[np.float32]]] = []
    for axis, arrays in measures.items():
        one, other = (labels[:-1], labels[1:]) if axis == 0 else (labels[:, :-1], labels[:, 1:])
        edge = (one != other) & (one > 0) & (other > 0)
        a, b = one[edge].astype(np.int64), other[edge].astype(np.int64)
        pairs.append(np.minimum(a, b) * count + np.maximum(a, b))
        values.append([array[edge] for array in arrays])
    codes, where = np.unique(np.concatenate(pairs), return_inverse=True)
    sums = tuple(
        np.bincount(where, np.concatenate(columns), len(codes)).astype(np.float64)
        for columns in zip(*values, strict=True)
    )
    length = np.bincount(where, minlength=len(codes)).astype(np.float64)
    return Meetings(codes // count, codes % count, length, sums)


def means(labels: Labels, values: NDArray[np.generic], count: int) -> Array:
    """Return (count + 1, C) means of (h, w, C) values over each piece."""
    flat = labels.ravel()
    size = np.maximum(np.bincount(flat, minlength=count + 1), 1)
    columns = [
        np.bincount(flat, values[..., channel].ravel(), minlength=count + 1) / size
        for channel in range(values.shape[2])
    ]
    return np.stack(columns, axis=1)


def compact(labels: Labels) -> Labels:
    """Return the labels with the numbers that occur renumbered from 1; 0 stays."""
    present = np.flatnonzero(np.bincount(labels.ravel()))
    numbers = np.zeros(int(labels.max()) + 1, np.int32)
    present = present[present > 0]
    numbers[present] = np.arange(1, len(present) + 1)
    return np.asarray(numbers[labels], np.int32)


def without_slivers(labels: Labels, contact: float = 0.3) -> Labels:
    """Drop what is nowhere three pixels thick and lies along a thing or the picture's border."""
    count = int(labels.max())
    padded = np.pad(labels, 1, mode='edge')
    middle = padded[1:-1, 1:-1]
    height, width = labels.shape
    thick, border, beside = (
        np.ones(labels.shape, np.bool_),
        np.zeros(count + 1),
        np.zeros(count + 1),
    )
    for down, across in ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)):
        neighbour = padded[down : down + height, across : across + width]
        same = neighbour == middle
        thick &= same
        if 1 in (down, across):
            border += np.bincount(middle[~same], minlength=count + 1)
            beside += np.bincount(middle[~same & (neighbour > 0)], minlength=count + 1)
    solid = np.bincount(labels[thick], minlength=count + 1) > 0
    edge = np.zeros(count + 1)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        edge += np.bincount(side, minlength=count + 1)
    sliver = ~solid & (beside + edge > contact * np.maximum(border + edge, 1))
    sliver[0] = False
    return compact(np.where(sliver[labels], 0, labels).astype(np.int32))


def level(values: NDArray[np.generic], share: float) -> float:
    """Return the value that a share of the others lie below; much quicker than a percentile."""
    rank = min(int(share * len(values)), len(values) - 1)
    return float(np.partition(values, rank)[rank])
