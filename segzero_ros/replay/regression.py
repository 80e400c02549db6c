"""Compare a replay's answers with accepted ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzero_ros.replay.records import BadRecord, from_line, Record
from segzero_ros.types import S_TO_NS, Segment, SegZeroError


class NoGolden(SegZeroError):
    """The accepted answers cannot be read; the message has the reason and a hint."""


class Comparison(NamedTuple):
    """The result of a comparison.

    Attributes:
        differences: a sentence each.
        compared: number of accepted answers.
        differing: number of queries with differences.
    """

    differences: list[str]
    compared: int
    differing: int


Key = tuple[int | None, str, int]


def read_golden(path: Path) -> Iterator[Record]:
    """Yield the accepted answers of a file in the layout of `results.jsonl`.

    Raises:
        NoGolden: the file is missing or cannot be read.
    """
    try:
        # These files are edited by hand, and may have a byte order mark.
        with path.open(encoding='utf-8-sig') as lines:
            for line in lines:
                yield from_line(line)
    except FileNotFoundError as error:
        raise NoGolden(
            f'{path} does not exist: create it with --accept {path}, and check its content.'
        ) from error
    except (OSError, UnicodeDecodeError, BadRecord) as error:
        raise NoGolden(f'{path} cannot be read: {error}') from error


def compare(golden: Iterable[Record], found: Iterable[Record], min_iou: float) -> Comparison:
    """Compare answers by status, number of objects, and the IoU of their masks.

    Answers are matched by image stamp and query, objects by their masks. Texts are not compared.

    Args:
        golden: the accepted answers.
        found: the answers to check.
        min_iou: minimum IoU of a mask with the accepted one, 0 to 1.
    """
    expected = _by_key(golden)
    actual = _by_key(found)
    differences: list[str] = []
    differing = 0
    for key in sorted({**expected, **actual}, key=lambda key: (key[0] or 0, key[1], key[2])):
        lines = list(_differences(expected.get(key), actual.get(key), min_iou))
        differing += bool(lines)
        differences += [f'{_name(key)}: {line}' for line in lines]
    return Comparison(differences, len(expected), differing)


def _by_key(records: Iterable[Record]) -> dict[Key, Record]:
    """Return the records by stamp, query, and occurrence of the same stamp and query."""
    seen: Counter[tuple[int | None, str]] = Counter()
    keyed = {}
    for record in records:
        stamp_ns, text = name = record.stamp_ns, record.answer.query.text
        keyed[stamp_ns, text, seen[name]] = record
        seen[name] += 1
    return keyed


def _name(key: Key) -> str:
    stamp_ns, text, occurrence = key
    stamp = 'no image' if stamp_ns is None else f'stamp {stamp_ns / S_TO_NS:.9f}'
    return f'{stamp}, “{text}”' + (f', time {occurrence + 1}' if occurrence else '')


def _differences(expected: Record | None, actual: Record | None, min_iou: float) -> Iterator[str]:
    if expected is None:
        yield 'is not among the accepted answers'
        return
    if actual is None:
        yield 'has no answer any more'
        return
    before, after = expected.answer, actual.answer
    if before.status is not after.status:
        message = f' ({after.message})' if after.message else ''
        yield f'status is {after.status.name}{message}, was {before.status.name}'
        return
    if before.answer != after.answer:
        yield f'the answer is {after.answer!r}, was {before.answer!r}'
    if before.count != after.count:
        yield f'the count is {after.count}, was {before.count}'
    if len(before.segments) != len(after.segments):
        yield f'{len(after.segments)} objects, were {len(before.segments)}'
    if expected.size != actual.size:
        yield f'the image has {actual.size} pixels (height, width), had {expected.size}'
        return
    yield from _mask_differences(expected, actual, min_iou)


def _mask_differences(expected: Record, actual: Record, min_iou: float) -> Iterator[str]:
    """Match objects greedily by IoU; yield each accepted one without a match."""
    before, after = expected.answer.segments, actual.answer.segments
    ious = np.array([[_iou(a, b, actual.size) for b in after] for a in before], np.float64)
    ious = ious.reshape(len(before), len(after))
    left = set(range(len(before)))
    for _ in range(min(ious.shape)):
        i, j = np.unravel_index(int(ious.argmax()), ious.shape)
        if ious[i, j] < min_iou:
            break
        left.discard(int(i))
        ious[i, :] = ious[:, j] = -1.0
    for index in sorted(left):
        segment = before[index]
        best = max((_iou(segment, other, actual.size) for other in after), default=0.0)
        yield (f'object {segment.id} ({segment.label}): best IoU {best:.3f} is below {min_iou:g}')


def _iou(a: Segment, b: Segment, size: tuple[int, int]) -> float:
    first, second = a.full_mask(*size), b.full_mask(*size)
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0
