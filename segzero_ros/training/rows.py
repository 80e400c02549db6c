"""One row of training: a square picture, a question, and what is meant, in the published schema.

The published sets have the columns of `COLUMNS`, pictures of 840 by 840, and solutions in that
square's pixels: a JSON list of boxes with points, or one box with two points in tags. Pictures of
other sizes are squashed, and the solution, in such a picture's own pixels, with them. A column
`answer`, where there is one, is a whole answer to learn by heart, in the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import re
from typing import Any

from segzero_ros.reasoning.dialects import Dialect, SQUARE
from segzero_ros.training.presets import TrainingError
from segzero_ros.types import Box, RgbImage

COLUMNS = ('id', 'problem', 'solution', 'image', 'img_height', 'img_width')
_TAGS = re.compile(r'<box>.*?</box>\s*<points>.*?</points>')
_PAIR = re.compile(r'\((\d+),(\d+)\)')
_NUMBER = r'\s*(-?\d+(?:\.\d+)?)\s*'
_ANY_PAIR = re.compile(rf'\({_NUMBER},{_NUMBER}\)')
# What each object of a list has, and of how many numbers.
_PLACES = {'bbox_2d': 4, 'point_2d': 2}
_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)


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


def solution_for(dialect: Dialect, solution: str, size: tuple[int, int] = (SQUARE, SQUARE)) -> str:
    """Return a solution in the pixels of a dialect's square, in the form it reads.

    Args:
        dialect: that is trained.
        solution: in pixels of its picture.
        size: (width, height) of that picture.

    Raises:
        TrainingError: the solution cannot be read, has another form than the dialect's, or lies
            outside its picture.
    """
    tagged = _TAGS.search(solution) is not None
    if dialect.grammar.single != tagged:
        forms = 'one box with two points in tags', 'a JSON list of boxes with points'
        raise TrainingError(
            f'The dialect {dialect.name} is trained on {forms[not dialect.grammar.single]}, but '
            f'the data hold {solution[:60]!r}. Choose the dialect that the data were made for.'
        )
    squash = _Squash(size, dialect.square)
    if tagged:
        squashed = _ANY_PAIR.sub(
            lambda pair: '({},{})'.format(*squash(pair.groups(), solution)), solution
        )
    else:
        items = [
            {key: squash(item[key], solution) for key in _PLACES} for item in _items(solution)
        ]
        squashed = json.dumps(items)
    # Published solutions stay as they are, to the last blank.
    return solution if size == (dialect.square, dialect.square) else squashed


def _items(solution: str) -> list[dict[str, list[float]]]:
    """Return the objects of a solution that is a JSON list; raise TrainingError if it is none."""
    try:
        items = json.loads(solution)
    except ValueError as error:
        raise TrainingError(
            f'The solution {solution[:60]!r} cannot be read: it is no JSON ({error}).'
        ) from error
    if not isinstance(items, list):
        raise TrainingError(
            f'The solution {solution[:60]!r} cannot be read: it is no list; write [] around its '
            'objects.'
        )
    for item in items:
        for key, count in _PLACES.items():
            if not _are_numbers(item.get(key) if isinstance(item, dict) else None, count):
                raise TrainingError(
                    f'The solution {solution[:60]!r} cannot be read: each object needs {key}, '
                    f'a list of {count} numbers.'
                )
    return items


def _are_numbers(values: Any, count: int) -> bool:
    """Return whether values are a list of so many numbers, be they written as text."""
    try:
        return isinstance(values, list) and len([float(value) for value in values]) == count
    except (TypeError, ValueError):
        return False


def taught_answer(dialect: Dialect, answer: str, size: tuple[int, int]) -> str:
    """Return an answer to learn by heart in the pixels of a dialect's square.

    Args:
        dialect: that is trained.
        answer: in pixels of its picture; '' where there is none.
        size: (width, height) of that picture.

    Raises:
        TrainingError: its numbers cannot be told from its words, so they cannot be squashed.
    """
    if not answer or size == (dialect.square, dialect.square):
        return answer
    squash = _Squash(size, dialect.square)
    found = _ANSWER.search(answer)
    try:
        content = json.loads(found.group(1) if found else '')
        items = [content] if isinstance(content, dict) else content
        squashed = [
            {
                key: squash(value, answer) if isinstance(value, list) else value
                for key, value in item.items()
            }
            for item in items
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f'The answer {answer[:60]!r} is about a picture of {size[0]}x{size[1]} pixels; its '
            f'numbers cannot be squashed with it, for its <answer> holds no list of them: {error}.'
        ) from error
    assert found
    written = json.dumps(squashed[0] if isinstance(content, dict) else squashed)
    return answer[: found.start(1)] + written + answer[found.end(1) :]


class _Squash:
    """Brings coordinates from a picture's pixels into a square's."""

    def __init__(self, size: tuple[int, int], square: int) -> None:
        self._size = size
        self._factors = square / size[0], square / size[1]

    def __call__(self, values: Any, text: str) -> list[int]:
        """Return x, y, x, y, … in the square, rounded as published."""
        numbers = [float(value) for value in values]
        inside = (0 <= value <= self._size[at % 2] for at, value in enumerate(numbers))
        if not all(inside):
            width, height = self._size
            raise TrainingError(
                f'{text[:60]!r} lies outside its picture of {width}x{height} pixels, so nobody '
                "knows of which size its numbers are: write them in the picture's own pixels, or "
                f'squash the picture to {SQUARE}x{SQUARE}.'
            )
        return [int(value * self._factors[at % 2] + 0.5) for at, value in enumerate(numbers)]


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
