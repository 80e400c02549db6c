"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """Severity of a result: FAIL prevents answers, WARN may cause unexpected behaviour."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: of what was checked, a word or two.
        level: severity.
        message: the finding.
        hint: how to fix it; empty if nothing needs to be done.
    """

    name: str
    level: Level
    message: str
    hint: str = ''

    def as_json(self) -> dict[str, str]:
        """Return the entry of `segzero doctor --json`, whose keys are a stable interface."""
        return {
            'what': self.name,
            'level': self.level.value,
            'said': self.message,
            'cure': self.hint,
        }


def ok(name: str, message: str) -> Check:
    """Return a passed check."""
    return Check(name, Level.OK, message)


def warn(name: str, message: str, hint: str = '') -> Check:
    """Return a check with a warning."""
    return Check(name, Level.WARN, message, hint)


def fail(name: str, message: str, hint: str = '') -> Check:
    """Return a failed check."""
    return Check(name, Level.FAIL, message, hint)
