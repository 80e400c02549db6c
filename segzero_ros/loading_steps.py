"""The steps of loading models: for the log, for `/diagnostics`, and for those who wait for a node.

Importing the libraries, reading gigabytes and checking the fast path take from seconds to minutes.
Each is a step; a step within another is shown instead of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import logging
import threading
import time

# Of a step, in seconds; shorter ones would only lengthen the log.
_NOTICEABLE = 1.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A step that is under way.

    Attributes:
        text: what is done, as in `reading the weights`.
        began: on `time.monotonic`'s clock, in seconds.
    """

    text: str
    began: float

    def __str__(self) -> str:
        return f'Loading the models: {self.text}, for {time.monotonic() - self.began:.0f} s'


_lock = threading.Lock()
# Of all threads, begun last at the end.
_under_way: list[Step] = []


def current_step() -> Step | None:
    """Return the step that began last and is under way in this process; None if there is none."""
    with _lock:
        return _under_way[-1] if _under_way else None


@contextmanager
def loading_step(text: str) -> Iterator[None]:
    """Log and show what the code inside does, and then how long it took if that was noticeable."""
    step = Step(text, time.monotonic())
    _logger.info('Loading: %s', text)
    with _lock:
        _under_way.append(step)
    try:
        yield
    finally:
        with _lock:
            _under_way[:] = [each for each in _under_way if each is not step]
    seconds = time.monotonic() - step.began
    if seconds >= _NOTICEABLE:
        _logger.info('Loading: %s took %.1f s', text, seconds)
