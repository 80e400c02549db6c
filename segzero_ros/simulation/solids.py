"""Surfaces with exact ray intersection: slabs, quadrics of revolution, flat rings.

Objects are composed of these. A solid stands on z = 0 of its own frame, z up; lengths are metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEAR = 1e-4
_UNITS = np.eye(3)
_IDENTITY: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


class Surface(Protocol):
    """A surface in its own frame."""

    def hit(self, origins: Array, rays: Array) -> tuple[Array, Array]:
        """Return the first intersections of rays.

        Args:
            origins: (N, 3) or (1, 3) origins of the rays.
            rays: (N, 3) their directions, of any length.

        Returns:
            (N,) the multiple of the ray at the first hit, inf for none, and (N, 3) the surface's
            normals there, of any length, on either side.
        """
        ...


@dataclass(frozen=True)
class Slab:
    """A box around the origin with these half extents."""

    x: float
    y: float
    z: float

    def hit(self, origins: Array, rays: Array) -> tuple[Array, Array]:
        """See Surface.hit."""
        enter = np.full(len(rays), -np.inf)
        leave = np.full(len(rays), np.inf)
        normals = np.zeros_like(rays)
        for axis, half in enumerate((self.x, self.y, self.z)):
            with np.errstate(divide='ignore', invalid='ignore'):
                one = (-half - origins[:, axis]) / rays[:, axis]
                other = (half - origins[:, axis]) / rays[:, axis]
            first = np.fmin(one, other)
            later = first > enter
            np.copyto(enter, first, where=later)
            normals[later] = _UNITS[axis]
            leave = np.fmin(leave, np.fmax(one, other))
        return np.where((enter <= leave) & (enter > _NEAR), enter, np.inf), normals


@dataclass(frozen=True)
class Turned:
    """The slice low <= z <= high of x² + y² = a + b·z + c·z²: no lids, both sides visible.

    Cylinders (b = c = 0), cones, spheres (c = -1) and ellipsoids are all of this form.
    """

    a: float
    b: float
    c: float
    low: float
    high: float

    def hit(self, origins: Array, rays: Array) -> tuple[Array, Array]:
        """See Surface.hit."""
        ox, oy, oz = origins.T
        rx, ry, rz = rays.T
        square = rx * rx + ry * ry - self.c * rz * rz
        half = ox * rx + oy * ry - self.c * oz * rz - 0.5 * self.b * rz
        rest = ox * ox + oy * oy - self.a - self.b * oz - self.c * oz * oz
        with np.errstate(divide='ignore', invalid='ignore'):
            root = np.sqrt(half * half - square * rest)
            first, second = (-half - root) / square, (-half + root) / square
            distance = np.minimum(*(self._kept(way, oz, rz) for way in (first, second)))
        where = np.where(np.isfinite(distance), distance, 0.0)
        x, y, z = ox + where * rx, oy + where * ry, oz + where * rz
        return distance, np.stack([x, y, -0.5 * self.b - self.c * z], axis=1)

    def _kept(self, distance: Array, oz: Array, rz: Array) -> Array:
        z = oz + distance * rz
        valid = (distance > _NEAR) & (z >= self.low) & (z <= self.high)
        return np.where(valid, distance, np.inf)


@dataclass(frozen=True)
class Ring:
    """The flat ring inner <= radius <= outer at one height; a disc when inner is 0."""

    z: float
    outer: float
    inner: float = 0.0

    def hit(self, origins: Array, rays: Array) -> tuple[Array, Array]:
        """See Surface.hit."""
        with np.errstate(divide='ignore', invalid='ignore'):
            distance = (self.z - origins[:, 2]) / rays[:, 2]
            x = origins[:, 0] + distance * rays[:, 0]
            y = origins[:, 1] + distance * rays[:, 1]
            square = x * x + y * y
            valid = (distance > _NEAR) & (square <= self.outer**2) & (square >= self.inner**2)
        normals = np.zeros_like(rays)
        normals[:, 2] = 1.0
        return np.where(valid, distance, np.inf), normals


@dataclass(frozen=True)
class Part:
    """One surface of a solid.

    Attributes:
        surface: what rays hit.
        paint: index of the object's paint, see `catalogue`.
        offset: of the surface's origin in the solid's frame.
        axes: rows are the surface's x, y and z axis in the solid's frame.
        least_x: minimum x in the solid's frame; the rest is cut off.
    """

    surface: Surface
    paint: int = 0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: tuple[tuple[float, float, float], ...] = _IDENTITY
    least_x: float = -np.inf


@dataclass(frozen=True)
class Hits:
    """Intersections with a solid: distance (N,), inf for none; unit normals (N, 3); paint (N,)."""

    distance: Array
    normals: Array
    paint: NDArray[np.uint8]


@dataclass(frozen=True)
class Solid:
    """The shape of an object.

    Attributes:
        kind: one of CLASSES.
        parts: its surfaces.
        low: minimum x, y, z of its bounding box, in its own frame.
        high: maximum x, y, z of that box.
        round: whether its footprint is a circle around the origin, so that yaw has no effect.
    """

    kind: str
    parts: tuple[Part, ...]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    round: bool = False
    corners: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grid = np.array(np.meshgrid(*zip(self.low, self.high, strict=True), indexing='ij'))
        object.__setattr__(self, 'corners', grid.reshape(3, -1).T.astype(np.float64))

    @property
    def extents(self) -> tuple[float, float, float]:
        """Full extents along its own axes."""
        return tuple(h - l for l, h in zip(self.low, self.high, strict=True))  # type: ignore[return-value]  # noqa: E741

    def hit(self, origins: Array, rays: Array) -> Hits:
        """Return the first intersections of rays in the solid's frame."""
        distance = np.full(len(rays), np.inf)
        normals = np.zeros_like(rays)
        paint = np.zeros(len(rays), np.uint8)
        for part in self.parts:
            axes = np.asarray(part.axes, np.float64)
            found, local = part.surface.hit((origins - part.offset) @ axes.T, rays @ axes.T)
            nearer = found < distance
            if part.least_x > -np.inf:
                x = origins[:, 0] + np.where(nearer, found, 0.0) * rays[:, 0]
                nearer &= x >= part.least_x
            distance[nearer] = found[nearer]
            normals[nearer] = local[nearer] @ axes
            paint[nearer] = part.paint
        length = np.sqrt(np.einsum('ij,ij->i', normals, normals))
        normals /= np.where(length > 0, length, 1.0)[:, None]
        return Hits(distance, normals, paint)


def cylinder(radius: float, low: float, high: float) -> Turned:
    """Return an upright tube."""
    return Turned(radius * radius, 0.0, 0.0, low, high)


def frustum(radius_low: float, radius_high: float, low: float, high: float) -> Turned:
    """Return the mantle between two circles."""
    slope = (radius_high - radius_low) / (high - low)
    start = radius_low - slope * low
    return Turned(start * start, 2 * start * slope, slope * slope, low, high)


def ellipsoid(radius: float, half_height: float, centre: float, low: float, high: float) -> Turned:
    """Return a slice of an ellipsoid of revolution around (0, 0, centre)."""
    ratio = (radius / half_height) ** 2
    return Turned(radius * radius - ratio * centre * centre, 2 * ratio * centre, -ratio, low, high)


def yawed(angle: float) -> tuple[tuple[float, float, float], ...]:
    """Return axes turned about z by an angle in radians, one a row."""
    c, s = math.cos(angle), math.sin(angle)
    return ((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0))
