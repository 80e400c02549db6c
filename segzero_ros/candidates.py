"""Choose among the boxes of another detector.

A model that answers in words gets the image with a numbered mark on each candidate, and the
numbers in its answer are the choice. Any other reasoner is asked as usual, and each of its objects
becomes the candidate that it overlaps most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import re

from segzero_ros.segments import clip_box
from segzero_ros.types import (
    Box,
    Frame,
    GroundedObject,
    Grounding,
    MalformedAnswer,
    SegZeroError,
)

# Marks are written on the image with two digits.
MAX_CANDIDATES = 99
# Least IoU of an object with the candidate that it stands for.
MIN_IOU = 0.3

_NUMBER = re.compile(r'\d+')
_NONE = re.compile(r'\bnone\b', re.IGNORECASE)


class BadCandidates(SegZeroError):
    """The candidates cannot be chosen among; the text names the reason."""


def clipped(candidates: Sequence[Box], frame: Frame) -> list[Box]:
    """Return the candidates clipped to the image, with integer corners.

    Raises:
        BadCandidates: there are too many, or one is empty or outside the image.
    """
    if len(candidates) > MAX_CANDIDATES:
        raise BadCandidates(
            f'There are {len(candidates)} candidates, but at most {MAX_CANDIDATES} can be marked.'
        )
    boxes = []
    for number, candidate in enumerate(candidates, start=1):
        box = clip_box(candidate, frame.width, frame.height)
        if box is None:
            raise BadCandidates(
                f'Candidate {number} is empty or outside the image of '
                f'{frame.width}x{frame.height} pixels.'
            )
        boxes.append(box)
    return boxes


def marked(frame: Frame, boxes: Sequence[Box]) -> Frame:
    """Return the frame with the number of each box, from 1, drawn beside it."""
    # It imports OpenCV.
    from segzero_ros.overlay import draw_marks

    return replace(frame, image=draw_marks(frame.image, boxes))


def question(text: str, count: int) -> str:
    """Return the question about an image with numbered marks.

    Args:
        text: the query.
        count: number of marks.
    """
    return (
        f'Objects in the image are marked with boxes numbered 1 to {count}. Which of them are '
        f'meant by "{text}"? Answer with their numbers only, such as 2 or 1, 3. Answer none if '
        'no marked object is meant.'
    )


def chosen(words: Grounding, boxes: Sequence[Box], label: str) -> Grounding:
    """Return the candidates whose numbers a model answered, in its order.

    Args:
        words: its answer to `question`.
        boxes: the candidates.
        label: of the objects.

    Raises:
        MalformedAnswer: the answer holds no number, or one that no mark has.
    """
    numbers = list(dict.fromkeys(map(int, _NUMBER.findall(words.answer))))
    if not numbers and not _NONE.search(words.answer):
        raise MalformedAnswer('it names no mark', words.raw_answer)
    if numbers == [0]:
        numbers = []
    for number in numbers:
        if not 1 <= number <= len(boxes):
            raise MalformedAnswer(f'there is no mark {number}', words.raw_answer)
    objects = tuple(GroundedObject(boxes[number - 1], (), label) for number in numbers)
    note = words.note if objects else 'None of the candidates matches the query.'
    return replace(words, objects=objects, answer='', note=note)


def matched(grounding: Grounding, boxes: Sequence[Box]) -> Grounding:
    """Return the candidates that a reasoner's objects overlap most, each once.

    Args:
        grounding: its answer, with boxes.
        boxes: the candidates.
    """
    objects: dict[Box, GroundedObject] = {}
    for found in grounding.objects:
        overlaps = [_overlap(box, found) for box in boxes]
        most = max(overlaps, default=0.0)
        if most >= MIN_IOU:
            box = boxes[overlaps.index(most)]
            objects.setdefault(box, replace(found, box=box))
    note = grounding.note
    if grounding.objects and not objects:
        note = 'What was found is none of the candidates.'
    # A number that the model wrote is that of all objects in the image.
    return replace(grounding, objects=tuple(objects.values()), note=note, count=None)


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    inside = max(0.0, width) * max(0.0, height)
    union = _area(first) + _area(second) - inside
    return inside / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(box: Box, found: GroundedObject) -> float:
    """Return the IoU with an object; for one without a box, 1 if its first point is inside."""
    if found.box is not None:
        return iou(box, found.box)
    return float(any(box[0] <= x < box[2] and box[1] <= y < box[3] for x, y in found.points[:1]))
