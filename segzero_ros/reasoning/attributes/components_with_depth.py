"""Second stage, with depth: the components on the supporting surface.

What is above the surface is oversegmented along edges of colour and depth. Pieces are merged where
they belong to one body: seen from above they overlap, or touch without the surface showing between
them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.component_merging import (
    MergedPieces,
    Pixels,
    same_body_score,
)
from segzero_ros.reasoning.attributes.oversegmentation import (
    Adjacency,
    adjacency,
    Array,
    Bytes,
    compact,
    connected_parts,
    Groups,
    Labels,
    level,
    means,
    oversegment,
    without_slivers,
)
from segzero_ros.reasoning.attributes.surface_fit import Surface, Values
from segzero_ros.types import Mask

# Depth step between neighbours, relative to their depth and beyond their slope, that is a gap.
_GAP = 0.015


def components_on_surface(surface: Surface, lab: Bytes) -> Labels:
    """Label the components on the surface.

    Args:
        surface: the supporting surface.
        lab: (h, w, 3) uint8 the working image in OpenCV's Lab.

    Returns:
        (h, w) int32: 0 for the surface and what is behind it, else the component's number.
    """
    inside = _large_components(surface.above_surface)
    if not inside.any():
        return np.zeros(inside.shape, np.int32)
    across = _depth_gaps(surface.near)
    pieces, count = oversegment(
        _edge_image(surface, lab, inside), inside, 9, 8, _pixels_at_gaps(surface.near, across)
    )
    adjacent = adjacency(pieces, across)
    gaps = adjacent.sums[0] / np.maximum(adjacent.length, 1)
    groups = Groups(count)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1).astype(np.float64)
    sizes[0] = 0
    _merge_similar(groups, adjacent, gaps, means(pieces, lab, count), sizes)
    background = _is_background(groups.all(), pieces)
    _merge_bodies(groups, adjacent, gaps, sizes, pieces, lab, surface, background)
    numbers = groups.all()
    # A merged body may touch sides of the image that its pieces did not.
    background |= _is_background(numbers, pieces)
    # Set per group, before the groups are mapped to pixels.
    numbers[background[numbers] | (sizes == 0)] = 0
    return without_slivers(compact(numbers.astype(np.int32)).take(pieces))


def _large_components(mask: Mask) -> Mask:
    parts, area = connected_parts(mask.astype(np.uint8), 4)
    keep = area >= max(12, 0.0003 * mask.size)
    keep[0] = False
    return keep.take(parts)


def _edge_image(surface: Surface, lab: Bytes, inside: Mask) -> Bytes:
    """Return an image whose edges are those of chroma and depth, not of lightness."""
    nearest = level(surface.near[inside], 0.01)
    depth = np.clip((surface.near - nearest) / np.float32(0.005), 0, 255).astype(np.uint8)
    a, b = (
        np.clip(1.6 * (lab[..., channel].astype(np.float32) - 128) + 128, 0, 255).astype(np.uint8)
        for channel in (1, 2)
    )
    return np.asarray(cv2.medianBlur(cv2.merge([a, b, depth]), 3), np.uint8)


def _depth_gaps(near: Values) -> dict[int, tuple[Values, ...]]:
    """Return for each edge between pixels whether there is a gap in depth across it.

    Depth is compared two pixels to either side, because edges of colour and depth do not coincide
    exactly; the step that the surfaces' slope explains is subtracted.
    """
    found: dict[int, tuple[Values, ...]] = {}
    padded = cv2.copyMakeBorder(near, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    for axis in (0, 1):
        z = padded[:, 2:-2].T if axis == 0 else padded[2:-2]
        left, right = z[:, 1:-4], z[:, 4:-1]
        slope = 0.5 * (np.abs(left - z[:, :-5]) + np.abs(z[:, 5:] - right))
        gap = (np.abs(right - left) - 3 * slope > _GAP * left).astype(np.float32)
        found[axis] = (gap if axis == 1 else gap.T,)
    return found


def _pixels_at_gaps(near: Values, gaps: dict[int, tuple[Values, ...]]) -> Mask:
    """Return the pixels at which a depth gap is steepest."""
    below = (gaps[0][0] > 0) & (np.abs(np.diff(near, axis=0)) > 0.5 * _GAP * near[1:])
    beside = (gaps[1][0] > 0) & (np.abs(np.diff(near, axis=1)) > 0.5 * _GAP * near[:, 1:])
    found = np.zeros(near.shape, np.bool_)
    found[:-1] |= below
    found[1:] |= below
    found[:, :-1] |= beside
    found[:, 1:] |= beside
    return found


def _merge_similar(
    groups: Groups, adjacent: Adjacency, gaps: Array, lab: Array, sizes: Array
) -> None:
    """Merge neighbours of similar chroma without a depth gap."""
    chroma = np.hypot(lab[:, 1] - 128, lab[:, 2] - 128)
    difference = np.hypot(*(lab[adjacent.first] - lab[adjacent.second])[:, 1:].T)
    allowed = 6 + 0.25 * np.minimum(chroma[adjacent.first], chroma[adjacent.second])
    cost = difference / allowed + 2 * gaps
    smaller = np.minimum(sizes[adjacent.first], sizes[adjacent.second])
    cost[adjacent.length < 0.25 * np.sqrt(smaller)] = np.inf
    for index in np.argsort(cost):
        if cost[index] >= 1.2:
            break
        if gaps[index] < 0.4:
            groups.join(int(adjacent.first[index]), int(adjacent.second[index]))


def _is_background(groups: NDArray[np.intp], pieces: Labels) -> Mask:
    """Return for each group whether it is background, such as a wall, by the sides it touches."""
    height, width = pieces.shape
    count = len(groups)
    top = np.bincount(groups[pieces[0]], minlength=count) > 0.25 * width
    left = np.bincount(groups[pieces[:, 0]], minlength=count) > 0.02 * height
    right = np.bincount(groups[pieces[:, -1]], minlength=count) > 0.02 * height
    background = top | (left & right)
    background[0] = True
    return np.asarray(background)


def _merge_bodies(
    groups: Groups,
    adjacent: Adjacency,
    gaps: Array,
    sizes: Array,
    pieces: Labels,
    lab: Bytes,
    surface: Surface,
    background: Mask,
) -> None:
    """Merge neighbours that belong to one body, until there are none."""
    pixels = Pixels(pieces, len(sizes) - 1, lab, surface)
    merged: dict[int, MergedPieces] = {}
    for _ in range(4):
        owners = groups.all()
        sizes_by_group = np.bincount(owners, sizes, minlength=len(owners)).astype(np.float64)
        pairs = _group_pairs(owners, sizes_by_group, adjacent, gaps, background)
        wanted = {group for pair in pairs for group in pair}
        for group in wanted - merged.keys():
            merged[group] = pixels.merged(np.flatnonzero(owners == group))
        found = []
        for (one, other), gap in pairs.items():
            score = same_body_score(surface, merged[one], merged[other], gap)
            if score > 0:
                found.append((score, one, other))
        if not found:
            break
        changed: set[int] = set()
        for score, one, other in sorted(found, reverse=True):
            # Uncertain pairs are scored again after the more certain ones are merged.
            if score >= 1.0 or (one not in changed and other not in changed):
                groups.join(one, other)
                changed |= {one, other}
        merged = {
            group: pieces_seen for group, pieces_seen in merged.items() if group not in changed
        }


def _group_pairs(
    owners: NDArray[np.intp], sizes: Array, adjacent: Adjacency, gaps: Array, background: Mask
) -> dict[tuple[int, int], float]:
    """Return the pairs of groups that touch, with the share of their border that is a depth gap.

    Groups that touch at a corner only are not among them.
    """
    totals: dict[tuple[int, int], list[float]] = {}
    for first, second, length, gap in zip(
        owners[adjacent.first].tolist(),
        owners[adjacent.second].tolist(),
        adjacent.length,
        gaps,
        strict=True,
    ):
        if first != second and not background[first] and not background[second]:
            total = totals.setdefault((min(first, second), max(first, second)), [0.0, 0.0])
            total[0] += length
            total[1] += length * gap
    return {
        (one, other): gap / length
        for (one, other), (length, gap) in totals.items()
        if length >= max(2.0, 0.25 * min(sizes[one], sizes[other]) ** 0.5)
    }
