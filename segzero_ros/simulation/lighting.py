"""Lighting: soft cast shadows, contact shadows, Lambert shading and highlights.

Light is linear; a gamma of 2 approximates sRGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.catalogue import INSIDE
from segzero_ros.simulation.colours import Rgb
from segzero_ros.simulation.solids import Array
from segzero_ros.simulation.things import Camera, Thing
from segzero_ros.simulation.tracing import image_window, View
from segzero_ros.types import Mask

Values = NDArray[np.float32]

# Shadows are computed on every second pixel of every second row.
_STEP = 2


@dataclass(frozen=True, eq=False)
class Light:
    """One lamp or window, and ambient light.

    Attributes:
        directions: (N, 3) unit vectors towards points of the lamp; their spread softens shadows.
        strength: linear, of the lamp.
        tint: colour of the lamp.
        ambient: linear, of the ambient light.
    """

    directions: Array
    strength: float
    tint: Rgb
    ambient: float

    @property
    def towards(self) -> Array:
        """The (3,) unit vector towards the lamp's middle."""
        mean = self.directions.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))


def lamp(rng: np.random.Generator, samples: int = 6) -> Light:
    """Return a lamp or window at a random position over the table."""
    azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(38, 72))
    middle = np.array(
        [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]
    )
    across = np.cross(middle, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    up = np.cross(across, middle)
    turns = np.arange(samples) * 2.399963  # the golden angle spreads them evenly over a disc
    radii = np.tan(np.radians(rng.uniform(1.5, 5.0))) * np.sqrt(
        (np.arange(samples) + 0.5) / samples
    )
    spread = np.cos(turns)[:, None] * across + np.sin(turns)[:, None] * up
    directions = middle + radii[:, None] * spread
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    warm = rng.uniform(-0.07, 0.10)
    return Light(
        directions,
        float(rng.uniform(0.55, 0.85)),
        (1.0 + warm, 1.0, 1.0 - warm),
        float(rng.uniform(0.28, 0.48)),
    )


def illuminate(
    camera: Camera,
    view: View,
    things: Sequence[Thing],
    light: Light,
    colours: Values,
    gloss: Values,
) -> Values:
    """Return the (H, W, 3) linear light that reaches the camera.

    Args:
        camera: the camera.
        view: the visible surface of each pixel.
        things: the objects, which cast shadows.
        light: the lamp.
        colours: (H, W, 3) sRGB of the surfaces, 0 to 1.
        gloss: (H, W) strength of the highlight.
    """
    on_things = view.labels > 0
    lit = np.where(
        on_things, _on_things(view, things, light), _on_table(camera, view, things, light)
    )
    normals = view.normals
    lambert = np.maximum(normals @ light.towards.astype(np.float32), 0) * lit
    # Less ambient light reaches surfaces that face down or are close to the table.
    open_sky = 0.72 + 0.28 * normals[..., 2]
    height = np.clip(view.points[..., 2], 0, 0.04).astype(np.float32) / 0.04
    open_sky = np.where(on_things, open_sky * (0.7 + 0.3 * height), open_sky)
    open_sky *= _contact(camera, view, things)
    open_sky[on_things & (view.paint == INSIDE)] *= 0.72
    tint = np.asarray(light.tint, np.float32)
    shade = light.ambient * open_sky[..., None] + light.strength * lambert[..., None] * tint
    seen = colours * colours * shade
    shiny = gloss > 0.01
    shine = _shine(camera, view, light, shiny) * gloss[shiny] * lit[shiny] * light.strength
    seen[shiny] += shine[:, None] * tint
    return np.asarray(seen, np.float32)


def _shine(camera: Camera, view: View, light: Light, shiny: Mask) -> Values:
    """Return (N,) the highlight's strength on the shiny pixels (Blinn and Phong's model)."""
    to_camera = (camera.position - view.points[shiny]).astype(np.float32)
    to_camera /= np.sqrt(np.einsum('ij,ij->i', to_camera, to_camera))[:, None]
    middle = to_camera + light.towards.astype(np.float32)
    middle /= np.sqrt(np.einsum('ij,ij->i', middle, middle))[:, None]
    cosine = np.maximum(np.einsum('ij,ij->i', view.normals[shiny], middle), 0)
    # The 32nd and the 160th power, by squaring, which is faster than np.power.
    wide = cosine
    for _ in range(5):
        wide = wide * wide
    narrow = wide * wide * wide * wide * wide
    return np.asarray(0.4 * wide + 0.9 * narrow, np.float32)


def _on_table(camera: Camera, view: View, things: Sequence[Thing], light: Light) -> Values:
    """Return (H, W) the fraction of the lamp's light that reaches the table."""
    height, width = view.labels.shape
    rows, columns = np.mgrid[0:height:_STEP, 0:width:_STEP].astype(np.float64)
    rays = camera.rays(columns, rows)
    with np.errstate(divide='ignore'):
        reach = np.where(rays[..., 2] < -1e-3, -camera.position[2] / rays[..., 2], 50.0)
    points = camera.position + rays * reach[..., None]
    points[..., 2] = 0.0
    shadow = np.zeros(points.shape[:2], np.float32)
    for direction in light.directions:
        covered = np.zeros(points.shape[:2], np.bool_)
        for thing in things:
            corners = thing.corners
            cast = corners - direction * (corners[:, 2:] / direction[2])
            full = image_window(camera, cast)
            window = tuple(slice(part.start // _STEP, -(-part.stop // _STEP)) for part in full)
            under = points[window].reshape(-1, 3)
            if len(under):
                hits = thing.hit(under, np.broadcast_to(direction, under.shape))
                covered[window] |= np.isfinite(hits.distance).reshape(covered[window].shape)
        shadow += covered
    softened = cv2.GaussianBlur(1.0 - shadow / len(light.directions), (0, 0), 1.1)
    return np.asarray(cv2.resize(softened, (width, height), interpolation=cv2.INTER_LINEAR))


def _on_things(view: View, things: Sequence[Thing], light: Light) -> Values:
    """Return (H, W) the fraction of the lamp's light that reaches the objects; 1 elsewhere."""
    height, width = view.labels.shape
    labels = view.labels[::_STEP, ::_STEP]
    lit = np.ones(labels.shape, np.float32)
    on_things = labels > 0
    points = view.points[::_STEP, ::_STEP][on_things]
    points = points + 1.5e-3 * view.normals[::_STEP, ::_STEP][on_things]
    reached = np.ones(len(points), np.float32)
    samples = light.directions[:: max(1, len(light.directions) // 3)]
    for direction in samples:
        blocked = np.zeros(len(points), np.bool_)
        for thing in things:
            offset = thing.centre - points
            along = offset @ direction
            close = (along > -thing.reach) & ~blocked
            close &= (offset * offset).sum(axis=1) - along * along < thing.reach**2
            chosen = np.flatnonzero(close)
            if len(chosen):
                rays = np.broadcast_to(direction, (len(chosen), 3))
                blocked[chosen] = np.isfinite(thing.hit(points[chosen], rays).distance)
        reached -= blocked.astype(np.float32) / len(samples)
    lit[on_things] = reached
    # Interpolate only within objects, so that the table's light does not leak over their edges.
    weight = on_things.astype(np.float32)
    spread = cv2.GaussianBlur(lit * weight, (0, 0), 0.9)
    shared = spread / np.maximum(cv2.GaussianBlur(weight, (0, 0), 0.9), 1e-3)
    return np.asarray(cv2.resize(shared, (width, height), interpolation=cv2.INTER_LINEAR))


def _contact(camera: Camera, view: View, things: Sequence[Thing]) -> Values:
    """Return (H, W) the fraction of the ambient light that reaches the table near objects."""
    height, width = view.labels.shape
    points = view.points[::_STEP, ::_STEP]
    openness = np.ones(points.shape[:2], np.float32)
    margin = 0.06
    for thing in things:
        if thing.position[2] > 1e-3 or thing.solid.extents[2] < 0.008:
            continue
        widened = thing.corners + margin * np.sign(thing.corners - thing.centre) * [1, 1, 0]
        full = image_window(camera, widened)
        rows, columns = (slice(part.start // _STEP, -(-part.stop // _STEP)) for part in full)
        local = (points[rows, columns] - thing.position) @ thing.axes
        if thing.solid.round:
            gap = np.linalg.norm(local[..., :2], axis=2) - thing.solid.high[0] * 0.8
        else:
            middle = (np.array(thing.solid.low) + thing.solid.high)[:2] / 2
            half = np.array(thing.solid.extents)[:2] / 2
            outside = np.maximum(np.abs(local[..., :2] - middle) - half, 0)
            gap = np.linalg.norm(outside, axis=2)
        near = 0.55 * np.exp(-np.maximum(gap, 0) / (0.25 * thing.solid.extents[2] + 0.006))
        openness[rows, columns] *= 1.0 - near.astype(np.float32)
    openness[view.labels[::_STEP, ::_STEP] > 0] = 1.0
    return np.asarray(cv2.resize(openness, (width, height), interpolation=cv2.INTER_LINEAR))
