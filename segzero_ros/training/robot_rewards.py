"""Rewards for robots: honest empty answers, short but present reasoning, soft accuracy.

The published rewards are 0 for an empty answer, so models trained with them never answer that
there is no target; and they reward empty reasoning. They also want a box and a point of each
object, so they cannot teach pointing; Embodied-R1 and 1.5 reward points by their distance, or by
being inside the true region, and so do these.
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
    """Return 1 for a possibly empty list of objects, each with a box, a point or both.

    All numbers must be finite, and boxes well ordered.
    """
    return float(_read(completion) is not None)


def honest_accuracy(completion: str, solution: str) -> float:
    """Return up to 3, soft: for each matched pair IoU, box distance and point distance.

    An object that is a box alone can have the first two, a point alone the third. Where the truth
    is a point alone, its distance is worth 3 and a box nothing. Without a true object, an empty
    list scores 3 and any object 0. Objects after the first 120 are ignored.

    Raises:
        ValueError: the solution is not a list of points, with or without boxes.
    """
    true = _read_list(json.loads(solution))
    if true is None or np.isnan(true[:, 4:]).any():
        raise ValueError(f'{solution[:80]!r} is not a list of points, with or without boxes')
    answered = _read(completion)
    if answered is None:
        return 0.0
    if not len(true) or not len(answered):
        return 3.0 if len(true) == len(answered) else 0.0
    return matched(_pair_scores(answered, true), 3.0)


def _pair_scores(answered: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (K, N) scores up to 3 of the pairs of (K, 6) and (N, 6) objects."""
    boxes, points, true_boxes, true_points = (
        answered[:, :4],
        answered[:, 4:],
        true[:, :4],
        true[:, 4:],
    )
    # What an object does not have is NaN, and so are its parts.
    near_box = np.clip(1 - box_distances(boxes, true_boxes) / BOX_REACH, 0, 1)
    for_box = np.nan_to_num(inclusive_ious(boxes, true_boxes) + near_box)
    near_point = np.clip(1 - point_distances(points, true_points) / POINT_REACH, 0, 1)
    # A point that left its own box is wrong, as in the published rewards.
    alone = np.isnan(boxes[:, 0])
    for_point = np.nan_to_num(near_point) * (alone | points_in_boxes(points, boxes))[:, np.newaxis]
    return np.where(np.isnan(true_boxes[:, 0]), 3 * for_point, for_box + for_point)


def _read(completion: str) -> NDArray[np.float64] | None:
    try:
        return _read_list(answered_list(completion))
    except (ValueError, RecursionError):
        return None


def _read_list(items: Any) -> NDArray[np.float64] | None:
    """Return (K, 6) boxes and points, NaN for those left out; None if it is no valid list."""
    if not isinstance(items, list):
        return None
    rows = [_row(item) for item in items[:MAX_OBJECTS]]
    if any(row is None for row in rows):
        return None
    return np.array(rows, np.float64).reshape(-1, 6)


def _row(item: Any) -> list[float] | None:
    if not isinstance(item, dict):
        return None
    if 'bbox_2d' not in item and 'point_2d' not in item:
        return None
    row: list[float] = []
    for key, length in (('bbox_2d', 4), ('point_2d', 2)):
        values = item.get(key) if key in item else [math.nan] * length
        if not isinstance(values, list) or len(values) != length:
            return None
        if key in item and not all(map(_is_coordinate, values)):
            return None
        row += values
    return None if row[0] > row[2] or row[1] > row[3] else row


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
