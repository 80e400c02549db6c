"""What the executor of shards, its workers and its callers exchange: plain data classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from segzero_ros.types import SegZeroError


class ShardError(SegZeroError):
    """Shards cannot be run; the message has the reason and a hint."""


@dataclass(frozen=True)
class ShardTask:
    """A part of the work that one worker does.

    Attributes:
        name: for messages.
        work: the function, as `package.module:function`. It is called with `options` and a
            function to report `Progress`, and returns plain data. Run again after its worker
            was killed, it must not repeat what is done.
        options: plain data for the function; paths in it are absolute.
        reads: files and folders that the worker must see.
    """

    name: str
    work: str
    options: Any
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a shard reports while it runs.

    Attributes:
        done: number of finished answers of the shard.
        total: of all of its answers; 0 if unknown.
        note: a sentence for the user; empty for none.
    """

    done: int = 0
    total: int = 0
    note: str = ''


@dataclass(frozen=True)
class Finished:
    """The function has returned `result`."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The function has raised an error.

    Attributes:
        reason: a sentence with the reason and a hint.
        trace: the traceback of an unexpected error; empty for a known one.
    """

    reason: str
    trace: str = ''


@dataclass(frozen=True)
class Died:
    """The worker was killed, or its machine is gone; `reason` is the end of a sentence."""

    reason: str


Event = Progress | Finished | Failed | Died
Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """How a shard ended.

    Attributes:
        shard: the shard.
        result: of its function; None after a failure.
        error: a sentence; empty after success.
    """

    shard: ShardTask
    result: Any = None
    error: str = ''


class Backend(Protocol):
    """Where shards run. Used from one thread."""

    @property
    def slots(self) -> int:
        """Return how many shards it takes at a time."""
        ...

    def submit(self, number: int, shard: ShardTask) -> None:
        """Start a shard, known by its number from then on."""
        ...

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait for events of the running shards; return them with the shards' numbers.

        All events but `Progress` end a shard.
        """
        ...

    def close(self) -> None:
        """End what is still running."""
        ...
