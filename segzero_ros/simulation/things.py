"""Camera and objects in the world frame.

World frame: z up, the table top is z = 0, the camera looks along +y and down; metres.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from segzero_ros.simulation.colours import Paint, Rgb
from segzero_ros.simulation.solids import Array, Hits, Solid, yawed
from segzero_ros.simulation.textures import Skin
from segzero_ros.types import Intrinsics


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in the world.

    Attributes:
        intrinsics: without distortion.
        position: (3,) in the world, metres.
        axes: (3, 3) its columns are the optical frame's x (right), y (down), z (forward) in the
            world.
    """

    intrinsics: Intrinsics
    position: Array
    axes: Array

    @classmethod
    def looking_at(
        cls, intrinsics: Intrinsics, target: Array, distance: float, tilt: float, roll: float
    ) -> Camera:
        """Return a camera with a point of the table at the centre of its image.

        Args:
            intrinsics: of the camera.
            target: (3,) the point, metres.
            distance: from it, metres.
            tilt: below the horizon, radians.
            roll: about the line of sight, radians.
        """
        forward = np.array([0.0, math.cos(tilt), -math.sin(tilt)])
        right, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, -math.sin(tilt), -math.cos(tilt)])
        c, s = math.cos(roll), math.sin(roll)
        axes = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
        return cls(intrinsics, target - distance * forward, axes)

    def rays(self, columns: Array, rows: Array) -> Array:
        """Return the (N, 3) rays in the world through N pixels; their unit is metres of depth."""
        k = self.intrinsics
        x, y = (columns - k.cx) / k.fx, (rows - k.cy) / k.fy
        return np.asarray(np.stack([x, y, np.ones_like(x)], axis=-1) @ self.axes.T)

    def to_camera(self, points: Array) -> Array:
        """Return (N, 3) points of the world in the optical frame."""
        return np.asarray((points - self.position) @ self.axes)

    def project(self, points: Array) -> Array:
        """Return the (N, 2) pixels x, y of (N, 3) points of the world in front of the camera."""
        x, y, z = self.to_camera(points).T
        k = self.intrinsics
        z = np.maximum(z, 1e-3)
        return np.stack([k.fx * x / z + k.cx, k.fy * y / z + k.cy], axis=1)


@dataclass(frozen=True, eq=False)
class Thing:
    """An object: a solid with its paint and pose.

    Attributes:
        solid: its shape.
        paint: its body's colour.
        skin: the texture over that colour.
        inside: colour of its inside, if it has one.
        gloss: strength of its highlight, 0 to 1.
        position: (3,) of the solid's origin in the world, metres.
        yaw: rotation about the vertical, radians.
        size: 'small', 'medium' or 'large' for its class.
        clutter: whether no sentence may be about it.
    """

    solid: Solid
    paint: Paint
    skin: Skin
    inside: Rgb
    gloss: float
    position: Array
    yaw: float
    size: str = 'medium'
    clutter: bool = False

    @property
    def axes(self) -> Array:
        """The (3, 3) matrix whose columns are the solid's axes in the world."""
        return np.asarray(np.array(yawed(self.yaw)).T)

    @property
    def centre(self) -> Array:
        """The (3,) centre of its bounding box, in the world."""
        middle = (np.array(self.solid.low) + np.array(self.solid.high)) / 2
        return np.asarray(self.position + self.axes @ middle)

    @property
    def corners(self) -> Array:
        """The (8, 3) corners of its bounding box, in the world."""
        return np.asarray(self.position + self.solid.corners @ self.axes.T)

    @property
    def reach(self) -> float:
        """Radius of its bounding sphere around `centre`, metres."""
        return float(np.linalg.norm(self.solid.extents)) / 2

    def hit(self, origins: Array, rays: Array) -> Hits:
        """Return the first intersections of rays in the world, with normals in the world."""
        hits = self.solid.hit((origins - self.position) @ self.axes, rays @ self.axes)
        return Hits(hits.distance, hits.normals @ self.axes.T, hits.paint)
