"""One row of training: a square picture, a question, and what is meant, in the published schema.

The published sets have the columns of `COLUMNS`, pictures of 840 by 840, and solutions in that
square's pixels: a JSON list of boxes with points, or one box with two points in tags. A column
`answer`, where there is one, is a whole answer to learn by heart.
Imports `reasoning.dialects` and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import re
from typing import Any

import numpy as np

from segzero_ros.reasoning.dialects import Dialect, SQUARE
from segzero_ros.training.presets import TrainingError
from segzero_ros.types import Box, RgbImage

COLUMNS = ('id', 'problem', 'solution', 'image', 'img_height', 'img_width')
_TAGS = re.compile(r'<box>.*?</box>\s*<points>.*?</points>')
_PAIR = re.compile(r'\((\d+),(\d+)\)')


@dataclass(frozen=True, eq=False)
class Row:
    """One question with its truth, in the pixels of one dialect's square.

    Attributes:
        image: (S, S, 3) uint8 RGB, as the model sees it.
        problem: the question.
        solution: the truth, as the dialect's rewards read it.
        answer: a whole answer to learn by heart; '' where there is none.
    """

    image: RgbImage
    problem: str
    solution: str
    answer: str = ''


def solution_for(dialect: Dialect, solution: str) -> str:
    """Return a published solution in the pixels of a dialect's square, in the form it reads.

    Raises:
        TrainingError: the solution cannot be read, or has another form than the dialect's.
    """
    tagged = _TAGS.search(solution) is not None
    if dialect.grammar.single != tagged:
        forms = 'one box with two points in tags', 'a JSON list of boxes with points'
        raise TrainingError(
            f'The dialect {dialect.name} is trained on {forms[not dialect.grammar.single]}, but '
            f'the data hold {solution[:60]!r}. Choose the dialect that the data were made for.'
        )
    if dialect.square == SQUARE:
        return solution
    factor = dialect.square / SQUARE
    if tagged:
        return _PAIR.sub(lambda pair: '({},{})'.format(*_shrunk(pair.groups(), factor)), solution)
    try:
        items = [
            {key: _shrunk(item[key], factor) for key in ('bbox_2d', 'point_2d')}
            for item in json.loads(solution)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f'The solution {solution[:60]!r} cannot be read: {error!r}') from error
    return json.dumps(items)


def _shrunk(values: Any, factor: float) -> list[int]:
    return [int(float(value) * factor + 0.5) for value in values]


def answer_of(row: Row, dialect: Dialect) -> str:
    """Return what supervised training teaches: the row's answer, else its bare solution.

    The bare solution, without a thought, is the papers' supervised baseline.
    """
    if row.answer:
        return row.answer
    if not dialect.grammar.single:
        return f'<answer>{row.solution}</answer>'
    numbers = [int(number) for pair in _PAIR.findall(row.solution) for number in pair]
    found = {'bbox': numbers[:4], 'points_1': numbers[4:6], 'points_2': numbers[6:8]}
    return f'<answer>{json.dumps(found)}</answer>'


def as_pixels(image: Any) -> RgbImage:
    """Return a Pillow picture as (H, W, 3) uint8 RGB."""
    return np.asarray(image.convert('RGB'), np.uint8)


def true_boxes(solution: str) -> list[Box]:
    """Return the boxes of a solution of either form."""
    if _TAGS.search(solution):
        numbers = [float(number) for pair in _PAIR.findall(solution) for number in pair]
        return [(numbers[0], numbers[1], numbers[2], numbers[3])]
    found = []
    for item in json.loads(solution):
        x1, y1, x2, y2 = map(float, item['bbox_2d'])
        found.append((x1, y1, x2, y2))
    return found
