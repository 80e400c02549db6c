"""Dense targets of each image token: kind, colour, shade, box and point of its object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.catalogue import CLASSES, CLUTTER
from segzero_ros.simulation.colours import NAMES
from segzero_ros.training.mini.geometry import GRID, PATCH, SIDE, TOKENS
from segzero_ros.training.mini.rendered_scenes import HEIGHT, LABELS, RenderedScene, WIDTH

KINDS = ('', *CLASSES, *CLUTTER)
SHADES = ('', 'light', 'dark')
COLOURS = NAMES
_CELL = LABELS // GRID
# Minimum fraction of a token that its largest object has to cover.
_MIN_SHARE = 0.14


def dense_targets(scene: RenderedScene) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the targets of a scene's tokens.

    Returns:
        (TOKENS, 4) int8: index into KINDS (0: no object), COLOURS and SHADES, and 1 for the token
        of the object's inner point; (TOKENS, 6) float32: the object's box (x1, y1, x2, y2) and
        inner point (x, y), pixels of the square; 0 without an object.
    """
    names = np.zeros((TOKENS, 4), np.int8)
    places = np.zeros((TOKENS, 6), np.float32)
    scale = np.array([SIDE / WIDTH, SIDE / HEIGHT] * 3)
    owners = _owners(scene)
    for index, (item, point) in enumerate(zip(scene.objects, scene.points, strict=True)):
        if item.area:
            column, row = (np.array(point) * scale[:2] // PATCH).astype(int)
            # A token may contain the inner points of two objects.
            owners[row * GRID + column] = index
            names[row * GRID + column, 3] = 1
    for token in np.flatnonzero(owners >= 0):
        item, point = scene.objects[owners[token]], scene.points[owners[token]]
        names[token, 0] = KINDS.index(item.kind)
        names[token, 1] = COLOURS.index(item.colour)
        names[token, 2] = SHADES.index(item.shade)
        places[token] = np.array([*item.box, *point]) * scale
    return names, places


def _owners(scene: RenderedScene) -> NDArray[np.int64]:
    """Return (TOKENS,) the index of each token's largest object, or -1."""
    cells = scene.labels.reshape(GRID, _CELL, GRID, _CELL).swapaxes(1, 2).reshape(TOKENS, -1)
    if not scene.objects:
        return np.full(TOKENS, -1)
    counts = np.stack([(cells == item.id).sum(1) for item in scene.objects], 1)
    enough = counts.max(1) >= _MIN_SHARE * _CELL**2
    return np.where(enough, counts.argmax(1), -1)
