"""A thread beside the caller's that lasts, for what is done again and again.

What a library keeps for a thread may outlive it: OpenCV 5.0 leaves 0.8 kB behind for every thread
that has converted a picture, so a thread for each query would cost 3 MB an hour at one a second.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
import threading
from typing import Any
import weakref

_Job = tuple[Callable[[], Any], 'Future[Any]']


class BackgroundThread:
    """Does one job after the other; ends when it is closed, or with whoever holds it."""

    def __init__(self, name: str) -> None:
        """Start the thread.

        Args:
            name: of the thread.
        """
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A daemon: a process that is told to end does not wait for it.
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()
        # The thread knows the queue alone, so that it keeps nobody alive.
        weakref.finalize(self, self._jobs.put, None)

    def do(self, job: Callable[[], Any]) -> Future[Any]:
        """Have a job done after those before it; return what will hold its result or error.

        Raises:
            RuntimeError: it was closed, so the job would be waited for in vain.
        """
        if not self._thread.is_alive():
            raise RuntimeError(f'The thread {self._thread.name} was closed.')
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Wait until everything asked for is done, and end the thread."""
        self._jobs.put(None)
        self._thread.join()


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    # In a function of its own, so that nothing of a job is kept while the next is waited for.
    while _do_next(jobs):
        pass


def _do_next(jobs: SimpleQueue[_Job | None]) -> bool:
    """Do a job; return whether more may come."""
    found = jobs.get()
    if found is None:
        return False
    job, future = found
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(job())
    except BaseException as error:
        future.set_exception(error)
    finally:
        # An error knows this frame, and the future knows the error.
        del found, job, future
    return True
