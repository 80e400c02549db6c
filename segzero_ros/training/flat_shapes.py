"""Flat coloured shapes on photographs: a domain that generated table-tops know nothing of.

Only colour and place tell the shapes apart, so what is asked stays within the words of table-tops
while forms, backgrounds, light and perspective do not. For measuring what training on table-tops
does elsewhere.
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
# Share of the picture's side from a shape's middle to its rim.
_SMALLEST, _LARGEST = 0.06, 0.12
_MOST = 7
_TRIALS = 60
# Colours that nobody takes for another of them.
_COLOURS = ('red', 'yellow', 'green', 'blue', 'purple', 'white', 'black')
# The photograph is made paler, so that a shape is not lost in it.
_PALER = 0.55


@dataclass(frozen=True, eq=False)
class Shape:
    """A shape in a picture.

    Attributes:
        form: one of FORMS.
        colour: one of the colours' names.
        box: (x1, y1, x2, y2), whole pixels, the first and the last outside.
        point: (x, y) well inside, whole pixels.
    """

    form: str
    colour: str
    box: tuple[int, int, int, int]
    point: tuple[int, int]


def flat_row(side: int, seed: int) -> Row:
    """Return a question about flat shapes, with its truth.

    Args:
        side: of the square picture, pixels.
        seed: the same seed gives the same row.

    Raises:
        TrainingError: scikit-image, which has the photographs, is not installed.
    """
    rng = np.random.default_rng((seed, 7))
    image = _background(side, rng)
    shapes: list[Shape] = []
    taken = np.zeros((side, side), np.uint8)
    for _ in range(int(rng.integers(3, _MOST + 1))):
        shape = _draw(image, taken, rng)
        if shape is not None:
            shapes.append(shape)
    question, meant = ask_about(shapes, rng)
    items = [
        {'bbox_2d': list(shape.box), 'point_2d': list(shape.point)}
        for shape in sorted(meant, key=lambda each: each.point)
    ]
    return Row(image, question, json.dumps(items))


def ask_about(shapes: list[Shape], rng: np.random.Generator) -> tuple[str, list[Shape]]:
    """Return a question and those of some shapes that it means, perhaps none."""
    noun = str(rng.choice(['object', 'thing', 'item']))
    colour = str(rng.choice(_COLOURS)) if rng.random() < 0.25 else str(rng.choice(_seen(shapes)))
    meant = [shape for shape in shapes if shape.colour == colour]
    if len(meant) <= 1:
        return f'the {colour} {noun}', meant
    if rng.random() < 0.4:
        return f'all {colour} {noun}s', meant
    side = str(rng.choice(['leftmost', 'rightmost']))
    ordered = sorted(meant, key=lambda each: each.box[0] + each.box[2])
    return f'the {side} {colour} {noun}', [ordered[0 if side == 'leftmost' else -1]]


def _seen(shapes: list[Shape]) -> list[str]:
    return [shape.colour for shape in shapes] or list(_COLOURS)


def _draw(image: RgbImage, taken: NDArray[np.uint8], rng: np.random.Generator) -> Shape | None:
    """Paint a shape where nothing is yet, and return it; None if there is no room."""
    side = len(image)
    form, colour = str(rng.choice(FORMS)), str(rng.choice(_COLOURS))
    paint = colours.mix(rng, colour)
    for _ in range(_TRIALS):
        radius = rng.uniform(_SMALLEST, _LARGEST) * side
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


def _outline(form: str, turn: float) -> NDArray[np.float64]:
    """Return (N, 2) corners of a form of radius 1 around (0, 0)."""
    if form == 'crescent':
        outer = np.linspace(0.2 * math.pi, 1.8 * math.pi, 24)
        inner = outer[::-1]
        corners = np.concatenate([_circle(outer), _circle(inner) * (0.62, 0.8) + (0.3, 0.0)])
    elif form == 'cross':
        arm = 0.3
        quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
        corners = np.concatenate([quarter @ _turned(step * math.pi / 2) for step in range(4)])
    elif form == 'arrow':
        corners = np.array(
            [(1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3), (-1, -0.3), (0.1, -0.3), (0.1, -0.8)]
        )
    else:
        count, deep = {'star': (10, 0.45), 'triangle': (3, 1.0), 'hexagon': (6, 1.0)}[form]
        corners = _circle(np.arange(count) * 2 * math.pi / count)
        corners[1::2] *= deep
    return corners @ _turned(turn)


def _circle(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _turned(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([(cosine, sine), (-sine, cosine)])


def _background(side: int, rng: np.random.Generator) -> RgbImage:
    """Return a pale piece of a photograph."""
    photograph = _photograph(str(rng.choice(PHOTOGRAPHS)))
    size = int(rng.integers(200, min(photograph.shape[:2]) + 1))
    top, left = (int(rng.integers(0, length - size + 1)) for length in photograph.shape[:2])
    cut = photograph[top : top + size, left : left + size]
    piece = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
    mean = piece.mean((0, 1))
    return np.asarray(np.rint(_PALER * piece + (1 - _PALER) * mean), np.uint8)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> RgbImage:
    try:
        from skimage import data
    except ImportError as error:
        raise TrainingError(f'{lacking("The photographs need", error, "demo")}.') from error
    return np.asarray(getattr(data, name)(), np.uint8)
