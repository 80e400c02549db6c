"""Find the things that stand on a plane, with depth and colour together.

What is above the plane is cut along edges of colour and depth, and pieces are put together again
where they are one body: seen from above, a body's pieces lie over each other, or touch without any
of the plane showing between them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.component_merging import one_body, Pixels, Seen
from segzero_ros.reasoning.attributes.oversegmentation import (
    Array,
    Bytes,
    compact,
    cut,
    Groups,
    Labels,
    level,
    means,
    Meetings,
    meetings,
    parts_of,
    without_slivers,
)
from segzero_ros.reasoning.attributes.surface_fit import Support, Values
from segzero_ros.types import Mask

# Neighbours further apart along the ray than this share of their depth, beyond their slope, have a
# gap between them.
_GAP = 0.015


def standing_things(support: Support, lab: Bytes) -> Labels:
    """Number the things that stand on the plane.

    Args:
        support: the plane.
        lab: (h, w, 3) uint8 the working picture in OpenCV's Lab.

    Returns:
        (h, w) int32: 0 for the plane and what is behind it, else a thing's number.
    """
    inside = _large_parts(support.standing)
    if not inside.any():
        return np.zeros(inside.shape, np.int32)
    across = _gaps(support.near)
    pieces, count = cut(_edges(support, lab, inside), inside, 9, 8, _at_gaps(support.near, across))
    met = meetings(pieces, across)
    gaps = met.sums[0] / np.maximum(met.length, 1)
    groups = Groups(count)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1).astype(np.float64)
    sizes[0] = 0
    _join_alike(groups, met, gaps, means(pieces, lab, count), sizes)
    room = _is_room(groups.all(), pieces)
    _join_bodies(groups, met, gaps, sizes, pieces, lab, support, room)
    numbers = groups.all()
    # Bodies that were joined may reach further than their pieces did.
    room |= _is_room(numbers, pieces)
    # Numbered among the pieces that have pixels, before every pixel gets its thing's number.
    numbers[room[numbers] | (sizes == 0)] = 0
    return without_slivers(compact(numbers.astype(np.int32)).take(pieces))


def _large_parts(mask: Mask) -> Mask:
    parts, area = parts_of(mask.astype(np.uint8), 4)
    keep = area >= max(12, 0.0003 * mask.size)
    keep[0] = False
    return keep.take(parts)


def _edges(support: Support, lab: Bytes, inside: Mask) -> Bytes:
    """Return a picture whose edges are those of colour (not of light) and of depth."""
    nearest = level(support.near[inside], 0.01)
    depth = np.clip((support.near - nearest) / np.float32(0.005), 0, 255).astype(np.uint8)
    a, b = (
        np.clip(1.6 * (lab[..., channel].astype(np.float32) - 128) + 128, 0, 255).astype(np.uint8)
        for channel in (1, 2)
    )
    return np.asarray(cv2.medianBlur(cv2.merge([a, b, depth]), 3), np.uint8)


def _gaps(near: Values) -> dict[int, tuple[Values, ...]]:
    """Return for each edge between pixels whether there is a gap in depth across it.

    Depth is compared two pixels to either side, for edges of colour and depth are not exactly at
    the same place, and what the surfaces' own slope explains is taken off.
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


def _at_gaps(near: Values, gaps: dict[int, tuple[Values, ...]]) -> Mask:
    """Return the pixels where a gap in depth is steepest."""
    below = (gaps[0][0] > 0) & (np.abs(np.diff(near, axis=0)) > 0.5 * _GAP * near[1:])
    beside = (gaps[1][0] > 0) & (np.abs(np.diff(near, axis=1)) > 0.5 * _GAP * near[:, 1:])
    found = np.zeros(near.shape, np.bool_)
    found[:-1] |= below
    found[1:] |= below
    found[:, :-1] |= beside
    found[:, 1:] |= beside
    return found


def _join_alike(groups: Groups, met: Meetings, gaps: Array, lab: Array, sizes: Array) -> None:
    """Put together neighbours of about one colour without a gap in depth."""
    chroma = np.hypot(lab[:, 1] - 128, lab[:, 2] - 128)
    difference = np.hypot(*(lab[met.first] - lab[met.second])[:, 1:].T)
    allowed = 6 + 0.25 * np.minimum(chroma[met.first], chroma[met.second])
    cost = difference / allowed + 2 * gaps
    smaller = np.minimum(sizes[met.first], sizes[met.second])
    cost[met.length < 0.25 * np.sqrt(smaller)] = np.inf
    for index in np.argsort(cost):
        if cost[index] >= 1.2:
            break
        if gaps[index] < 0.4:
            groups.join(int(met.first[index]), int(met.second[index]))


def _is_room(groups: NDArray[np.intp], pieces: Labels) -> Mask:
    """Return for each group whether it is a wall or the like: it goes on beyond the picture."""
    height, width = pieces.shape
    count = len(groups)
    top = np.bincount(groups[pieces[0]], minlength=count) > 0.25 * width
    left = np.bincount(groups[pieces[:, 0]], minlength=count) > 0.02 * height
    right = np.bincount(groups[pieces[:, -1]], minlength=count) > 0.02 * height
    room = top | (left & right)
    room[0] = True
    return np.asarray(room)


def _join_bodies(
    groups: Groups,
    met: Meetings,
    gaps: Array,
    sizes: Array,
    pieces: Labels,
    lab: Bytes,
    support: Support,
    room: Mask,
) -> None:
    """Put together neighbours that are one body, until there are none."""
    pixels = Pixels(pieces, len(sizes) - 1, lab, support)
    seen: dict[int, Seen] = {}
    for _ in range(4):
        owners = groups.all()
        together = np.bincount(owners, sizes, minlength=len(owners)).astype(np.float64)
        pairs = _group_pairs(owners, together, met, gaps, room)
        wanted = {group for pair in pairs for group in pair}
        for group in wanted - seen.keys():
            seen[group] = pixels.seen(np.flatnonzero(owners == group))
        found = []
        for (one, other), gap in pairs.items():
            likeness = one_body(support, seen[one], seen[other], gap)
            if likeness > 0:
                found.append((likeness, one, other))
        if not found:
            break
        changed: set[int] = set()
        for likeness, one, other in sorted(found, reverse=True):
            # What is only likely is asked again once the surer pieces are together.
            if likeness >= 1.0 or (one not in changed and other not in changed):
                groups.join(one, other)
                changed |= {one, other}
        seen = {group: kept for group, kept in seen.items() if group not in changed}


def _group_pairs(
    owners: NDArray[np.intp], sizes: Array, met: Meetings, gaps: Array, room: Mask
) -> dict[tuple[int, int], float]:
    """Return which groups touch, with the share of their common edge that has a gap in depth.

    Groups that touch in a corner only are not among them.
    """
    totals: dict[tuple[int, int], list[float]] = {}
    for first, second, length, gap in zip(
        owners[met.first].tolist(), owners[met.second].tolist(), met.length, gaps, strict=True
    ):
        if first != second and not room[first] and not room[second]:
            total = totals.setdefault((min(first, second), max(first, second)), [0.0, 0.0])
            total[0] += length
            total[1] += length * gap
    return {
        (one, other): gap / length
        for (one, other), (length, gap) in totals.items()
        if length >= max(2.0, 0.25 * min(sizes[one], sizes[other]) ** 0.5)
    }
