"""Read the entries of an answer that is not quite what its family was taught to write.

Each `{…}` of an answer is one object, or holds objects under names (`{"objects": [{…}, {…}]}`).
Coordinates may be numbers as text, and points or corners may be pairs (`[[x, y], [x, y]]`).
Entries are never mixed, and what is no coordinate raises an error.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import math
import re
from typing import Any

from segzero_ros.reasoning.stream_parser import ObjectScanner

# `name: [ … ]` with or without quotes around the name, for objects that are not quite JSON; the
# list may hold lists.
_NAMED_LIST = re.compile(r'(?<!\w)([A-Za-z_]\w*)["\']?\s*:\s*\[((?:[^\[\]{}]|\[[^\[\]{}]*\])*)\]')
_NAMED_TEXT = re.compile(r'(?<!\w)label["\']?\s*:\s*(?:"([^"]*)"|\'([^\']*)\')')
_MAX_OBJECT_LENGTH = 20_000
# Objects stand in a list under a name, and that perhaps in one more.
_MAX_NESTING = 4
_COUNTS = ('count', 'number', 'total', 'quantity')


def objects_in(raw: str) -> list[dict[str, Any]]:
    """Return the objects in the text of one `{…}`; nothing for a list of none, or a mere count.

    Args:
        raw: from its first to its last brace; JSON, or nearly: single quotes, missing quotes,
            trailing commas and comments are accepted.

    Raises:
        ValueError, RecursionError: it cannot be read.
    """
    return _objects_in(raw, 0)


def _objects_in(raw: str, nesting: int) -> list[dict[str, Any]]:
    try:
        return _objects_of(json.loads(raw), nesting)
    except (ValueError, RecursionError):
        if nesting > _MAX_NESTING or len(raw) > _MAX_OBJECT_LENGTH:
            raise ValueError('the object is nested too deeply, or too long') from None
    own, inner = raw, ObjectScanner().feed(raw[1:-1])
    for child in inner:
        own = own.replace(child, '', 1)
    item = _parse_lenient(own)
    if not inner or _is_object(item):
        return [item]
    return [found for child in inner for found in _objects_in(child, nesting + 1)]


def _objects_of(item: dict[str, Any], nesting: int) -> list[dict[str, Any]]:
    if _is_object(item) or nesting > _MAX_NESTING:
        return [item]
    children = [
        child
        for value in item.values()
        for child in (value if isinstance(value, list) else [value])
        if isinstance(child, dict)
    ]
    if not children and (any(value == [] for value in item.values()) or _is_count(item)):
        return []
    found = [each for child in children for each in _objects_of(child, nesting + 1)]
    return found or [item]


def _is_object(item: Mapping[str, Any]) -> bool:
    """Return whether an entry has coordinates of its own, readable or not."""
    return any(_is_coordinates(key, value) for key, value in item.items())


def _is_coordinates(key: str, value: Any) -> bool:
    name = key.lower()
    if not ('bbox' in name or 'point' in name or name == 'boxes') or isinstance(value, dict):
        return False
    return not (isinstance(value, list) and any(isinstance(each, dict) for each in value))


def _is_count(item: Mapping[str, Any]) -> bool:
    return bool(item) and all(key in _COUNTS for key in item)


def _parse_lenient(raw: str) -> dict[str, Any]:
    """Parse `{…}` that is not valid JSON: every `name: [numbers]` in it, and its label."""
    named: dict[str, Any] = {
        name: json.loads(f'[{body.strip().rstrip(",")}]')
        for name, body in _NAMED_LIST.findall(raw)
    }
    label = _NAMED_TEXT.search(raw)
    if label:
        named['label'] = label[1] or label[2] or ''
    return named


def box_of(item: Mapping[str, Any]) -> list[float] | None:
    """Return the numbers x1, y1, x2, y2 under the first key with `bbox`, in any case.

    Returns:
        None if there is no such key.

    Raises:
        TypeError, ValueError: what it holds is no box.
    """
    for key, value in item.items():
        if 'bbox' in key.lower():
            corners = value if isinstance(value, list) else None
            if corners and all(isinstance(corner, list) for corner in corners):
                corners = [each for corner in corners for each in _numbers(corner, 2)]
            return _numbers(corners, 4)
    return None


def points_of(item: Mapping[str, Any]) -> list[list[float]]:
    """Return the numbers x, y of each point under the keys with `point`, in any case.

    Raises:
        TypeError, ValueError: what one of them holds are no points.
    """
    found = []
    for key, value in item.items():
        if 'point' in key.lower():
            several = isinstance(value, list) and any(isinstance(each, list) for each in value)
            found += [_numbers(point, 2) for point in (value if several else [value])]
    return found


def _numbers(values: Any, count: int) -> list[float]:
    """Return a list of `count` finite numbers, of numbers or their text."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f'{values!r} are not {count} numbers')
    found = [float(value) if isinstance(value, str) else value for value in values]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f'{value!r} is not a number')
        if not math.isfinite(value):
            raise ValueError(f'{value!r} is not finite')
    return found
