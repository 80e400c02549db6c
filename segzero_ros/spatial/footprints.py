"""Fit an object's footprint (circle, rectangle, circle with handle) to its visible points.

The fit uses the points' support function: their extent in each direction. It is a quantile instead
of the maximum, which rejects noise and outliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import quantile, quantiles

Array = NDArray[np.float64]

# The support function is sampled every 5 degrees, over at most so many points.
_DIRECTIONS = 72
_MAX_POINTS = 2500
# Share of the points that may lie beyond the outline in each direction: residual noise.
_OUTLIER_SHARE = 0.0015
# The support function is reliable within this angle of the camera's direction, and of the
# directions perpendicular to it.
_FRONT, _ACROSS = np.radians(60), np.radians(4)

_ANGLES = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
_UNITS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_QUARTER, _HALF = _DIRECTIONS // 4, _DIRECTIONS // 2


@dataclass(frozen=True, eq=False)
class Footprint:
    """A rectangle in the plane, metres.

    Attributes:
        centre: (2,).
        axis: (2,) unit, along its first side, at most 45° from the plane's x axis.
        sides: its lengths along the axis and across it.
    """

    centre: Array
    axis: Array
    sides: tuple[float, float]

    @property
    def box(self) -> Footprint:
        """The rectangle itself."""
        return self

    def support(self) -> Array:
        """Return the (_DIRECTIONS,) support function, metres."""
        across = np.array([-self.axis[1], self.axis[0]])
        half = np.abs(_UNITS @ self.axis) * self.sides[0] + np.abs(_UNITS @ across) * self.sides[1]
        return np.asarray(_UNITS @ self.centre + half / 2)


@dataclass(frozen=True, eq=False)
class Circle:
    """A circle in the plane, metres."""

    centre: Array
    radius: float

    def support(self) -> Array:
        """Return the (_DIRECTIONS,) support function, metres."""
        return np.asarray(_UNITS @ self.centre + self.radius)

    @property
    def box(self) -> Footprint:
        """The bounding square along the plane's axes."""
        return Footprint(self.centre, np.array([1.0, 0.0]), (2 * self.radius, 2 * self.radius))


@dataclass(frozen=True, eq=False)
class CircleWithHandle:
    """A circle with a protrusion, such as a mug's handle.

    Attributes:
        circle: the body.
        tip: (2,) from the circle's centre to the end of the handle, metres.
    """

    circle: Circle
    tip: Array

    def support(self) -> Array:
        """Return the (_DIRECTIONS,) support function, metres."""
        tip = _UNITS @ (self.circle.centre + self.tip)
        return np.asarray(np.maximum(self.circle.support(), tip))

    @property
    def box(self) -> Footprint:
        """The bounding rectangle along the handle."""
        length, radius = float(np.linalg.norm(self.tip)), self.circle.radius
        axis = self.tip / length
        centre = self.circle.centre + axis * (length - radius) / 2
        return _footprint_along(centre, axis, length + radius, 2 * radius)


Outline = Footprint | Circle | CircleWithHandle


