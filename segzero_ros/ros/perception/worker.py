"""The one thread that owns the models. Knows nothing of ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import logging
import sys
import threading
import time
import traceback

Job = Callable[[], None]

# How many calls, the innermost ones, tell where a job is.
_CALLS = 6
_logger = logging.getLogger(__name__)


def _nobody_waits() -> None:
    """Tell nobody."""


@dataclass
class _Task:
    """A job, what it is called in the log, and since when it has given no sign of life."""

    job: Job
    what: str
    when_left: Job
    since: float = 0.0


class Worker:
    """Does one job after another, in the order they were given, in a thread of its own.

    The thread is a daemon: a process that is told to end does not wait for a model.
    """

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._current: _Task | None = None
        self._stopping = False
        self._changed = threading.Condition()
        with self._changed:
            self._thread = self._start()

    @property
    def doing(self) -> str:
        """What is being done; empty for nothing."""
        current = self._current
        return '' if current is None else current.what

    def do(self, job: Job, what: str, when_left: Job = _nobody_waits) -> None:
        """Do a job when all earlier ones are done.

        Args:
            job: what to do.
            what: what that is, for the log, as `freeing the models`.
            when_left: called if it is left behind, from the thread that leaves it behind; the
                job may still come to its end later.
        """
        with self._changed:
            self._tasks.append(_Task(job, what, when_left))
            self._changed.notify_all()

    def wanted(self) -> bool:
        """Return whether another job waits until the one that is being done has ended.

        The job that is being done asks this, which is a sign of life.
        """
        self.alive()
        return bool(self._tasks) or self._stopping

    def alive(self) -> None:
        """Give a sign of life; called by the job that is being done."""
        current = self._current
        # One that was left behind must not speak for the job that is being done instead.
        if current is not None and threading.current_thread() is self._thread:
            current.since = time.monotonic()

    def silence(self) -> float:
        """Return the seconds since the job that is being done began or gave a sign of life.

        0.0 while nothing is being done.
        """
        current = self._current
        return 0.0 if current is None else time.monotonic() - current.since

    def where(self) -> str:
        """Return the innermost calls of the job that is being done, as a traceback has them."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return ''.join(traceback.format_stack(frame)[-_CALLS:]).rstrip()

    def abandon(self) -> None:
        """Go on in another thread: the job that is being done does not come to an end.

        Its thread ends with it, if it ever does; nothing can stop it before. Never waits, and does
        no harm to a job that ends at this very moment.
        """
        with self._changed:
            left, self._current = self._current, None
            # From here on the old thread takes no task, even if its job has just ended.
            self._thread = self._start()
            self._changed.notify_all()
        if left is not None:
            left.when_left()

    def stop(self) -> None:
        """End the thread when all earlier jobs are done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait at most so many seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _start(self) -> threading.Thread:
        """Return a new thread; it takes no task before this one lets go of the lock."""
        thread = threading.Thread(target=self._run, name='worker', daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while (task := self._take()) is not None:
            try:
                task.job()
            except BaseException:
                # Also SystemExit, which ends a thread without a word: whatever waits here would
                # never be done.
                _logger.exception('A job of the worker failed: %s', task.what)
            with self._changed:
                # Another thread's by now, if this one was left behind.
                if self._current is task:
                    self._current = None

    def _take(self) -> _Task | None:
        """Wait for the next task; None when this thread is to end."""
        me = threading.current_thread()
        with self._changed:
            self._changed.wait_for(
                lambda: self._thread is not me or bool(self._tasks) or self._stopping
            )
            if self._thread is not me or not self._tasks:
                return None
            task = self._current = self._tasks.popleft()
            task.since = time.monotonic()
            return task
