"""Flat coloured shapes on photographs: another domain than generated table-tops.

Queries use only colour and position, so their vocabulary is that of table-tops, unlike forms,
backgrounds, light and perspective. Used to measure how training on table-tops generalises.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import json
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.extras import lacking
from segzero_ros.simulation import colours
from segzero_ros.training.presets import TrainingError
from segzero_ros.training.rows import Row
from segzero_ros.types import RgbImage

FORMS = ('star', 'cross', 'triangle', 'crescent', 'hexagon', 'arrow')
PHOTOGRAPHS = ('coffee', 'astronaut', 'chelsea', 'rocket')
# Radius of a shape as a fraction of the image's side.
_MIN_RADIUS, _MAX_RADIUS = 0.06, 0.12
_MAX_SHAPES = 7
_MAX_TRIALS = 60
# Colours that cannot be confused.
_COLOURS = ('red', 'yellow', 'green', 'blue', 'purple', 'white', 'black')
# Contrast of the photograph, reduced so that shapes stand out.
_CONTRAST = 0.55


@dataclass(frozen=True, eq=False)
class Shape:
    """A shape in an image.

    Attributes:
        form: one of FORMS.
        colour: one of the colours' names.
        box: (x1, y1, x2, y2), integer pixels, x2 and y2 outside.
        point: inner pixel (x, y).
    """

    form: str
    colour: str
    box: tuple[int, int, int, int]
    point: tuple[int, int]


def flat_row(side: int, seed: int) -> Row:
    """Return a row with a query about flat shapes.

    Args:
        side: of the square image, pixels.
        seed: of the random generator.

    Raises:
        TrainingError: scikit-image with the photographs is not installed.
    """
    rng = np.random.default_rng((seed, 7))
    image = _background(side, rng)
    shapes: list[Shape] = []
    taken = np.zeros((side, side), np.uint8)
    for _ in range(int(rng.integers(3, _MAX_SHAPES + 1))):
        shape = _draw(image, taken, rng)
        if shape is not None:
            shapes.append(shape)
    question, targets = ask_about(shapes, rng)
    items = [
        {'bbox_2d': list(shape.box), 'point_2d': list(shape.point)}
        for shape in sorted(targets, key=lambda each: each.point)
    ]
    return Row(image, question, json.dumps(items))


def ask_about(shapes: list[Shape], rng: np.random.Generator) -> tuple[str, list[Shape]]:
    """Return a query about some shapes, and its targets, possibly none."""
    noun = str(rng.choice(['object', 'thing', 'item']))
    colour = str(rng.choice(_COLOURS)) if rng.random() < 0.25 else str(rng.choice(_seen(shapes)))
    targets = [shape for shape in shapes if shape.colour == colour]
    if len(targets) <= 1:
        return f'the {colour} {noun}', targets
    if rng.random() < 0.4:
        return f'all {colour} {noun}s', targets
    side = str(rng.choice(['leftmost', 'rightmost']))
    ordered = sorted(targets, key=lambda each: each.box[0] + each.box[2])
    return f'the {side} {colour} {noun}', [ordered[0 if side == 'leftmost' else -1]]


def _seen(shapes: list[Shape]) -> list[str]:
    return [shape.colour for shape in shapes] or list(_COLOURS)


def _draw(image: RgbImage, taken: NDArray[np.uint8], rng: np.random.Generator) -> Shape | None:
    """Draw a shape on a free area and return it; None if there is no space."""
    side = len(image)
    form, colour = str(rng.choice(FORMS)), str(rng.choice(_COLOURS))
    paint = colours.mix(rng, colour)
    for _ in range(_MAX_TRIALS):
        radius = rng.uniform(_MIN_RADIUS, _MAX_RADIUS) * side
        centre = rng.uniform(radius + 2, side - radius - 2, 2)
        outline = _outline(form, rng.uniform(0, 2 * math.pi)) * radius + centre
        mask = np.zeros((side, side), np.uint8)
        cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
        apart = cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0
        if taken[apart].any():
            continue
        taken |= mask
        image[mask > 0] = np.rint(np.array(paint.rgb) * 255)
        x, y, width, height = cv2.boundingRect(mask)
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(distance.argmax()), distance.shape)
        return Shape(form, colour, (x, y, x + width, y + height), (int(column), int(row)))
    return None


def _outline(form: str, angle: float) -> NDArray[np.float64]:
    """Return (N, 2) corners of a form of radius 1 around (0, 0)."""
    if form == 'crescent':
        outer = np.linspace(0.2 * math.pi, 1.8 * math.pi, 24)
        inner = outer[::-1]
        corners = np.concatenate([_circle(outer), _circle(inner) * (0.62, 0.8) + (0.3, 0.0)])
    elif form == 'cross':
        arm = 0.3
        quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
        corners = np.concatenate([quarter @ _rotation(step * math.pi / 2) for step in range(4)])
    elif form == 'arrow':
        corners = np.array(
            [(1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3), (-1, -0.3), (0.1, -0.3), (0.1, -0.8)]
        )
    else:
        count, deep = {'star': (10, 0.45), 'triangle': (3, 1.0), 'hexagon': (6, 1.0)}[form]
        corners = _circle(np.arange(count) * 2 * math.pi / count)
        corners[1::2] *= deep
    return corners @ _rotation(angle)


def _circle(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _rotation(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([(cosine, sine), (-sine, cosine)])


def _background(side: int, rng: np.random.Generator) -> RgbImage:
    """Return a crop of a photograph with reduced contrast."""
    photograph = _photograph(str(rng.choice(PHOTOGRAPHS)))
    size = int(rng.integers(200, min(photograph.shape[:2]) + 1))
    top, left = (int(rng.integers(0, length - size + 1)) for length in photograph.shape[:2])
    cut = photograph[top : top + size, left : left + size]
    piece = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
    mean = piece.mean((0, 1))
    return np.asarray(np.rint(_CONTRAST * piece + (1 - _CONTRAST) * mean), np.uint8)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> RgbImage:
    try:
        from skimage import data
    except ImportError as error:
        raise TrainingError(f'{lacking("The photographs need", error, "demo")}.') from error
    return np.asarray(getattr(data, name)(), np.uint8)