def footprint_of(points: Array, camera: Array) -> Footprint:
    """Return the footprint of an object.

    Args:
        points: (N, 2) its visible points from above, metres.
        camera: (2,) direction from the object to the camera, of any length.
    """
    middle = points.mean(axis=0)
    points = points[:: -(-len(points) // _MAX_POINTS)] - middle
    support = quantile(points @ _UNITS.T, 1 - _OUTLIER_SHARE)
    facing = _UNITS @ (camera / max(float(np.linalg.norm(camera)), 1e-9))
    rectangle = _min_area_rectangle(points, support)
    circle = _fit_circle(support, facing)
    simple: list[Outline] = [rectangle, circle]
    residuals = [_residual(support, outline, facing) for outline in simple]
    best = simple[int(np.argmin(residuals))].box
    with_handle = _fit_handle(points, support, facing, circle)
    # It has more degrees of freedom, so it must fit clearly better.
    if with_handle and _residual(support, with_handle, facing) < 0.75 * min(residuals):
        best = with_handle.box
    return Footprint(best.centre + middle, best.axis, best.sides)


def _residual(support: Array, outline: Outline, facing: Array) -> float:
    """Return the RMS difference between the points' and an outline's support function, metres.

    On the far side, which may be hidden, only points outside the outline count.
    """
    excess = support - outline.support()
    return float(np.sqrt(np.mean(np.where(facing > 0, excess, np.maximum(excess, 0)) ** 2)))


def _fit_circle(
    support: Array, facing: Array, excluded: NDArray[np.bool_] | None = None
) -> Circle:
    """Return the least-squares circle over the reliable directions.

    These are towards the camera and perpendicular to it; in between, depth is smoothed at the
    edge.
    """
    reliable = (facing > np.cos(_FRONT)) | (np.abs(facing) < np.sin(_ACROSS))
    if excluded is not None and (reliable & ~excluded).sum() > reliable.sum() // 2:
        reliable &= ~excluded
    equations = np.column_stack([_UNITS[reliable], np.ones(int(reliable.sum()))])
    x, y, radius = np.linalg.lstsq(equations, support[reliable], rcond=None)[0]
    return Circle(np.array([x, y]), float(radius))


def _fit_handle(
    points: Array, support: Array, facing: Array, circle: Circle
) -> CircleWithHandle | None:
    """Return a circle with a handle, or None if nothing protrudes.

    The circle is refitted without the protruding directions, starting from the one fitted to all.
    """
    excluded = np.zeros(len(support), np.bool_)
    for _ in range(4):
        excess = support - circle.support()
        protruding = excess > 0.08 * circle.radius
        if (protruding == excluded).all():
            break
        excluded = protruding
        circle = _fit_circle(support, facing, excluded)
    excess = support - circle.support()
    direction = int(excess.argmax())
    if not 0.25 * circle.radius < excess[direction] < 1.5 * circle.radius:
        return None
    # The tip is blunt: its direction is that of the mean of the points beyond the circle.
    offsets = points - circle.centre
    along = offsets @ _UNITS[direction]
    handle = offsets[along > 1.1 * circle.radius].mean(axis=0)
    length = circle.radius + float(excess[direction])
    return CircleWithHandle(circle, handle / np.linalg.norm(handle) * length)


def _footprint_along(centre: Array, axis: Array, length: float, width: float) -> Footprint:
    """Return the rectangle with this length along an axis and width across it."""
    if abs(axis[0]) < abs(axis[1]):
        axis, length, width = np.array([axis[1], -axis[0]]), width, length
    return Footprint(centre, axis if axis[0] >= 0 else -axis, (length, width))


def _min_area_rectangle(points: Array, support: Array) -> Footprint:
    """Return the minimum-area rectangle around (N, 2) points."""
    width = support + np.roll(support, _HALF)
    area = width[:_QUARTER] * width[_QUARTER:_HALF]
    coarse = _ANGLES[int(area.argmin())]
    fine = coarse + np.radians(np.linspace(-4, 4, 9))
    axes = [_axes_at(float(angle)) for angle in fine]
    # The points' coordinates along and across each axis, for all angles at once.
    local = np.concatenate([points @ both for both in axes], axis=1)
    limits = quantiles(local, _OUTLIER_SHARE, 1 - _OUTLIER_SHARE)
    low, high = (limit.reshape(-1, 2) for limit in limits)
    sides = high - low
    best = int((sides[:, 0] * sides[:, 1]).argmin())
    along, across = np.ascontiguousarray(axes[best].T)
    middle = (low[best] + high[best]) / 2
    length, width = sides[best]
    centre = middle[0] * along + middle[1] * across
    return _footprint_along(centre, along, float(length), float(width))


def _axes_at(angle: float) -> Array:
    """Return (2, 2) columns: the direction at an angle and the one perpendicular to it."""
    x, y = np.cos(angle), np.sin(angle)
    return np.array([[x, -y], [y, x]])
