"""Rewards for robots: honest empty answers, short but present reasoning, soft accuracy.

The published rewards are 0 for an empty answer, so models trained with them never answer that
there is no target; and they reward empty reasoning.
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
    inclusive_ious,
    matched,
    MAX_OBJECTS,
    point_distances,
    points_in_boxes,
    Reward,
)

# Reasoning words up to which brevity is 1, and from which it is 0; a budget as in PixelThink
# (arXiv 2505.23727).
FULL_WORDS, ZERO_WORDS = 40, 160
# Minimum number of reasoning words.
MIN_WORDS = 2
# Errors in pixels at which the soft parts for box and point are 0: twice the published limits.
BOX_REACH, POINT_REACH = 20.0, 60.0

_FORM = re.compile(r'\s*<think>([^<>]*)</think>\s*<answer>[^<>]*</answer>\s*')


def _reasoning_words(completion: str) -> int:
    """Return the number of reasoning words; 0 for another format."""
    found = _FORM.fullmatch(completion)
    return len(found.group(1).split()) if found else 0


def thinking_stated(completion: str, solution: str = '') -> float:
    """Return 1 for one reasoning of two or more words and one answer, in their tags."""
    return float(_reasoning_words(completion) >= MIN_WORDS)


def brevity(completion: str, solution: str = '') -> float:
    """Return 1 up to 40 reasoning words, falling to 0 at 160; 0 without reasoning."""
    words = _reasoning_words(completion)
    if words < MIN_WORDS:
        return 0.0
    return min(1.0, max(0.0, (ZERO_WORDS - words) / (ZERO_WORDS - FULL_WORDS)))


def answer_readable(completion: str, solution: str = '') -> float:
    """Return 1 for a possibly empty list of boxes with points, all finite and well ordered."""
    return float(_read(completion) is not None)


def honest_accuracy(completion: str, solution: str) -> float:
    """Return up to 3, soft: for each matched pair IoU, box distance and point distance.

    Without a true object, an empty list scores 3 and any object 0. Objects after the first 120 are
    ignored.

    Raises:
        ValueError: the solution is not a list of boxes with points.
    """
    true = _read_list(json.loads(solution))
    if true is None:
        raise ValueError(f'{solution[:80]!r} is not a list of boxes with points')
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
    return matched(inclusive_ious(boxes, true_boxes) + near_box + near_point * inside, 3.0)


def _read(completion: str) -> NDArray[np.float64] | None:
    try:
        return _read_list(answered_list(completion))
    except (ValueError, RecursionError):
        return None


def _read_list(items: Any) -> NDArray[np.float64] | None:
    """Return (K, 6) boxes and points; None if it is not a valid list."""
    if not isinstance(items, list):
        return None
    rows = [_row(item) for item in items[:MAX_OBJECTS]]
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
    # No image is larger, and areas of larger values lose precision.
    return math.isfinite(value) and abs(value) < 1e6


ROBOT: dict[str, Reward] = {
    'thinking_stated': thinking_stated,
    'brevity': brevity,
    'answer_readable': answer_readable,
    'honest_accuracy': honest_accuracy,
}
