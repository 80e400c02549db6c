"""The published reward functions of Seg-Zero and VisionReasoner.

Each part is a pure function of the texts of a completion and a solution. An answer that makes the
published functions fail has a reward of 0, so it is parsed by the same steps: JSON in double
quotes, the first braces of the text for one object, the first `<answer>` for several. Coordinates
are pixels of the square that the model sees. Source of the parts and thresholds: Seg-Zero (arXiv
2503.06520), VisionReasoner (2505.12081) and their published training code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
import json
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reward = Callable[[str, str], float]

IOU_OF_A_HIT = 0.5
BOX_PIXELS = 10
# Thresholds for Seg-Zero's two points and VisionReasoner's one point.
TWO_POINTS_PIXELS, ONE_POINT_PIXELS = 100, 30
MAX_OBJECTS = 120

_FORM = re.compile(r'<think>.*?</think>\s*<answer>.*?</answer>', re.DOTALL)
_BRACES = re.compile(r'{[^}]+}')
_ANSWER = re.compile(r'<answer>\s*(.*?)\s*</answer>', re.DOTALL)
_TRUE_BOX = re.compile(r'<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>')
_TRUE_POINTS = re.compile(r'<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>')


def _zero_on_error(part: Callable[..., float]) -> Callable[..., float]:
    """Make a part return 0 after any exception, as published."""

    @wraps(part)
    def guarded(*arguments: Any, **named: Any) -> float:
        try:
            return part(*arguments, **named)
        except Exception:
            return 0.0

    return guarded


def thinking_format(completion: str, solution: str = '') -> float:
    """Return 1 for exactly one reasoning and one answer in their tags; both may be empty."""
    return float(_FORM.fullmatch(completion) is not None)


def non_repeat(completion: str, solution: str = '') -> float:
    """Return 0 if two or more sentences, split at full stops, are repeated; else 1."""
    sentences = [sentence for part in completion.split('.') if (sentence := part.strip())]
    return float(len(sentences) - len(set(sentences)) < 2)


# One object: Seg-Zero. With `strict` the keys have fixed names, else they are matched by a part.


def _single(completion: str) -> dict[str, Any]:
    found = _BRACES.search(completion)
    if found is None:
        raise ValueError('there are no braces')
    content: dict[str, Any] = json.loads(found.group())
    return content


def _box_key(content: dict[str, Any], strict: bool) -> str:
    return 'bbox' if strict else next(key for key in content if 'bbox' in key.lower())


def _box(content: dict[str, Any], strict: bool) -> Any:
    box = content[_box_key(content, strict)]
    if len(box) != 4:
        raise ValueError('a box has four numbers')
    return box


@_zero_on_error
def single_format(completion: str, solution: str = '', *, strict: bool) -> float:
    """Return 1 for one box of four values and two points of two.

    Strict requires lists with the keys `bbox`, `points_1` and `points_2`; else any key with `bbox`
    and two others with `point`.
    """
    content = _single(completion)
    box_key = _box_key(content, strict)
    if strict:
        point_keys = ['points_1', 'points_2']
        kinds_fit = all(isinstance(content[key], list) for key in (box_key, *point_keys))
    else:
        others = (key for key in content if key != box_key)
        point_keys = [key for key in others if 'point' in key.lower()][:2]
        kinds_fit = len(point_keys) == 2
    lengths = [len(content[key]) for key in (box_key, *point_keys)]
    return float(kinds_fit and lengths == [4, 2, 2])


@_zero_on_error
def box_iou(completion: str, solution: str, *, strict: bool) -> float:
    """Return 1 if the IoU is above 0.5; corners are inclusive (+1 pixel)."""
    box = _box(_single(completion), strict)
    return float(_inclusive_iou(box, _true_box(solution)) > IOU_OF_A_HIT)


@_zero_on_error
def box_l1(completion: str, solution: str, *, strict: bool) -> float:
    """Return 1 if the mean absolute error of the four coordinates is below 10 pixels."""
    box, true = _box(_single(completion), strict), _true_box(solution)
    off = [abs(box[side] - true[side]) for side in range(4)]
    return float((off[0] + off[1] + off[2] + off[3]) / 4 < BOX_PIXELS)


@_zero_on_error
def points_l1(completion: str, solution: str, *, strict: bool) -> float:
    """Return 1 if both points are in the predicted box and near the true ones.

    Near is a mean Euclidean distance below 100 pixels with the better of both assignments; the
    papers call it L1.
    """
    content = _single(completion)
    box = _box(content, strict)
    keys = [key for key in content if 'points' in key.lower()][:2]
    first, second = (
        [int(content[key][0]), int(content[key][1])]
        for key in (('points_1', 'points_2') if strict else keys)
    )
    true = _numbers_of(_TRUE_POINTS, solution)
    if not (_inside(first, box) and _inside(second, box)):
        return 0.0
    straight = _distance(first, true[:2]) + _distance(second, true[2:])
    crossed = _distance(first, true[2:]) + _distance(second, true[:2])
    return float(min(straight, crossed) / 2 < TWO_POINTS_PIXELS)


def _numbers_of(pattern: re.Pattern[str], solution: str) -> list[int]:
    found = pattern.search(solution)
    if found is None:
        raise ValueError('the solution has another form')
    return [int(number) for number in found.groups()]


def _true_box(solution: str) -> list[int]:
    return _numbers_of(_TRUE_BOX, solution)


def _inclusive_iou(box: Any, true: Sequence[int]) -> float:
    left, top = max(box[0], true[0]), max(box[1], true[1])
    right, bottom = min(box[2], true[2]), min(box[3], true[3])
    # Boxes that share only an edge do not overlap.
    meets = left < right and top < bottom
    both = (right - left + 1) * (bottom - top + 1) if meets else 0
    areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (box, true)]
    return float(both) / (areas[0] + areas[1] - both)


def _inside(point: Sequence[int], box: Any) -> bool:
    return bool(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def _distance(first: Sequence[int], second: Sequence[int]) -> float:
    return math.sqrt((first[0] - second[0]) ** 2 + (first[1] - second[1]) ** 2)


# Several objects: VisionReasoner.


def answered_list(completion: str) -> Any:
    """Return the JSON in the first `<answer>`; raise ValueError if there is none."""
    found = _ANSWER.search(completion)
    if found is None:
        raise ValueError('there is no answer')
    return json.loads(found.group(1))


def list_format(completion: str, solution: str = '') -> float:
    """Return up to 2, the mean of the items: 1 for a `bbox_2d` of four, 1 for a `point_2d` of two.

    An invalid item ends the sum; the items before it still count.
    """
    total = 0.0
    try:
        items = answered_list(completion)
        for item in items:
            right = sum(
                isinstance(item[key], list) and len(item[key]) == length
                for key, length in (('bbox_2d', 4), ('point_2d', 2))
                if key in item
            )
            total += right / len(items)
    except Exception:
        return total
    return total


@_zero_on_error
def list_accuracy(completion: str, solution: str) -> float:
    """Return up to 3: for each matched pair box IoU, box L1 and point, each 0 or 1.

    Hungarian matching with cost 3 - sum; the sum over pairs is divided by the larger number of
    objects. It is 0 without a predicted or a true object.
    """
    answered, true = answered_list(completion), json.loads(solution)
    with np.errstate(all='ignore'):
        boxes, points = _arrays(answered)
        true_boxes, true_points = _arrays(true)
        near = point_distances(points, true_points) < ONE_POINT_PIXELS
        scores = (
            (inclusive_ious(boxes, true_boxes) > IOU_OF_A_HIT).astype(float)
            + (box_distances(boxes, true_boxes) < BOX_PIXELS).astype(float)
            + (near & points_in_boxes(points, boxes)[:, np.newaxis]).astype(float)
        )
    return matched(scores, 3.0)


def matched(scores: NDArray[np.float64], maximum: float) -> float:
    """Return the score of the best one-to-one matching over the larger number of objects.

    Args:
        scores: (K, N) score of each pair of a predicted and a true object.
        maximum: maximum score of a pair.
    """
    # Local, because the rest of this file is used without scipy.
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    cost = maximum - scores
    rows, columns = linear_sum_assignment(cost)
    total = len(rows) * maximum - cost[rows, columns].sum()
    return float(total / max(cost.shape))


def _arrays(items: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return boxes (K, 4) and points (K, 2) of up to 120 items, in the dtype of the numbers."""
    boxes = [item['bbox_2d'] for item in items]
    points = [item['point_2d'] for item in items]
    found = np.array(boxes[:MAX_OBJECTS]), np.array(points[:MAX_OBJECTS])
    if found[0].ndim != 2 or found[0].shape[1] != 4:
        raise ValueError('boxes have four numbers')
    return found


