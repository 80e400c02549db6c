"""What each token of a picture truly shows: kind, colour and shade, and the object's place."""

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
# A token belongs to the object that it shows most of, if that covers this share of it.
_LEAST_SHARE = 0.14


def dense_targets(kept: RenderedScene) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return what the tokens of a scene's picture show.

    Returns:
        (TOKENS, 4) int8: index into KINDS (0: no object), COLOURS and SHADES, and 1 where the
        object's inner point is; (TOKENS, 6) float32: the object's box (x1, y1, x2, y2) and inner
        point (x, y), pixels of the square; 0 where there is no object.
    """
    names = np.zeros((TOKENS, 4), np.int8)
    places = np.zeros((TOKENS, 6), np.float32)
    scale = np.array([SIDE / WIDTH, SIDE / HEIGHT] * 3)
    owners = _owners(kept)
    for index, (item, point) in enumerate(zip(kept.objects, kept.points, strict=True)):
        if item.area:
            column, row = (np.array(point) * scale[:2] // PATCH).astype(int)
            # Not the last object's alone: a token may hold the inner points of two.
            owners[row * GRID + column] = index
            names[row * GRID + column, 3] = 1
    for token in np.flatnonzero(owners >= 0):
        item, point = kept.objects[owners[token]], kept.points[owners[token]]
        names[token, 0] = KINDS.index(item.kind)
        names[token, 1] = COLOURS.index(item.colour)
        names[token, 2] = SHADES.index(item.shade)
        places[token] = np.array([*item.box, *point]) * scale
    return names, places


def _owners(kept: RenderedScene) -> NDArray[np.int64]:
    """Return (TOKENS,) the index of the object that each token shows most of, or -1."""
    cells = kept.labels.reshape(GRID, _CELL, GRID, _CELL).swapaxes(1, 2).reshape(TOKENS, -1)
    if not kept.objects:
        return np.full(TOKENS, -1)
    counts = np.stack([(cells == item.id).sum(1) for item in kept.objects], 1)
    enough = counts.max(1) >= _LEAST_SHARE * _CELL**2
    return np.where(enough, counts.argmax(1), -1)
