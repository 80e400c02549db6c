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
        self._thread = threading.Thread(target=self._run, name='worker', daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        """Do a job when all earlier ones are done."""
        self._jobs.put(job)

    def wanted(self) -> bool:
        """Return whether another job waits until the one that is being done has ended."""
        return not self._jobs.empty()

    def stop(self) -> None:
        """End the thread when all earlier jobs are done."""
        self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Wait at most so many seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                _logger.exception('A job of the worker failed')
