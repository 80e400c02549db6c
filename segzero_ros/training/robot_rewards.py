"""Rewards for a robot: an honest empty answer, a thought that is there and short, soft accuracy.

The published rewards pay nothing for an empty answer, so models trained with them never say that
nothing is there; and they pay for empty thoughts.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.training.rewards import (
    answered_list,
    box_distances,
    matched,
    MOST_OBJECTS,
    pixel_ious,
    point_distances,
    points_in_boxes,
    Reward,
)

# Words of a thought that cost nothing, and at which nothing is left; the idea of a budget is
# PixelThink's (arXiv 2505.23727).
BUDGET, SPENT = 40, 160
# A thought of fewer words says nothing.
FEWEST_WORDS = 2
# Where the soft parts for box and point reach 0: twice what the hard ones allow.
BOX_REACH, POINT_REACH = 20.0, 60.0

_FORM = re.compile(r'\s*<think>([^<>]*)</think>\s*<answer>[^<>]*</answer>\s*')


def _thought(completion: str) -> int:
    """Return how many words the thought has, 0 where the form is not kept."""
    found = _FORM.fullmatch(completion)
    return len(found.group(1).split()) if found else 0


def thinking_stated(completion: str, solution: str = '') -> float:
    """Return 1 for one thought of two words or more and one answer, in their tags."""
    return float(_thought(completion) >= FEWEST_WORDS)


def brevity(completion: str, solution: str = '') -> float:
    """Return 1 up to 40 words of thought, falling to 0 at 160; an empty thought is worth 0."""
    words = _thought(completion)
    if words < FEWEST_WORDS:
        return 0.0
    return min(1.0, max(0.0, (SPENT - words) / (SPENT - BUDGET)))


def answer_readable(completion: str, solution: str = '') -> float:
    """Return 1 for a list, perhaps empty, of boxes with points, all finite and right way round."""
    return float(_read(completion) is not None)


def honest_accuracy(completion: str, solution: str) -> float:
    """Return up to 3, soft: per matched pair IoU, nearness of the box and of the point.

    When nothing matches, the empty list is worth 3 and any object 0. Objects beyond 120 are left
    out of both.

    Raises:
        ValueError: the solution is no list of boxes with points.
    """
    true = _read_list(json.loads(solution))
    if true is None:
        raise ValueError(f'{solution[:80]!r} is no list of boxes with points')
    answered = _read(completion)
    if answered is None:
        return 0.0
    if not len(true) or not len(answered):
        return 3.0 if len(true) == len(answered) else 0.0
    boxes, points, true_boxes, true_points = (
        answered[:, :4],
        answered[:, 4:],
        true[:, :4],
        true[:, 4:],
    )
    near_box = np.clip(1 - box_distances(boxes, true_boxes) / BOX_REACH, 0, 1)
    near_point = np.clip(1 - point_distances(points, true_points) / POINT_REACH, 0, 1)
    inside = points_in_boxes(points, boxes)[:, np.newaxis]
    return matched(pixel_ious(boxes, true_boxes) + near_box + near_point * inside, 3.0)


def _read(completion: str) -> NDArray[np.float64] | None:
    try:
        return _read_list(answered_list(completion))
    except (ValueError, RecursionError):
        return None


def _read_list(items: Any) -> NDArray[np.float64] | None:
    """Return (K, 6) boxes and points; None unless it is a list of such."""
    if not isinstance(items, list):
        return None
    rows = [_row(item) for item in items[:MOST_OBJECTS]]
    if any(row is None for row in rows):
        return None
    return np.array(rows, np.float64).reshape(-1, 6)


def _row(item: Any) -> list[float] | None:
    if not isinstance(item, dict):
        return None
    box, point = item.get('bbox_2d'), item.get('point_2d')
    if not (isinstance(box, list) and isinstance(point, list)):
        return None
    numbers = [*box, *point]
    if len(box) != 4 or len(point) != 2 or not all(map(_is_coordinate, numbers)):
        return None
    return numbers if box[0] <= box[2] and box[1] <= box[3] else None


def _is_coordinate(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # No picture is so large; beyond, areas lose their last digits.
    return math.isfinite(value) and abs(value) < 1e6


ROBOT: dict[str, Reward] = {
    'thinking_stated': thinking_stated,
    'brevity': brevity,
    'answer_readable': answer_readable,
    'honest_accuracy': honest_accuracy,
}
