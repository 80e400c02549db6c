"""Positions of objects in the image and relative to each other, with margins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.describing import Describer, MAYBE, NO, Phrase, Truth, YES

Rng = np.random.Generator

ORDINALS = ('', 'first', 'second', 'third', 'fourth', 'fifth')

# Texts of each relation; {0} and {1} are the reference objects.
RELATIONS: dict[str, tuple[str, ...]] = {
    'left': ('left of {0}', 'to the left of {0}'),
    'right': ('right of {0}', 'to the right of {0}'),
    'behind': ('behind {0}', 'above {0}'),
    'front': ('in front of {0}', 'below {0}'),
    'nearest': ('closest to {0}', 'nearest to {0}', 'next to {0}'),
    'between': ('between {0} and {1}',),
}
_SIDES = {
    'leftmost {0}': 'left', '{0} on the far left': 'left', '{0} nearest to the left edge': 'left',
    'rightmost {0}': 'right', '{0} on the far right': 'right',
    '{0} closest to the right edge': 'right',
    'topmost {0}': 'top', '{0} nearest to the top edge': 'top',
    'lowest {0}': 'bottom', '{0} nearest to the bottom edge': 'bottom',
    '{0} closest to the bottom of the picture': 'bottom',
}  # fmt: skip
_PLACES = {
    'in the top left corner': (0.0, 0.0), 'in the top right': (1.0, 0.0),
    'in the bottom left': (0.0, 1.0), 'in the bottom right corner': (1.0, 1.0),
    'in the upper right': (1.0, 0.0), 'in the lower left': (0.0, 1.0),
    'in the middle of the picture': (0.5, 0.5), 'in the centre': (0.5, 0.5),
    'on the left side': (0.0, 0.5), 'on the right side': (1.0, 0.5),
}  # fmt: skip


def extreme(d: Describer, rng: Rng, phrase: Phrase) -> tuple[str, int | None]:
    """Return a phrase such as 'leftmost box' and the object, or None if it is ambiguous."""
    words = list(_SIDES)[int(rng.integers(len(_SIDES)))]
    text = words.format(phrase.one)
    if not phrase.sure or len(phrase.targets) < 2:
        return text, None
    side = _SIDES[words]
    middle = {'left': d.x, 'right': -d.x, 'top': d.y, 'bottom': -d.y}[side]
    height, width = d.scene.labels.shape
    corner = {'left': 0, 'top': 1, 'right': 2, 'bottom': 3}[side]
    scale = (width, height)[corner % 2] * (1 if corner < 2 else -1)
    border = np.array([item.box[corner] / scale for item in d.objects])
    # It must be first by its centre and by its border, else it is ambiguous.
    for values, margin in ((middle, 0.06), (border, 0.03)):
        order = sorted(phrase.targets, key=lambda i: values[i])
        if values[order[1]] - values[order[0]] < margin:
            return text, None
    first = min(phrase.targets, key=lambda i: middle[i])
    return text, first if first == min(phrase.targets, key=lambda i: border[i]) else None


def position(d: Describer, rng: Rng, phrase: Phrase) -> tuple[str, int | None]:
    """Return a phrase such as 'box in the top right' and the only object there, or None."""
    words = list(_PLACES)[int(rng.integers(len(_PLACES)))]
    inside, perhaps = _regions(d, *_PLACES[words])
    truth = np.minimum(phrase.truth, np.select([inside, perhaps], [YES, MAYBE], NO))
    placed = Phrase(f'{phrase.one} {words}', '', truth, phrase.properties + 1)
    return placed.one, placed.targets[0] if placed.unique else None


def _regions(d: Describer, x: float, y: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which objects are inside a region of the image, and which are ambiguous."""
    inside, perhaps = np.ones(len(d.objects), bool), np.ones(len(d.objects), bool)
    both = x == 0.5 and y == 0.5
    for values, place in ((d.x, x), (d.y, y)):
        if place != 0.5:
            inside &= np.abs(values - place) < 0.36
            perhaps &= np.abs(values - place) < 0.52
        elif both:
            inside &= np.abs(values - place) < 0.10
            perhaps &= np.abs(values - place) < 0.24
    return inside, perhaps


def relate(d: Describer, name: str, anchors: list[int], phrase: Phrase) -> Truth:
    """Return the truth of a relation to reference objects for each object."""
    if name == 'between':
        truth = _between(d, anchors[0], anchors[1])
    elif name == 'nearest':
        truth = _nearest(d, anchors[0], phrase)
    else:
        truth = _beside(d, name, anchors[0])
    truth[anchors] = NO
    return truth


def _beside(d: Describer, name: str, anchor: int) -> Truth:
    # In units of the image width, to keep slopes.
    height, width = d.scene.labels.shape
    right = d.x - d.x[anchor]
    down = (d.y - d.y[anchor]) * height / width
    along, across = {
        'left': (-right, down), 'right': (right, down),
        'front': (down, right), 'behind': (-down, right),
    }[name]  # fmt: skip
    sure = (along > 0.07) & (along > 0.6 * np.abs(across))
    perhaps = along > 0.012
    return np.select([sure, perhaps], [YES, MAYBE], NO).astype(float)


def _nearest(d: Describer, anchor: int, phrase: Phrase) -> Truth:
    """Return which of the phrase's objects is nearest to another, in the image and in space."""
    truth = np.full(len(d.objects), NO)
    members = [index for index in phrase.targets if index != anchor]
    if not phrase.sure or len(members) < 2:
        truth[members] = MAYBE
        return truth
    height, width = d.scene.labels.shape
    flat = np.hypot(d.x - d.x[anchor], (d.y - d.y[anchor]) * height / width)
    places = np.array([item.pose.position for item in d.objects])
    deep = np.linalg.norm(places - places[anchor], axis=1)
    winners = set()
    for values in (flat, deep):
        order = sorted(members, key=lambda i: values[i])
        if values[order[1]] < 1.3 * values[order[0]]:
            winners.add(-1)
        winners.add(order[0])
    if len(winners) == 1:
        truth[winners.pop()] = YES
    else:
        truth[members] = MAYBE
    return truth


def _between(d: Describer, one: int, other: int) -> Truth:
    height, width = d.scene.labels.shape
    points = np.stack([d.x, d.y * height / width], axis=1)
    line = points[other] - points[one]
    length = float(np.linalg.norm(line))
    if length < 0.2:
        return np.full(len(d.objects), MAYBE)
    offset = points - points[one]
    along = offset @ line / length**2
    across = np.abs(offset[:, 0] * line[1] - offset[:, 1] * line[0]) / length**2
    sure = (along > 0.22) & (along < 0.78) & (across < 0.2)
    perhaps = (along > 0.02) & (along < 0.98) & (across < 0.45)
    return np.select([sure, perhaps], [YES, MAYBE], NO).astype(float)
