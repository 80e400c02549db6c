"""The thread that owns the models. Does not depend on ROS."""

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

# Innermost stack frames that `stack_trace` returns.
_STACK_FRAMES = 6
_logger = logging.getLogger(__name__)


def _do_nothing() -> None:
    """Ignore that a job was abandoned."""


@dataclass
class _Task:
    """A job, its name for the log, and its last heartbeat, seconds of the monotonic clock."""

    job: Job
    name: str
    on_abandoned: Job
    heartbeat: float = 0.0


class Worker:
    """Runs jobs one after another, in the order of submission, in its own thread.

    The thread is a daemon: a process that is stopped does not wait for a model.
    """

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._current: _Task | None = None
        self._stopping = False
        self._changed = threading.Condition()
        with self._changed:
            self._thread = self._start_thread()

    @property
    def current_job(self) -> str:
        """Name of the running job; empty if none runs."""
        current = self._current
        return '' if current is None else current.name

    def submit(self, job: Job, name: str, on_abandoned: Job = _do_nothing) -> None:
        """Run a job after all earlier ones.

        Args:
            job: what to run.
            name: for the log, such as `freeing the models`.
            on_abandoned: called if the job is abandoned, from the thread that abandons it; the job
                may still return later.
        """
        with self._changed:
            self._tasks.append(_Task(job, name, on_abandoned))
            self._changed.notify_all()

    def should_yield(self) -> bool:
        """Return whether another job waits for the running one, which calls this.

        The call counts as a heartbeat.
        """
        self.heartbeat()
        return bool(self._tasks) or self._stopping

    def heartbeat(self) -> None:
        """Show that the running job makes progress; called by that job."""
        current = self._current
        # An abandoned job must not give heartbeats for the one that runs now.
        if current is not None and threading.current_thread() is self._thread:
            current.heartbeat = time.monotonic()

    def seconds_since_heartbeat(self) -> float:
        """Return the seconds since the running job's start or last heartbeat; 0.0 without one."""
        current = self._current
        return 0.0 if current is None else time.monotonic() - current.heartbeat

    def stack_trace(self) -> str:
        """Return the innermost stack frames of the running job, formatted as in a traceback."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return ''.join(traceback.format_stack(frame)[-_STACK_FRAMES:]).rstrip()

    def abandon_job(self) -> None:
        """Continue with the next job in a new thread: the running one hangs.

        The old thread cannot be stopped; it ends when its job returns, if ever. This call never
        waits, and is safe if the job returns at this moment.
        """
        with self._changed:
            abandoned, self._current = self._current, None
            # From here on the old thread takes no task, even if its job has just returned.
            self._thread = self._start_thread()
            self._changed.notify_all()
        if abandoned is not None:
            abandoned.on_abandoned()

    def stop(self) -> None:
        """End the thread after all submitted jobs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _start_thread(self) -> threading.Thread:
        """Return a new thread; it takes no task until the caller releases the lock."""
        thread = threading.Thread(target=self._run, name='worker', daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            try:
                task.job()
            except BaseException:
                # SystemExit too: it would end the thread silently, and all waiting jobs with it.
                _logger.exception('A job of the worker failed: %s', task.name)
            with self._changed:
                # If this job was abandoned, another one is current by now.
                if self._current is task:
                    self._current = None

    def _next_task(self) -> _Task | None:
        """Wait for the next task; return None when this thread is to end."""
        this_thread = threading.current_thread()
        with self._changed:
            self._changed.wait_for(
                lambda: self._thread is not this_thread or bool(self._tasks) or self._stopping
            )
            if self._thread is not this_thread or not self._tasks:
                return None
            task = self._current = self._tasks.popleft()
            task.heartbeat = time.monotonic()
            return task
