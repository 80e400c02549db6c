"""The one thread that owns the models. Knows nothing of ROS."""

from __future__ import annotations

from collections.abc import Callable
import logging
from queue import SimpleQueue
import threading

Job = Callable[[], None]

_logger = logging.getLogger(__name__)


class Worker:
    """Does one job after another, in the order they were given, in a thread of its own.

    The thread is a daemon: a process that is told to end does not wait for a model.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = self._start()

    def do(self, job: Job) -> None:
        """Do a job when all earlier ones are done."""
        self._jobs.put(job)

    def wanted(self) -> bool:
        """Return whether another job waits until the one that is being done has ended."""
        return not self._jobs.empty()

    def leave_behind(self) -> None:
        """Go on in another thread: the job that is being done does not come to an end.

        Its thread ends with it, if it ever does; nothing can stop it before. Called from the
        thread that hands in jobs.
        """
        stuck, self._jobs = self._jobs, SimpleQueue()
        while not stuck.empty():
            self._jobs.put(stuck.get())
        stuck.put(None)
        self._thread = self._start()

    def stop(self) -> None:
        """End the thread when all earlier jobs are done."""
        self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Wait at most so many seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(self._jobs,), name='worker', daemon=True)
        thread.start()
        return thread

    def _run(self, jobs: SimpleQueue[Job | None]) -> None:
        while (job := jobs.get()) is not None:
            try:
                job()
            except Exception:
                _logger.exception('A job of the worker failed')
