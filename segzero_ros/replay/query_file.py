"""What is asked of a bag, and when: given for every frame, written in a file, or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.types import S_TO_NS, SegZeroError


class QueriesError(SegZeroError):
    """A file of queries cannot be used; the text names the entry and the cure."""


@dataclass(frozen=True)
class TimedQuery:
    """One query of a list.

    Attributes:
        text: the sentence.
        id: what its answer is called; empty: its number.
        at_ns: when it is asked, from the bag's start; None where `stamp_ns` says it.
        stamp_ns: the stamp of the image that it is about.
    """

    text: str
    id: str = ''
    at_ns: int | None = None
    stamp_ns: int | None = None


@dataclass(frozen=True)
class QueryPlan:
    """What is asked of a bag; one of three ways.

    Attributes:
        texts: asked about every frame, each one.
        every_ns: leave out frames so that this much time is between two; 0 for every frame.
        asks: asked at their times.
        recorded: ask what was recorded, when it was recorded.
    """

    texts: tuple[str, ...] = ()
    every_ns: int = 0
    asks: tuple[TimedQuery, ...] = ()
    recorded: bool = False


def read_queries(path: Path) -> tuple[TimedQuery, ...]:
    """Read a YAML file: a list of {at: seconds | stamp: nanoseconds, query: text, id: name}.

    Raises:
        QueriesError: it is not that.
    """
    try:
        entries = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QueriesError(f'{path} cannot be read: {error}') from error
    if not isinstance(entries, list) or not entries:
        raise QueriesError(f'{path} must be a list, such as [{{at: 1.5, query: the red cup}}, …].')
    asks = tuple(_read_entry(entry, f'{path}, entry {n}') for n, entry in enumerate(entries, 1))
    ids = [ask.id for ask in asks if ask.id]
    for name in ids:
        if ids.count(name) > 1:
            raise QueriesError(f'{path}: the id {name!r} is used {ids.count(name)} times.')
    return asks


def _read_entry(entry: Any, where: str) -> TimedQuery:
    if not isinstance(entry, dict):
        raise QueriesError(f'{where}: {entry!r} is no {{at: seconds, query: text}}.')
    if unknown := set(entry) - {'at', 'stamp', 'query', 'id'}:
        raise QueriesError(
            f'{where}: there is no {", ".join(map(repr, sorted(map(str, unknown))))}; there are '
            'at, stamp, query and id.'
        )
    at, stamp, text, name = (entry.get(key) for key in ('at', 'stamp', 'query', 'id'))
    if not isinstance(text, str):
        raise QueriesError(f'{where}: query must be a text, but is {text!r}.')
    if (at is None) == (stamp is None):
        raise QueriesError(f'{where}: give either at (seconds) or stamp (nanoseconds).')
    if at is not None and (type(at) not in (int, float) or not 0 <= at < 1e9):
        raise QueriesError(f"{where}: at must be seconds from the bag's start, but is {at!r}.")
    if stamp is not None and type(stamp) is not int:
        raise QueriesError(f'{where}: stamp must be whole nanoseconds, but is {stamp!r}.')
    at_ns = None if at is None else round(at * S_TO_NS)
    return TimedQuery(text, '' if name is None else str(name), at_ns, stamp)