def inclusive_ious(boxes: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:
    """Return (K, N) IoUs of (K, 4) and (N, 4) boxes with inclusive corners."""
    one, other = boxes[:, np.newaxis], true[np.newaxis]
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0]) + 1
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1]) + 1
    both = np.maximum(0, width) * np.maximum(0, height)
    area, true_area = (
        (each[..., 2] - each[..., 0] + 1) * (each[..., 3] - each[..., 1] + 1)
        for each in (one, other)
    )
    ious: NDArray[Any] = both / (area + true_area - both)
    return ious


def box_distances(boxes: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:
    """Return (K, N) mean absolute errors of the four coordinates."""
    return np.asarray(np.mean(np.abs(boxes[:, np.newaxis] - true[np.newaxis]), axis=2))


def point_distances(points: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:
    """Return (K, N) Euclidean distances of (K, 2) and (N, 2) points."""
    between = points[:, np.newaxis, :] - true[np.newaxis, :, :]
    return np.asarray(np.sqrt(np.sum(between**2, axis=2)))


def points_in_boxes(points: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (K,) whether each point is in its own box, including the border."""
    across = (points[:, 0] >= boxes[:, 0]) & (points[:, 0] <= boxes[:, 2])
    down = (points[:, 1] >= boxes[:, 1]) & (points[:, 1] <= boxes[:, 3])
    return np.asarray(across & down)


# These are 0 where a true object has no box.
PUBLISHED_ACCURACIES = (
    'list_accuracy',
    *(
        f'{part}{strict}'
        for part in ('box_iou', 'box_l1', 'points_l1')
        for strict in ('', '_strict')
    ),
)
PUBLISHED: dict[str, Reward] = {
    'thinking_format': thinking_format,
    'non_repeat': non_repeat,
    'list_format': list_format,
    'list_accuracy': list_accuracy,
    'single_format': partial(single_format, strict=False),
    'box_iou': partial(box_iou, strict=False),
    'box_l1': partial(box_l1, strict=False),
    'points_l1': partial(points_l1, strict=False),
    'single_format_strict': partial(single_format, strict=True),
    'box_iou_strict': partial(box_iou, strict=True),
    'box_l1_strict': partial(box_l1, strict=True),
    'points_l1_strict': partial(points_l1, strict=True),
}
