"""Find the things that stand on a plane, with depth and colour together.

What is above the plane is cut along edges of colour and depth, and pieces are put together again
where they are one body: seen from above, a body's pieces lie over each other, or touch without any
of the plane showing between them. Imports `support`, NumPy and OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.fragments import (
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
    without_slivers,
)
from segzero_ros.reasoning.attributes.tabletop import Support, Values
from segzero_ros.types import Mask

# Neighbours further apart along the ray than this share of their depth, beyond their slope, have a
# gap between them.
_GAP = 0.015
# How far outside another piece's outline, seen from above, a piece may reach and be part of it.
_MARGIN = 0.008


@dataclass(frozen=True, eq=False)
class _Outline:
    """What a group looks like from above: metres."""

    hull: Values
    sample: Values
    area: float
    top: float
    rim: Values
    pixels: int
    low: float
    lab: Array


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
    _join_alike(groups, met, gaps, means(pieces, lab, count), sizes)
    room = _is_room(groups.all()[pieces], count + 1)
    _join_bodies(groups, met, gaps, pieces, lab, support, room)
    numbers = groups.all()
    # Bodies that were joined may reach further than their pieces did.
    room |= _is_room(numbers[pieces], count + 1)
    numbers[room[numbers]] = 0
    return without_slivers(compact(numbers[pieces].astype(np.int32)))


def _large_parts(mask: Mask) -> Mask:
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= max(12, 0.0003 * mask.size)
    keep[0] = False
    return np.asarray(keep[parts])


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
    for axis in (0, 1):
        z = np.pad(near if axis == 1 else near.T, ((0, 0), (2, 2)), mode='edge')
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


def _is_room(labels: NDArray[np.intp], count: int) -> Mask:
    """Return for each group whether it is a wall or the like: it goes on beyond the picture."""
    height, width = labels.shape
    top = np.bincount(labels[0], minlength=count) > 0.25 * width
    left = np.bincount(labels[:, 0], minlength=count) > 0.02 * height
    right = np.bincount(labels[:, -1], minlength=count) > 0.02 * height
    room = top | (left & right)
    room[0] = True
    return np.asarray(room)


def _join_bodies(
    groups: Groups,
    met: Meetings,
    gaps: Array,
    pieces: Labels,
    lab: Bytes,
    support: Support,
    room: Mask,
) -> None:
    """Put together neighbours that are one body, until there are none."""
    rows, columns = np.nonzero(pieces)
    first, second = support.plan()
    places = np.stack([first[rows, columns], second[rows, columns]], axis=1)
    heights, numbers = support.heights[rows, columns], pieces[rows, columns]
    inner, colours = _inner(pieces)[rows, columns], lab[rows, columns]
    outlines: dict[int, _Outline] = {}
    for _ in range(4):
        owners = groups.all()
        now = owners[numbers]
        sizes = np.bincount(now, minlength=len(owners)).astype(np.float64)
        pairs = _group_pairs(owners, sizes, met, gaps, room)
        wanted = {group for pair in pairs for group in pair}
        for group in wanted - outlines.keys():
            outlines[group] = _outline(places, heights, colours, inner, now == group)
        found = []
        for (one, other), gap in pairs.items():
            likeness = _one_body(support, outlines[one], outlines[other], gap)
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
        outlines = {group: kept for group, kept in outlines.items() if group not in changed}


def _inner(pieces: Labels) -> Mask:
    """Return the pixels away from their piece's border, where depth may be of something else."""
    same = np.zeros(pieces.shape, np.bool_)
    middle = pieces[1:-1, 1:-1]
    same[1:-1, 1:-1] = (
        (middle == pieces[:-2, 1:-1]) & (middle == pieces[2:, 1:-1])
        & (middle == pieces[1:-1, :-2]) & (middle == pieces[1:-1, 2:])
    )  # fmt: skip
    return same


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


