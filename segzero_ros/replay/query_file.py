"""Queries of a replay: for every frame, from a file, or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.types import S_TO_NS, SegZeroError, task_named, UnsupportedTask


class QueriesError(SegZeroError):
    """An invalid query file; the message has the entry and a hint."""


@dataclass(frozen=True)
class TimedQuery:
    """A query at a time, or about an image.

    Attributes:
        text: the query.
        id: of the answer; empty for its number.
        at_ns: time since the bag's start; None with `stamp_ns`.
        stamp_ns: stamp of the image to query.
        task: its name, one of types.TASK_NAMES; empty: segment.
    """

    text: str
    id: str = ''
    at_ns: int | None = None
    stamp_ns: int | None = None
    task: str = ''


@dataclass(frozen=True)
class QueryPlan:
    """The queries of a replay: `texts`, `asks` or `recorded`.

    Attributes:
        texts: queries for every frame.
        task: of `texts`; empty: segment.
        every_ns: minimum time between queried frames; 0 for every frame.
        asks: timed queries.
        recorded: whether to use the recorded queries at their times.
    """

    texts: tuple[str, ...] = ()
    every_ns: int = 0
    asks: tuple[TimedQuery, ...] = ()
    recorded: bool = False
    task: str = ''


def read_queries(path: Path) -> tuple[TimedQuery, ...]:
    """Read a YAML file: a list of {at: seconds | stamp: nanoseconds, query: text, id, task}.

    Raises:
        QueriesError: the file is invalid.
    """
    try:
        entries = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QueriesError(f'{path} cannot be read: {error}') from error
    if not isinstance(entries, list) or not entries:
        raise QueriesError(f'{path} must be a list such as [{{at: 1.5, query: the red cup}}, …].')
    asks = tuple(_read_entry(entry, f'{path}, entry {n}') for n, entry in enumerate(entries, 1))
    ids = [ask.id for ask in asks if ask.id]
    for name in ids:
        if ids.count(name) > 1:
            raise QueriesError(f'{path}: the id {name!r} is used {ids.count(name)} times.')
    return asks


def _read_entry(entry: Any, where: str) -> TimedQuery:
    if not isinstance(entry, dict):
        raise QueriesError(f'{where}: {entry!r} is not {{at: seconds, query: text}}.')
    if unknown := set(entry) - {'at', 'stamp', 'query', 'id', 'task'}:
        raise QueriesError(
            f'{where}: unknown {", ".join(map(repr, sorted(map(str, unknown))))}; valid keys are '
            'at, stamp, query, id and task.'
        )
    at, stamp, text, name = (entry.get(key) for key in ('at', 'stamp', 'query', 'id'))
    if not isinstance(text, str):
        raise QueriesError(f'{where}: query must be text, but is {text!r}.')
    if (at is None) == (stamp is None):
        raise QueriesError(f'{where}: give either at (seconds) or stamp (nanoseconds).')
    if at is not None and (type(at) not in (int, float) or not 0 <= at < 1e9):
        raise QueriesError(f"{where}: at must be seconds from the bag's start, but is {at!r}.")
    if stamp is not None and type(stamp) is not int:
        raise QueriesError(f'{where}: stamp must be integer nanoseconds, but is {stamp!r}.')
    task = '' if entry.get('task') is None else str(entry['task'])
    try:
        task_named(task)
    except UnsupportedTask as error:
        raise QueriesError(f'{where}: {error}') from error
    at_ns = None if at is None else round(at * S_TO_NS)
    return TimedQuery(text, '' if name is None else str(name), at_ns, stamp, task)
