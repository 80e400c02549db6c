"""The outline of an object from above: a circle or a rectangle, from its visible points.

Works on the support function: how far the points reach in each direction. Noise and single wrong
points are cut off by taking a quantile instead of the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.quantiles import quantile, quantiles

Array = NDArray[np.float64]

_DIRECTIONS = 72
_MOST = 2500
# Share of the points that may lie beyond the outline in each direction: what is left of noise.
_BEYOND = 0.0015
# Directions this close to the camera's, or to straight across it, are surely seen well.
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
        """Itself."""
        return self

    def reach(self) -> Array:
        """Return how far it reaches in each of the directions."""
        across = np.array([-self.axis[1], self.axis[0]])
        half = np.abs(_UNITS @ self.axis) * self.sides[0] + np.abs(_UNITS @ across) * self.sides[1]
        return np.asarray(_UNITS @ self.centre + half / 2)


@dataclass(frozen=True, eq=False)
class Circle:
    """A circle in the plane, metres."""

    centre: Array
    radius: float

    def reach(self) -> Array:
        """Return how far it reaches in each of the directions."""
        return np.asarray(_UNITS @ self.centre + self.radius)

    @property
    def box(self) -> Footprint:
        """The square around it, along the plane's axes."""
        return Footprint(self.centre, np.array([1.0, 0.0]), (2 * self.radius, 2 * self.radius))


@dataclass(frozen=True, eq=False)
class Handled:
    """A circle with something that sticks out of it, as a mug's handle does.

    Attributes:
        circle: the body.
        tip: (2,) from the circle's centre to the end of what sticks out, metres.
    """

    circle: Circle
    tip: Array

    def reach(self) -> Array:
        """Return how far it reaches in each of the directions."""
        tip = _UNITS @ (self.circle.centre + self.tip)
        return np.asarray(np.maximum(self.circle.reach(), tip))

    @property
    def box(self) -> Footprint:
        """The rectangle around it, along the handle."""
        length, radius = float(np.linalg.norm(self.tip)), self.circle.radius
        out = self.tip / length
        return _along(
            self.circle.centre + out * (length - radius) / 2, out, length + radius, 2 * radius
        )


Outline = Footprint | Circle | Handled


def footprint_of(points: Array, camera: Array) -> Footprint:
    """Return the footprint of an object.

    Args:
        points: (N, 2) its visible points from above, metres.
        camera: (2,) direction from the object to the camera, of any length.
    """
    middle = points.mean(axis=0)
    points = points[:: -(-len(points) // _MOST)] - middle
    reach = quantile(points @ _UNITS.T, 1 - _BEYOND)
    facing = _UNITS @ (camera / max(float(np.linalg.norm(camera)), 1e-9))
    rectangle = _rectangle(points, reach)
    circle = _circle(reach, facing)
    plain: list[Outline] = [rectangle, circle]
    misfits = [_misfit(reach, outline, facing) for outline in plain]
    best = plain[int(np.argmin(misfits))].box
    handled = _with_handle(points, reach, facing, circle)
    # It has more to adapt with, so it has to fit clearly better.
    if handled and _misfit(reach, handled, facing) < 0.75 * min(misfits):
        best = handled.box
    return Footprint(best.centre + middle, best.axis, best.sides)


def _misfit(reach: Array, outline: Outline, facing: Array) -> float:
    """Return how badly an outline explains how far the points reach, metres.

    On the side of the camera both too much and too little count; on the far side, which may be
    hidden, only points outside the outline do.
    """
    beyond = reach - outline.reach()
    return float(np.sqrt(np.mean(np.where(facing > 0, beyond, np.maximum(beyond, 0)) ** 2)))


def _circle(reach: Array, facing: Array, without: NDArray[np.bool_] | None = None) -> Circle:
    """Return the circle that reaches like this where it is surely seen.

    That is towards the camera and straight across; in between, depth is smoothed over the edge.
    """
    sure = (facing > np.cos(_FRONT)) | (np.abs(facing) < np.sin(_ACROSS))
    if without is not None and (sure & ~without).sum() > sure.sum() // 2:
        sure &= ~without
    equations = np.column_stack([_UNITS[sure], np.ones(int(sure.sum()))])
    x, y, radius = np.linalg.lstsq(equations, reach[sure], rcond=None)[0]
    return Circle(np.array([x, y]), float(radius))


def _with_handle(points: Array, reach: Array, facing: Array, circle: Circle) -> Handled | None:
    """Return the circle and handle that reach like this, or None if nothing sticks out of it.

    It begins with the circle that reaches like the points, handle and all.
    """
    left_out = np.zeros(len(reach), np.bool_)
    for _ in range(4):
        beyond = reach - circle.reach()
        sticks_out = beyond > 0.08 * circle.radius
        if (sticks_out == left_out).all():
            break
        left_out = sticks_out
        circle = _circle(reach, facing, left_out)
    beyond = reach - circle.reach()
    out = int(beyond.argmax())
    if not 0.25 * circle.radius < beyond[out] < 1.5 * circle.radius:
        return None
    # The tip is blunt: its middle is where the points beyond the circle are, on average.
    offsets = points - circle.centre
    along = offsets @ _UNITS[out]
    handle = offsets[along > 1.1 * circle.radius].mean(axis=0)
    length = circle.radius + float(beyond[out])
    return Handled(circle, handle / np.linalg.norm(handle) * length)


def _along(centre: Array, axis: Array, length: float, width: float) -> Footprint:
    """Return the rectangle with these sides along a direction and across it."""
    if abs(axis[0]) < abs(axis[1]):
        axis, length, width = np.array([axis[1], -axis[0]]), width, length
    return Footprint(centre, axis if axis[0] >= 0 else -axis, (length, width))


def _rectangle(points: Array, reach: Array) -> Footprint:
    """Return the rectangle of least area around (N, 2) points."""
    width = reach + np.roll(reach, _HALF)
    area = width[:_QUARTER] * width[_QUARTER:_HALF]
    coarse = _ANGLES[int(area.argmin())]
    fine = coarse + np.radians(np.linspace(-4, 4, 9))
    axes = [_along_and_across(float(angle)) for angle in fine]
    # How far the points reach along each axis and across it, for all angles at once.
    local = np.concatenate([points @ both for both in axes], axis=1)
    low, high = (side.reshape(-1, 2) for side in quantiles(local, _BEYOND, 1 - _BEYOND))
    sides = high - low
    best = int((sides[:, 0] * sides[:, 1]).argmin())
    along, across = np.ascontiguousarray(axes[best].T)
    middle = (low[best] + high[best]) / 2
    length, width = sides[best]
    centre = middle[0] * along + middle[1] * across
    return _along(centre, along, float(length), float(width))


def _along_and_across(angle: float) -> Array:
    """Return (2, 2) columns: the direction of an angle and the one across it."""
    x, y = np.cos(angle), np.sin(angle)
    return np.array([[x, -y], [y, x]])
