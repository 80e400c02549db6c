"""The lines of a replay's answers: appended in order by several threads, followed by others.

Answers may be finished in any order; a line is written when those of all answers before it are, so
that an interrupted replay can go on after its last line.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import threading
from types import TracebackType

from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.records import Record, to_line
from segzero_ros.types import SegZeroError, Timing


class LogAbandoned(SegZeroError):
    """The replay ended before all its queries were answered."""


class AnswerLog:
    """Appends to `results.jsonl` and `timings.jsonl` of a replay's folder.

    Leaving the `with` block on an exception abandons the log: who follows it gets LogAbandoned.

    Args:
        folder: the replay's.
        done: how many answers it holds already.
    """

    def __init__(self, folder: ReplayOutput, done: int) -> None:
        self._folder = folder
        self._count = done
        self._early: dict[int, tuple[str, str]] = {}
        self._changed = threading.Condition()
        self._ended = self._abandoned = False

    def __enter__(self) -> AnswerLog:
        self._results = self._folder.results.open('a', encoding='ascii')
        self._timings = self._folder.timings.open('a', encoding='ascii')
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._abandoned = kind is not None
            self._ended = True
            self._results.close()
            self._timings.close()
            self._changed.notify_all()

    def add(self, number: int, record: Record, timing: Timing) -> None:
        """Append an answer, or keep it until all before it are there.

        Args:
            number: the answer's, from 0.
            record: what is kept of it.
            timing: what it took on this machine.
        """
        # Lines, for the masks of many answers may be large.
        lines = _timing_line(record, timing), to_line(record)
        with self._changed:
            self._early[number] = lines
            while self._count in self._early:
                self._append(*self._early.pop(self._count))
                self._count += 1
                self._changed.notify_all()

    def _append(self, timing: str, result: str) -> None:
        # The line of the results comes last: with it, everything of the answer is there.
        for file, line in ((self._timings, timing), (self._results, result)):
            file.write(line + '\n')
            file.flush()

    def follow(self) -> Iterator[str]:
        """Give the lines of all answers in order, those that are there and those that come.

        Raises:
            LogAbandoned: no more come, though not all queries were answered.
        """
        with self._folder.results.open(encoding='ascii') as lines:
            number = 0
            while self._wait_for(number):
                yield lines.readline()
                number += 1

    def _wait_for(self, number: int) -> bool:
        """Wait until an answer is there; return False when all were there before."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > number or self._ended)
            if self._abandoned:
                raise LogAbandoned('The replay was interrupted.')
            return self._count > number


def _timing_line(record: Record, timing: Timing) -> str:
    seconds = {
        name: round(getattr(timing, name), 6)
        for name in ('reasoning', 'encoding', 'segmenting', 'total')
    }
    return json.dumps({'query_id': record.answer.query.id, **seconds})
