"""Training rows in the published schema: a square image, a query and its solution.

The published sets have the columns of `COLUMNS`, images of 840 by 840 pixels, and solutions in
these pixels: a JSON list of boxes with points, or one box with two points in tags. Own rows for
pointing have points alone. Images of other sizes are resized to the square, and their solutions
with them. The optional column `answer` is a complete answer for SFT, in the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
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
# Keys of each object in a list, and their numbers of coordinates.
_COORDINATES = {'bbox_2d': 4, 'point_2d': 2}
_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)


@dataclass(frozen=True, eq=False)
class Row:
    """One query with its solution, in the pixels of a dialect's square.

    Attributes:
        image: (S, S, 3) uint8 RGB, as the model sees it.
        problem: the query.
        solution: in the form of the dialect's rewards.
        answer: a complete answer for SFT; '' without any.
    """

    image: RgbImage
    problem: str
    solution: str
    answer: str = ''


def solution_for(dialect: Dialect, solution: str, size: tuple[int, int] = (SQUARE, SQUARE)) -> str:
    """Return a solution in the pixels of a dialect's square.

    Args:
        dialect: of the model.
        solution: in pixels of its image.
        size: (width, height) of that image.

    Raises:
        TrainingError: the solution cannot be read, has another form than the dialect's, or lies
            outside its image.
    """
    tagged = _TAGS.search(solution) is not None
    if dialect.grammar.single != tagged:
        forms = 'one box with two points in tags', 'a JSON list of boxes with points'
        raise TrainingError(
            f'The dialect {dialect.name} needs {forms[not dialect.grammar.single]}, but the data '
            f'contain {solution[:60]!r}. Choose the dialect that the data were made for.'
        )
    scale = _CoordinateScaling(size, dialect.square)
    if tagged:
        scaled = _ANY_PAIR.sub(
            lambda pair: '({},{})'.format(*scale(pair.groups(), solution)), solution
        )
    else:
        items = [
            {key: scale(item[key], solution) for key in _COORDINATES if key in item}
            for item in _items(solution)
        ]
        scaled = json.dumps(items)
    # Published solutions stay unchanged, including spaces.
    return solution if size == (dialect.square, dialect.square) else scaled


def _items(solution: str) -> list[dict[str, list[float]]]:
    """Return the objects of a JSON list; raise TrainingError if it is invalid."""
    try:
        items = json.loads(solution)
    except ValueError as error:
        raise TrainingError(
            f'The solution {solution[:60]!r} cannot be read: it is not valid JSON ({error}).'
        ) from error
    if not isinstance(items, list):
        raise TrainingError(
            f'The solution {solution[:60]!r} cannot be read: it is not a list; put its objects '
            'in [].'
        )
    for item in items:
        for key, count in _COORDINATES.items():
            if key == 'bbox_2d' and isinstance(item, dict) and is_point(item):
                continue
            if not _are_numbers(item.get(key) if isinstance(item, dict) else None, count):
                raise TrainingError(
                    f'The solution {solution[:60]!r} cannot be read: each object needs {key}, '
                    f'a list of {count} numbers.'
                )
    return items


def is_point(item: Mapping[str, Any]) -> bool:
    """Return whether an object of a solution is a point alone, as rows for pointing have."""
    return 'point_2d' in item and 'bbox_2d' not in item


def _are_numbers(values: Any, count: int) -> bool:
    """Return whether values are a list of `count` numbers, possibly as text."""
    try:
        return isinstance(values, list) and len([float(value) for value in values]) == count
    except (TypeError, ValueError):
        return False


def sft_answer_for(dialect: Dialect, answer: str, size: tuple[int, int]) -> str:
    """Return an SFT answer in the pixels of a dialect's square.

    Args:
        dialect: of the model.
        answer: in pixels of its image; '' without any.
        size: (width, height) of that image.

    Raises:
        TrainingError: its coordinates cannot be found, so they cannot be scaled.
    """
    if not answer or size == (dialect.square, dialect.square):
        return answer
    scale = _CoordinateScaling(size, dialect.square)
    found = _ANSWER.search(answer)
    try:
        content = json.loads(found.group(1) if found else '')
        items = [content] if isinstance(content, dict) else content
        scaled = [
            {
                key: scale(value, answer) if isinstance(value, list) else value
                for key, value in item.items()
            }
            for item in items
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f'The answer {answer[:60]!r} is about an image of {size[0]}x{size[1]} pixels, but its '
            f'coordinates cannot be scaled: its <answer> has no list of them: {error}.'
        ) from error
    assert found
    written = json.dumps(scaled[0] if isinstance(content, dict) else scaled)
    return answer[: found.start(1)] + written + answer[found.end(1) :]


class _CoordinateScaling:
    """Scales coordinates from an image's pixels to a square's."""

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
                f'{text[:60]!r} lies outside its image of {width}x{height} pixels: write the '
                f'coordinates in pixels of the image, or resize the image to {SQUARE}x{SQUARE}.'
            )
        return [int(value * self._factors[at % 2] + 0.5) for at, value in enumerate(numbers)]


def answer_of(row: Row, dialect: Dialect) -> str:
    """Return the target text of SFT: the row's answer, else its solution.

    The solution without reasoning is the papers' SFT baseline.
    """
    if row.answer:
        return row.answer
    if not dialect.grammar.single:
        return f'<answer>{row.solution}</answer>'
    numbers = [int(number) for pair in _PAIR.findall(row.solution) for number in pair]
    found = {'bbox': numbers[:4], 'points_1': numbers[4:6], 'points_2': numbers[6:8]}
    return f'<answer>{json.dumps(found)}</answer>'


def points_alone(solution: str) -> bool:
    """Return whether a solution has objects that are a point alone."""
    return not _TAGS.search(solution) and any(map(is_point, json.loads(solution)))


def true_boxes(solution: str) -> list[Box]:
    """Return the boxes of a solution of either form, without objects that are a point alone."""
    if _TAGS.search(solution):
        numbers = [float(number) for pair in _PAIR.findall(solution) for number in pair]
        return [(numbers[0], numbers[1], numbers[2], numbers[3])]
    found = []
    for item in json.loads(solution):
        if is_point(item):
            continue
        x1, y1, x2, y2 = map(float, item['bbox_2d'])
        found.append((x1, y1, x2, y2))
    return found
