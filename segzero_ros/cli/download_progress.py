"""Download progress in one line of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import sys
from typing import TextIO

from segzero_ros import hub

# ANSI's "clear to the end of the line".
_CLEAR = '\x1b[K'


@contextmanager
def shown_on_terminal(stream: TextIO = sys.stderr) -> Iterator[None]:
    """Show downloads in one updated line; without a terminal, only the log reports them."""
    if not stream.isatty():
        yield
        return
    begun = False

    def show(reached: hub.Progress) -> None:
        nonlocal begun
        begun = reached.done < reached.total
        stream.write(f'\r{reached}{_CLEAR}' if begun else f'\r{reached}{_CLEAR}\n')
        stream.flush()

    with hub.reporting(show):
        try:
            yield
        finally:
            if begun:
                stream.write('\n')
