"""The log of a replay's answers: several threads append to it, others follow it.

Answers may finish in any order. Lines are written in the order of the queries, so that an
interrupted replay can resume after its last line.
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
    """The replay ended before all queries were answered."""


class AnswerLog:
    """Appends to `results.jsonl` and `timings.jsonl` of a replay's folder.

    An exception inside the `with` block abandons the log: followers get LogAbandoned.

    Args:
        folder: the replay's.
        done: number of answers that it has already.
    """

    def __init__(self, folder: ReplayOutput, done: int) -> None:
        self._folder = folder
        self._count = done
        self._out_of_order: dict[int, tuple[str, str]] = {}
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
        """Append an answer, or hold it back until all earlier ones are added.

        Args:
            number: of the answer, from 0.
            record: of the answer.
            timing: of the answer on this machine.
        """
        # Store lines, not records: the masks of many answers may be large.
        lines = _timing_line(record, timing), to_line(record)
        with self._changed:
            self._out_of_order[number] = lines
            while self._count in self._out_of_order:
                self._append(*self._out_of_order.pop(self._count))
                self._count += 1
                self._changed.notify_all()

    def _append(self, timing: str, result: str) -> None:
        # The results come last: their line marks the answer as complete.
        for file, line in ((self._timings, timing), (self._results, result)):
            file.write(line + '\n')
            file.flush()

    def follow(self) -> Iterator[str]:
        """Yield the result lines of all answers in order, and wait for new ones.

        Raises:
            LogAbandoned: the replay ended before all queries were answered.
        """
        with self._folder.results.open(encoding='ascii') as lines:
            number = 0
            while self._wait_for(number):
                yield lines.readline()
                number += 1

    def _wait_for(self, number: int) -> bool:
        """Wait for an answer; return False if the log ended before it."""
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
