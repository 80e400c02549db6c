"""Oversegment an image into small pieces that do not cross edges, and list their adjacency.

Label images are int32: 0 is unlabelled, pieces count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask

Labels = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Array = NDArray[np.float64]
Values = NDArray[np.float32]

_CROSS = np.ones((3, 3), np.uint8)


class Groups:
    """Groups of pieces: a union-find over the numbers 0 … count."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count + 1))

    def of(self, piece: int) -> int:
        """Return the representative of the piece's group."""
        parent = self._parent
        while parent[piece] != piece:
            parent[piece] = parent[parent[piece]]
            piece = parent[piece]
        return piece

    def join(self, one: int, other: int) -> None:
        """Merge the groups of two pieces."""
        self._parent[self.of(one)] = self.of(other)

    def all(self) -> NDArray[np.intp]:
        """Return each number's group."""
        return np.array([self.of(piece) for piece in range(len(self._parent))])


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Pairs of neighbouring pieces.

    Attributes:
        first: (P,) the smaller number of each pair.
        second: (P,) the larger.
        length: (P,) how many pixel edges lie between them.
        sums: for each measure given to `adjacency`, (P,) its sum over those edges.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    length: Array
    sums: tuple[Array, ...]


def oversegment(
    image: Bytes, inside: Mask, flat: int, least: int, broken: Mask | None = None
) -> tuple[Labels, int]:
    """Oversegment a mask into pieces along the edges of an image.

    Args:
        image: (h, w, 3) uint8; neighbours that differ in any channel have an edge between them.
        inside: (h, w) the mask.
        flat: differences in a 3 × 3 neighbourhood below this are no edge.
        least: pixels of the smallest piece.
        broken: (h, w) further pixels in which no piece begins.

    Returns:
        The pieces and how many there are.
    """
    spread = cv2.split(cv2.subtract(cv2.dilate(image, _CROSS), cv2.erode(image, _CROSS)))
    calm = (cv2.max(cv2.max(spread[0], spread[1]), spread[2]) < flat) & inside
    if broken is not None:
        calm &= ~broken
    markers, count = _seeds(calm.astype(np.uint8), least, 1, 4)
    # Thin things are all edge: pixels far from every seed form seeds of their own.
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
    """Label the mask's parts of at least so many pixels, starting after `before`."""
    parts, area = connected_parts(mask, neighbours)
    large = np.flatnonzero(area >= least)
    large = large[large > 0]
    numbers = np.zeros(len(area), np.int32)
    numbers[large] = np.arange(before + 1, before + 1 + len(large))
    return numbers.take(parts), before + len(large)


def connected_parts(mask: Bytes, neighbours: int) -> tuple[Labels, NDArray[np.intp]]:
    """Return a mask's connected components and their areas; three times as fast as OpenCV's.

    Args:
        mask: (h, w) uint8.
        neighbours: 4 or 8.
    """
    count, numbers = cv2.connectedComponents(mask, connectivity=neighbours)
    parts = np.asarray(numbers, np.int32)
    return parts, np.bincount(parts.ravel(), minlength=count)


def _without_lines(markers: Labels) -> Labels:
    """Assign the watershed's lines to an adjacent piece."""
    for _ in range(2):
        line = markers <= 0
        if not line.any():
            break
        around = cv2.dilate(markers.astype(np.float32), _CROSS)
        np.copyto(markers, around, where=line, casting='unsafe')
    return np.maximum(markers, 1)


def adjacency(
    labels: Labels, measures: Mapping[int, tuple[NDArray[np.float32], ...]]
) -> Adjacency:
    """Return the pairs of pieces that touch, and measures summed over their common border.

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
    return Adjacency(codes // count, codes % count, length, sums)


def means(labels: Labels, values: NDArray[np.generic], count: int) -> Array:
    """Return (count + 1, C) means of (h, w, C) values over each piece; row 0 is 0."""
    inside = np.flatnonzero(labels)
    numbers = labels.ravel()[inside]
    chosen = values.reshape(-1, values.shape[2]).take(inside, axis=0)
    size = np.maximum(np.bincount(numbers, minlength=count + 1), 1)
    columns = [np.bincount(numbers, channel, minlength=count + 1) / size for channel in chosen.T]
    return np.stack(columns, axis=1)


def mean_of(whole: NDArray[np.integer[Any]] | Mask) -> float:
    """Return the mean of (N,) integers, or the share of true values."""
    total = np.count_nonzero(whole) if whole.dtype == np.bool_ else whole.sum()
    return int(total) / len(whole)


def mean_colour(pixels: Bytes) -> Array:
    """Return the (C,) mean of (N, C) bytes; NumPy's own is slow for few columns."""
    return np.array([mean_of(channel) for channel in pixels.T])


def compact(labels: Labels) -> Labels:
    """Return the labels with the numbers that occur renumbered from 1; 0 stays."""
    return only(labels, np.bincount(labels.ravel()) > 0)


def only(labels: Labels, keep: Mask) -> Labels:
    """Return the labels with those to keep, by number, renumbered from 1; the others are 0."""
    kept = np.flatnonzero(keep)
    kept = kept[kept > 0]
    numbers = np.zeros(len(keep), np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers.take(labels)


def without_slivers(labels: Labels, contact: float = 0.3) -> Labels:
    """Drop components thinner than three pixels along another component or the image's border.

    Args:
        labels: (h, w) int32.
        contact: share of its border from which on a thin component is dropped.
    """
    count = int(labels.max())
    numbers = labels.astype(np.float32)
    thick = (labels > 0) & (cv2.dilate(numbers, _CROSS) == cv2.erode(numbers, _CROSS))
    solid = np.bincount(labels[thick], minlength=count + 1) > 0
    border, beside, edge = np.zeros((3, count + 1))
    for one, other in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        meet = one != other
        for own, neighbour in ((one[meet], other[meet]), (other[meet], one[meet])):
            border += np.bincount(own, minlength=count + 1)
            beside += np.bincount(own[neighbour > 0], minlength=count + 1)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        edge += np.bincount(side, minlength=count + 1)
    sliver = ~solid & (beside + edge > contact * np.maximum(border + edge, 1))
    return only(labels, (np.bincount(labels.ravel()) > 0) & ~sliver)


def inward_distance(outline: Values, points: Values) -> Values:
    """Return (K, N) signed distances of points from the sides of a convex outline, inside > 0.

    Args:
        outline: (K, 2) its corners, at least three, in order.
        points: (N, 2).
    """
    along = np.concatenate([outline[1:], outline[:1]]) - outline
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    (x, y), (left, top) = points.T.copy(), outline.T.copy()
    right, across = x - left[:, None], y - top[:, None]
    # In place, because these are the largest arrays.
    across *= along[:, :1]
    right *= along[:, 1:]
    across -= right
    across /= length[:, None]
    if cv2.contourArea(outline, oriented=True) < 0:
        np.negative(across, out=across)
    return np.asarray(across)


def level(values: NDArray[np.generic], share: float) -> float:
    """Return a quantile without interpolation; much faster than `np.quantile`.

    Args:
        values: (N,).
        share: of the values that lie below it.
    """
    rank = min(int(share * len(values)), len(values) - 1)
    ordered = values.copy()
    ordered.partition(rank)
    return float(ordered[rank])
