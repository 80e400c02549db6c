"""Second stage, without depth: components whose colour differs from the surroundings.

Colours along several sides of the image are those of a table, a wall or the ground. The rest is
oversegmented along edges; neighbours of the same paint are merged, and so are pieces that are
enclosed or form a compact whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.oversegmentation import (
    Adjacency,
    adjacency,
    Array,
    Bytes,
    compact,
    Groups,
    Labels,
    means,
    only,
    oversegment,
    without_slivers,
)
from segzero_ros.types import Mask

# Histogram steps. Lightness is coarse, because light and shadow change it.
_LIGHT_STEP, _COLOUR_STEP, _BINS = 22, 5, (12, 32, 32)
# Share of a side's pixels from which on a colour covers the side.
_COVERS = 0.12
# A colour that covers more sides than this is background.
_SIDES = 2.0
# Components of several paints are one if they fill this share of their convex hull.
_COMPACT = 0.93
# Larger shares of the image are background.
_MAX_SHARE = 0.45


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The oversegmented image; arrays have a row per piece, row 0 is unused.

    Attributes:
        labels: (h, w) the piece of each pixel.
        lab: (N, 3) mean colours: L 0 to 255, a and b around 0.
        size: (N,) pixels.
        background: (N,) whether it is background.
        adjacent: the pairs of pieces that touch.
    """

    labels: Labels
    lab: Array
    size: Array
    background: Mask
    adjacent: Adjacency

    @property
    def chroma(self) -> Array:
        """(N,) distance from grey."""
        return np.asarray(np.hypot(self.lab[:, 1], self.lab[:, 2]))


def components_from_colour(lab: Bytes) -> Labels:
    """Label the components of an image.

    Args:
        lab: (h, w, 3) uint8 the working image in OpenCV's Lab.

    Returns:
        (h, w) int32: 0 for background, else the component's number.
    """
    smooth = np.asarray(cv2.medianBlur(cv2.bilateralFilter(lab, 7, 28, 5), 5), np.uint8)
    pieces = _oversegment(smooth)
    _mark_shadows(pieces)
    groups = Groups(len(pieces.size) - 1)
    _merge_same_paint(groups, pieces)
    _merge_enclosed(groups, pieces)
    numbers = groups.all()
    numbers[pieces.background] = 0
    parts = compact(numbers[pieces.labels].astype(np.int32))
    return _without_background(without_slivers(_merge_compact(parts)))