def _outline(places: Values, heights: Values, lab: Bytes, inner: Mask, member: Mask) -> _Outline:
    chosen = member & inner
    if chosen.sum() < 12:
        chosen = member
    points = np.ascontiguousarray(places[chosen])
    hull = np.asarray(cv2.convexHull(points)[:, 0], np.float32)
    top = level(heights[chosen], 0.95)
    return _Outline(
        hull,
        points[:: max(1, len(points) // 32)],
        max(float(cv2.contourArea(hull)), 1e-6),
        top,
        points[heights[chosen] > top - max(0.006, 0.1 * top)],
        int(member.sum()),
        level(heights[chosen], 0.15),
        lab[chosen].mean(axis=0),
    )


def _one_body(support: Support, one: _Outline, other: _Outline, gap: float) -> float:
    """Return how surely two neighbours are one body, 0 if they are not."""
    beyond = _outside(one.hull, other.sample), _outside(other.hull, one.sample)
    inside = max(float((distance < _MARGIN).mean()) for distance in beyond)
    if inside > 0.75 and gap < 0.6:
        return 1.0 + inside
    touching = min(float(distance.min()) for distance in beyond) < 2 * _MARGIN
    if gap < 0.85 and touching and _is_handle(one, other):
        return 1.0
    if gap >= 0.4:
        # Across a gap in depth only the inside and the outside of one rim belong together.
        level = abs(one.top - other.top) < 0.012
        return float(level and _is_rim(np.concatenate([one.rim, other.rim])))
    corners = cv2.convexHull(np.concatenate([one.hull, other.hull]))
    both = np.asarray(corners[:, 0], np.float32)
    if _plane_between(support, both, one.hull, other.hull) >= 0.12:
        return 0.0
    return min((one.area + other.area) / max(float(cv2.contourArea(both)), 1e-6), 0.99)


def _is_handle(one: _Outline, other: _Outline) -> bool:
    """Whether the smaller piece hangs beside the larger, in its colour, above the ground."""
    small, large = (one, other) if one.pixels < other.pixels else (other, one)
    floats = small.low > max(0.011, 0.15 * small.top) and small.top < large.top + 0.01
    alike = float(np.hypot(*(small.lab - large.lab)[1:])) < 12
    return floats and alike and small.pixels < 0.4 * large.pixels


def _is_rim(points: Values) -> bool:
    """Whether points, seen from above, go around a circle."""
    centred = points - points.mean(axis=0)
    system = np.column_stack([2 * centred, np.ones(len(centred))])
    x, y, rest = np.linalg.lstsq(system, (centred**2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(rest + x * x + y * y, 1e-9)))
    offset = centred - (x, y)
    spread = float(np.std(np.hypot(offset[:, 0], offset[:, 1])))
    sectors = np.floor(np.arctan2(offset[:, 1], offset[:, 0]) / (np.pi / 4)).astype(int) % 8
    around = np.bincount(sectors, minlength=8) >= 2
    sides = int(around.sum())
    return (spread < 0.12 * radius and sides >= 6) or (spread < 0.17 * radius and sides == 8)


def _outside(hull: Values, points: Values) -> Values:
    """Return about how far (N, 2) points are outside an outline seen from above, metres."""
    if len(hull) < 3:
        return np.asarray(np.linalg.norm(points[:, None] - hull[None], axis=2).min(axis=1))
    along = np.roll(hull, -1, axis=0) - hull
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    offset = points[:, None] - hull[None]
    across = (along[:, 0] * offset[..., 1] - along[:, 1] * offset[..., 0]) / length
    turn = float(np.sign(cv2.contourArea(hull, oriented=True))) or 1.0
    return np.asarray((-turn * across).max(axis=1))


def _plane_between(support: Support, both: Values, one: Values, other: Values) -> float:
    """Return which share of the ground between two outlines can be seen to be bare."""
    corners = support.to_pixels(both)
    k = support.intrinsics
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (k.width, k.height)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, (k.width, k.height)).astype(int)
    if (high <= low).any():
        return 0.0
    between = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(between, [np.round(corners - low).astype(np.int32)], 1)
    for hull in (one, other):
        covered = np.zeros_like(between)
        cv2.fillPoly(covered, [np.round(support.to_pixels(hull) - low).astype(np.int32)], 1)
        between[cv2.dilate(covered, np.ones((3, 3), np.uint8)) > 0] = 0
    total = int(between.sum())
    if total < 6:
        return 0.0
    bare = ~support.standing[low[1] : high[1], low[0] : high[0]]
    return float((between[bare] > 0).sum() / total)
