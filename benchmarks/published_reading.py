"""Reimplementation of the published answer parsing with regular expressions.

The reference for the package's parsers in tests and benchmarks. Standard library only.
"""

from __future__ import annotations

import json
import re
from typing import Any

# A box (x1, y1, x2, y2) and its points (x, y), in integer pixels of the source image.
Found = tuple[list[int], list[list[int]]]


def read_list(text: str, x_factor: float, y_factor: float) -> list[Found]:
    """Parse VisionReasoner's answer: a list of boxes with one point each; round half up."""
    match = re.search(r'<answer>\s*(.*?)\s*</answer>', text, re.DOTALL)
    if match is None:
        raise ValueError('no answer')
    scale = [x_factor, y_factor, x_factor, y_factor]
    data: Any = json.loads(match.group(1))
    boxes = [[int(item['bbox_2d'][i] * scale[i] + 0.5) for i in range(4)] for item in data]
    points = [[int(item['point_2d'][i] * scale[i] + 0.5) for i in range(2)] for item in data]
    return [(box, [point]) for box, point in zip(boxes, points, strict=True)]


def read_single(text: str, x_factor: float, y_factor: float) -> list[Found]:
    """Parse Seg-Zero's answer: one box with two points; truncate, then round half to even."""
    match = re.search(r'{[^}]+}', text)
    if match is None:
        raise ValueError('no answer')
    data: Any = json.loads(match.group(0))
    key = next(key for key in data if 'bbox' in key.lower())
    if len(data[key]) != 4:
        raise ValueError('no box')
    names = [name for name in data if 'points' in name.lower()][:2]
    if len(names) != 2:
        raise ValueError('no two points')
    scale = [x_factor, y_factor, x_factor, y_factor]
    box = [round(int(data[key][i]) * scale[i]) for i in range(4)]
    points = [[round(int(data[name][i]) * scale[i]) for i in range(2)] for name in names]
    if re.search(r'<think>([^<]+)</think>', text) is None:
        raise ValueError('no reasoning')
    return [(box, points)]


READINGS = {'vision_reasoner': read_list, 'seg_zero': read_single}