def surroundings(lab: Bytes) -> NDArray[np.float32]:
    """Return (h, w) how many of the image's four sides each pixel's colour covers, 0 to 4."""
    depth = max(4, lab.shape[0] // 40)
    bins = [lab[..., 0] // _LIGHT_STEP]
    bins += [
        np.clip((lab[..., i].astype(np.int16) - 128) // _COLOUR_STEP + 16, 0, 31) for i in (1, 2)
    ]
    index = (bins[0].astype(np.int32) * _BINS[1] + bins[1]) * _BINS[2] + bins[2]
    cover = np.zeros(_BINS, np.float32)
    for side in (index[:depth], index[-depth:], index[:, :depth], index[:, -depth:]):
        counts = np.bincount(side.ravel(), minlength=cover.size).astype(np.float32)
        around = np.pad(counts.reshape(_BINS), 1)
        for axis in range(3):
            around = around + np.roll(around, 1, axis) + np.roll(around, -1, axis)
        cover += np.clip(around[1:-1, 1:-1, 1:-1] / (side.size * _COVERS), 0, 1)
    return np.asarray(cover.ravel()[index], np.float32)


def _oversegment(smooth: Bytes) -> _Pieces:
    """Oversegment the image along its edges."""
    light, a, b = (smooth[..., channel].astype(np.float32) for channel in range(3))
    stretched = [0.55 * light, 1.5 * (a - 128) + 128, 1.5 * (b - 128) + 128]
    edges = np.clip(np.stack(stretched, axis=-1), 0, 255).astype(np.uint8)
    labels, count = oversegment(edges, np.ones(light.shape, np.bool_), 10, 12)
    cover = cv2.blur(surroundings(smooth), (5, 5))
    values = np.dstack([smooth.astype(np.float32), cover])
    averages = means(labels, values, count)
    averages[:, 1:3] -= 128
    steps = {axis: (np.abs(np.diff(light, axis=axis)).astype(np.float32),) for axis in (0, 1)}
    return _Pieces(
        labels,
        averages[:, :3],
        np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64),
        np.asarray(averages[:, 3] > _SIDES),
        adjacency(labels, steps),
    )


def _mark_shadows(pieces: _Pieces) -> None:
    """Mark shadows as background: a darker shade of the background, next to an object.

    A grey object looks like a shadow on the table, but has no object beside it to cast one.
    """
    lab, background = pieces.lab, pieces.background
    adjacent = list(
        zip(pieces.adjacent.first.tolist(), pieces.adjacent.second.tolist(), strict=True)
    )
    dark: set[int] = set()
    for first, second in adjacent:
        for one, other in ((first, second), (second, first)):
            if background[one] or not background[other]:
                continue
            ratio = lab[one, 0] / max(lab[other, 0], 1.0)
            # A shadow reduces lightness and chroma alike.
            shift = np.hypot(*(lab[one, 1:] - ratio * lab[other, 1:]))
            if 0.42 < ratio < 1.0 and shift < 5.0 and lab[one, 0] > 45:
                dark.add(one)
    cast = {
        one
        for first, second in adjacent
        for one, other in ((first, second), (second, first))
        if one in dark and other not in dark and not background[other]
    }
    background[list(cast)] = True


def _merge_same_paint(groups: Groups, pieces: _Pieces) -> None:
    """Merge neighbours of the same paint, lit or in shadow."""
    adjacent, lab = pieces.adjacent, pieces.lab
    chroma = np.minimum(pieces.chroma[adjacent.first], pieces.chroma[adjacent.second])
    offset = lab[adjacent.first] - lab[adjacent.second]
    # In shadow, colours are closer to grey, so the hue angle is compared.
    angle = np.arctan2(lab[:, 2], lab[:, 1])
    turn = np.abs((angle[adjacent.first] - angle[adjacent.second] + np.pi) % (2 * np.pi) - np.pi)
    colourful = (chroma > 14) & (turn < 0.22) & (np.abs(offset[:, 0]) < 75)
    alike = (np.hypot(offset[:, 1], offset[:, 2]) < 7) & (np.abs(offset[:, 0]) < 28)
    inside = ~pieces.background[adjacent.first] & ~pieces.background[adjacent.second]
    long = adjacent.length > 0.25 * np.sqrt(
        np.minimum(pieces.size[adjacent.first], pieces.size[adjacent.second])
    )
    for index in np.flatnonzero((colourful | alike) & inside & long):
        groups.join(int(adjacent.first[index]), int(adjacent.second[index]))


def _merge_enclosed(groups: Groups, pieces: _Pieces) -> None:
    """Merge highlights, holes and prints with the piece that encloses them."""
    adjacent = pieces.adjacent
    for _ in range(2):
        owners = groups.all()
        border: dict[int, dict[int, float]] = {}
        for first, second, length in zip(
            owners[adjacent.first].tolist(),
            owners[adjacent.second].tolist(),
            adjacent.length,
            strict=True,
        ):
            if first != second:
                for one, other in ((first, second), (second, first)):
                    border.setdefault(one, {}).setdefault(other, 0.0)
                    border[one][other] += length
        sizes = np.bincount(owners, pieces.size, minlength=len(owners))
        for group, sides in border.items():
            around, length = max(sides.items(), key=lambda item: item[1])
            if pieces.background[group] or pieces.background[around]:
                continue
            share = length / sum(sides.values())
            if sizes[group] < 0.35 * sizes[around] and share > 0.7:
                groups.join(group, around)


def _merge_compact(parts: Labels) -> Labels:
    """Merge parts that touch, or nearly, where their union is compact.

    Background-coloured pixels between such parts (a pale label on a pale cloth) are included.
    """
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)), np.uint8)
    near = cv2.morphologyEx((parts > 0).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    _, bodies, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=4)
    result = parts.copy()
    free = int(parts.max()) + 1
    for number, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        window = slice(y, y + height), slice(x, x + width)
        body = bodies[window] == number
        numbers = np.unique(parts[window][body]).astype(np.int32)
        numbers = numbers[numbers > 0]
        if len(numbers) < 2:
            continue
        for together in _compact_unions(parts[window], numbers, kernel):
            result[window][together] = free
            free += 1
    return compact(result)


def _compact_unions(parts: Labels, numbers: NDArray[np.int32], kernel: Bytes) -> list[Mask]:
    """Return masks of compact unions: of all parts, or of neighbours."""
    everything = _closed(np.isin(parts, numbers), kernel)
    if _solidity(everything) > _COMPACT:
        return [everything]
    if len(numbers) > 12:
        return []
    groups: list[list[int]] = [[int(number)] for number in numbers]
    merged = True
    while merged:
        merged = False
        best = (0.92, -1, -1)
        for i in range(len(groups)):
            for j in range(i):
                union = np.isin(parts, groups[i] + groups[j])
                closed = _closed(union, kernel)
                if cv2.connectedComponents(closed.astype(np.uint8))[0] == 2:
                    best = max(best, (_solidity(closed), i, j))
        if best[1] >= 0:
            groups[best[2]] += groups.pop(best[1])
            merged = True
    return [_closed(np.isin(parts, group), kernel) for group in groups if len(group) > 1]


def _closed(mask: Mask, kernel: Bytes) -> Mask:
    padded = np.pad(mask.astype(np.uint8), 4)
    return np.asarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[4:-4, 4:-4] > 0)


def _solidity(mask: Mask) -> float:
    """Return the share of its convex hull that a mask's largest part fills."""
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = max(borders, key=cv2.contourArea)
    return float(cv2.contourArea(border)) / max(
        float(cv2.contourArea(cv2.convexHull(border))), 1.0
    )


def _without_background(labels: Labels) -> Labels:
    """Drop what is too large for an object, or touches three sides of the image."""
    count = int(labels.max()) + 1
    share = np.bincount(labels.ravel(), minlength=count) / labels.size
    sides = np.zeros(count, np.int64)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        sides += np.bincount(side, minlength=count) > 3
    background = (share > _MAX_SHARE) | (sides > 2)
    return only(labels, (share > 0) & ~background)
