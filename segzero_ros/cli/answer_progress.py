"""Progress of an evaluation: a bar on a terminal, else a line every 20 s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import math
import time

from segzero_ros.conversions.text import printable

# Seconds between lines of progress without a terminal.
_REPORT_PERIOD = 20.0

# Called with the number of finished answers, and a sentence to show or an empty text.
OnAnswer = Callable[[int, str], None]


@contextmanager
def answer_progress(total: int, *, quiet: bool) -> Iterator[OnAnswer]:
    """Show the progress of answers.

    Args:
        total: number of answers.
        quiet: show nothing.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn('Answering'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('remaining'),
        TimeRemainingColumn(),
    )
    pace = _Pace(total)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task('', total=total)

        def on_answer(done: int, note: str) -> None:
            if pace.begin(done):
                # Answers of an earlier run do not count for this one's speed.
                bar.reset(task, total=total, completed=done - 1)
            bar.update(task, completed=done)
            if quiet:
                return
            if note:
                console.print(printable(note), style='yellow', markup=False, soft_wrap=True)
            if not console.is_terminal and pace.due():
                console.print(pace.line(done))

        yield on_answer


class _Pace:
    """Speed of the run, and when to report it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[int, float] | None = None
        self._reported = self._started = time.monotonic()

    def begin(self, done: int) -> bool:
        """Register an answer; return whether it is the first."""
        first = self._first is None
        if first:
            self._first = done - 1, self._started
        return first

    def due(self) -> bool:
        """Return whether it is time to report."""
        now = time.monotonic()
        if now - self._reported < _REPORT_PERIOD:
            return False
        self._reported = now
        return True

    def line(self, done: int) -> str:
        """Return the progress and the remaining time."""
        assert self._first is not None
        before, started = self._first
        seconds = (time.monotonic() - started) / max(done - before, 1) * (self._total - done)
        hours, minutes = divmod(math.ceil(seconds / 60), 60)
        return f'{done}/{self._total} done, about {hours} h {minutes:02d} min remaining'
