"""One thing that was looked at, and how it is. Imports nothing of the package."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How something is: FAIL keeps the node from answering, WARN may surprise."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: what it is, in a word or two.
        level: how it is.
        said: what was seen.
        cure: what to do; empty where there is nothing to do.
    """

    what: str
    level: Level
    said: str
    cure: str = ''


def ok(what: str, said: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(what, Level.OK, said)


def warn(what: str, said: str, cure: str = '') -> Finding:
    """Return a finding that may surprise."""
    return Finding(what, Level.WARN, said, cure)


def fail(what: str, said: str, cure: str = '') -> Finding:
    """Return a finding that keeps the node from answering."""
    return Finding(what, Level.FAIL, said, cure)
