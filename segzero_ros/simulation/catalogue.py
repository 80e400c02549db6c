"""Catalogue of objects, composed of `solids`, in metres.

Paint indices: 0 body, 1 accent (cap, spine), 2 inside, 3 pages and other pale parts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segzero_ros.simulation.solids import (
    cylinder,
    ellipsoid,
    frustum,
    Part,
    Ring,
    Slab,
    Solid,
    yawed,
)

BODY, ACCENT, INSIDE, PAGES = range(4)
Rng = np.random.Generator

# A surface of revolution laid on its side: its z axis along the solid's x, or along its y.
_ALONG_X = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
_ALONG_Y = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def _turned(kind: str, parts: list[Part], radius: float, height: float) -> Solid:
    low, high = (-radius, -radius, 0.0), (radius, radius, height)
    return Solid(kind, tuple(parts), low, high, round=True)


def _block(kind: str, x: float, y: float, z: float) -> Solid:
    part = Part(Slab(x / 2, y / 2, z / 2), BODY, (0.0, 0.0, z / 2))
    return Solid(kind, (part,), (-x / 2, -y / 2, 0.0), (x / 2, y / 2, z))


def box(rng: Rng, scale: float) -> Solid:
    """Return a carton or a toy block."""
    if rng.random() < 0.4:
        edge = scale * rng.uniform(0.065, 0.085)
        return _block('box', edge, edge * rng.uniform(0.97, 1.03), edge * rng.uniform(0.95, 1.05))
    x, y, z = scale * rng.uniform((0.085, 0.055, 0.055), (0.13, 0.08, 0.11))
    return _block('box', x, y, z)


def can(rng: Rng, scale: float) -> Solid:
    """Return a tin: a cylinder with a lid of bare metal."""
    radius, height = scale * rng.uniform(0.030, 0.038), scale * rng.uniform(0.09, 0.125)
    lid = height - 0.003
    parts = [
        Part(cylinder(radius, 0.0, height)),
        Part(Ring(lid, radius * 0.94), PAGES),
        Part(Ring(height, radius, radius * 0.94), BODY),
    ]
    return _turned('can', parts, radius, height)


def ball(rng: Rng, scale: float) -> Solid:
    """Return a ball."""
    radius = scale * rng.uniform(0.032, 0.042)
    part = Part(ellipsoid(radius, radius, radius, 0.0, 2 * radius))
    return _turned('ball', [part], radius, 2 * radius)


def cone(rng: Rng, scale: float) -> Solid:
    """Return a cone with its tip up."""
    radius, height = scale * rng.uniform(0.036, 0.046), scale * rng.uniform(0.09, 0.13)
    return _turned('cone', [Part(frustum(radius, 0.0, 0.0, height))], radius, height)


def mug(rng: Rng, scale: float) -> Solid:
    """Return a mug: a hollow cylinder with a handle along x."""
    radius, height = scale * rng.uniform(0.037, 0.043), scale * rng.uniform(0.08, 0.10)
    inner = radius - 0.0035
    outer_grip, grip = height * 0.33, height * 0.33 - 0.008
    half_width = 0.006
    centre = (radius * 0.97, 0.0, height * 0.5)
    parts = [
        Part(cylinder(radius, 0.0, height)),
        Part(cylinder(inner, 0.006, height), INSIDE),
        Part(Ring(0.006, inner), INSIDE),
        Part(Ring(height, radius, inner)),
    ]
    # The handle is a ring through the wall, of which only the outer part is kept.
    for surface in (
        cylinder(outer_grip, -half_width, half_width),
        cylinder(grip, -half_width, half_width),
        Ring(half_width, outer_grip, grip),
        Ring(-half_width, outer_grip, grip),
    ):
        parts.append(Part(surface, BODY, centre, _ALONG_Y, least_x=inner))
    reach = centre[0] + outer_grip
    return Solid('mug', tuple(parts), (-radius, -radius, 0.0), (reach, radius, height))


def bowl(rng: Rng, scale: float) -> Solid:
    """Return a bowl: two shells with a rim between them."""
    radius, height = scale * rng.uniform(0.06, 0.075), scale * rng.uniform(0.045, 0.06)
    wall, foot = 0.004, 0.004
    # Both shells are lower halves of ellipsoids that end at the rim; the foot cuts the outer one.
    deep = height * 1.06
    parts = [
        Part(ellipsoid(radius, deep, height, 0.0, height)),
        Part(ellipsoid(radius - wall, height - foot, height, foot, height), INSIDE),
        Part(Ring(height, radius, radius - wall)),
    ]
    return _turned('bowl', parts, radius, height)


def plate(rng: Rng, scale: float) -> Solid:
    """Return a plate: a flat well with a slanting rim."""
    radius, height = scale * rng.uniform(0.075, 0.095), scale * rng.uniform(0.014, 0.02)
    well = radius * 0.68
    parts = [
        Part(Ring(0.004, well)),
        Part(frustum(well, radius, 0.004, height)),
        Part(frustum(well, radius, 0.0, height - 0.004)),
        Part(cylinder(radius, height - 0.004, height)),
    ]
    return _turned('plate', parts, radius, height)


def bottle(rng: Rng, scale: float) -> Solid:
    """Return a bottle: body, shoulder, neck and cap."""
    radius, height = scale * rng.uniform(0.028, 0.035), scale * rng.uniform(0.17, 0.22)
    neck, cap = radius * 0.38, radius * 0.46
    shoulder, collar, lid = height * 0.58, height * 0.72, height * 0.87
    parts = [
        Part(cylinder(radius, 0.0, shoulder)),
        Part(frustum(radius, neck, shoulder, collar)),
        Part(cylinder(neck, collar, lid)),
        Part(cylinder(cap, lid, height), ACCENT),
        Part(Ring(lid, cap), ACCENT),
        Part(Ring(height, cap), ACCENT),
    ]
    return _turned('bottle', parts, radius, height)


def book(rng: Rng, scale: float) -> Solid:
    """Return a closed book that lies flat: covers, spine and pages."""
    x, y = scale * rng.uniform((0.15, 0.11), (0.19, 0.13))
    z = scale * rng.uniform(0.02, 0.04)
    cover, lip = 0.0025, 0.003
    parts = (
        Part(Slab(x / 2, y / 2, cover / 2), BODY, (0, 0, cover / 2)),
        Part(Slab(x / 2, y / 2, cover / 2), BODY, (0, 0, z - cover / 2)),
        Part(Slab(x / 2 - lip, y / 2 - lip, z / 2 - cover), PAGES, (0, 0, z / 2)),
        Part(Slab(x / 2, cover / 2, z / 2), BODY, (0, -y / 2 + cover / 2, z / 2)),
    )
    return Solid('book', parts, (-x / 2, -y / 2, 0.0), (x / 2, y / 2, z))


def pen(rng: Rng, scale: float) -> Solid:
    """Return a pencil or marker that lies flat along x."""
    radius, length = scale * rng.uniform(0.006, 0.008), scale * rng.uniform(0.14, 0.18)
    tip = length / 2 - 0.02
    centre = (0.0, 0.0, radius)
    parts = (
        Part(cylinder(radius, -length / 2, tip), BODY, centre, _ALONG_X),
        Part(frustum(radius, 0.001, tip, length / 2), PAGES, centre, _ALONG_X),
        Part(Ring(-length / 2, radius), ACCENT, centre, _ALONG_X),
    )
    return Solid('pen', parts, (-length / 2, -radius, 0.0), (length / 2, radius, 2 * radius))


def napkin(rng: Rng, scale: float) -> Solid:
    """Return a folded napkin: clutter."""
    x, y = scale * rng.uniform((0.09, 0.09), (0.14, 0.12))
    return _block('napkin', x, y, 0.003)


def crumb(rng: Rng, scale: float) -> Solid:
    """Return a crumb: clutter."""
    radius = scale * rng.uniform(0.0015, 0.004)
    part = Part(ellipsoid(radius, radius * 0.7, radius * 0.6, 0.0, radius * 1.3))
    return _turned('crumb', [part], radius, radius * 1.3)


def cable(rng: Rng, scale: float) -> Solid:
    """Return a bent cable of straight pieces: clutter."""
    radius, piece = 0.0028 * scale, 0.035
    heading = rng.uniform(-0.3, 0.3)
    at = np.array([-2.5 * piece, 0.0])
    parts, ends = [], [at]
    bend = rng.uniform(-0.5, 0.5)
    for _ in range(6):
        turn = yawed(heading)
        x, y, z = np.asarray(_ALONG_X) @ np.asarray(turn)
        axes = (tuple(map(float, x)), tuple(map(float, y)), tuple(map(float, z)))
        start = (float(at[0]), float(at[1]), radius)
        parts.append(Part(cylinder(radius, 0.0, piece), BODY, start, axes))  # type: ignore[arg-type]
        at = at + piece * np.array([np.cos(heading), np.sin(heading)])
        ends.append(at)
        heading += bend + rng.uniform(-0.3, 0.3)
    low, high = np.min(ends, axis=0) - radius, np.max(ends, axis=0) + radius
    return Solid(
        'cable',
        tuple(parts),
        (float(low[0]), float(low[1]), 0.0),
        (float(high[0]), float(high[1]), 2 * radius),
    )


Maker = Callable[[Rng, float], Solid]
CLASSES: dict[str, Maker] = {
    maker.__name__: maker for maker in (box, can, ball, cone, mug, bowl, plate, bottle, book, pen)
}
CLUTTER: dict[str, Maker] = {maker.__name__: maker for maker in (napkin, crumb, cable)}
