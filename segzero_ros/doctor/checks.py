"""One thing that was looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How something is: FAIL keeps the node from answering, WARN may surprise."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Check:
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


def ok(what: str, said: str) -> Check:
    """Return a finding that is as it should be."""
    return Check(what, Level.OK, said)


def warn(what: str, said: str, cure: str = '') -> Check:
    """Return a finding that may surprise."""
    return Check(what, Level.WARN, said, cure)


def fail(what: str, said: str, cure: str = '') -> Check:
    """Return a finding that keeps the node from answering."""
    return Check(what, Level.FAIL, said, cure)
