"""A plane in the optical frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """Points p with normal · p + offset = 0.

    Attributes:
        normal: (3,) unit, towards the camera's side.
        offset: distance of the camera from the plane, metres; positive.
    """

    normal: NDArray[np.float64]
    offset: float

    def heights(self, points: Points) -> NDArray[np.float64]:
        """Return the (N,) heights of points above the plane, metres."""
        return np.asarray(points @ self.normal + self.offset)
