"""A node's process: it spins until SIGINT or SIGTERM and survives what a callback raises.

rclpy's own signal handlers shut the middleware down at once, so that nothing can be answered any
more; here a signal only wakes the executor, and the node ends in good order. Imports rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

# After so many failures in a row the process gives up: something is broken that will not mend.
MOST_FAILURES = 100

_logger = logging.getLogger(__name__)


class StopSignals:
    """Hears SIGINT and SIGTERM while the main thread waits inside the middleware.

    Python runs signal handlers in the main thread between two bytecodes, and the main thread sits
    in the middleware's wait, which signals do not end. So a thread reads what Python writes to
    the wake-up socket at the very moment of the signal.

    Args:
        wake: makes the main thread come out of its wait.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.received = False
        self._wake = wake
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _heard_elsewhere)
        threading.Thread(target=self._listen, name='signals', daemon=True).start()

    def close(self) -> None:
        """Ignore the two signals from now on; the process is ending."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def _listen(self) -> None:
        self._reader.recv(1)
        self.received = True
        self._wake()


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread of StopSignals acts."""


def spin(executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> bool:
    """Execute callbacks until `stopped`; log what one raises and go on.

    Returns:
        False when it gave up after too many failures in a row.
    """
    failures = 0
    while not stopped():
        try:
            executor.spin_once()
            failures = 0
        except ExternalShutdownException:
            return True
        except Exception:
            failures += 1
            _logger.exception('A callback failed')
            if failures == MOST_FAILURES:
                _logger.critical('Giving up after %d failures in a row', failures)
                return False
    return True


def spin_while(
    executor: SingleThreadedExecutor, condition: Callable[[], bool], seconds: float
) -> bool:
    """Execute callbacks while a condition holds, for so many seconds at most.

    Returns:
        Whether the condition came to an end.
    """
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() > end:
            return False
        try:
            executor.spin_once(timeout_sec=0.02)
        except ExternalShutdownException:
            return False
        except Exception:
            _logger.exception('A callback failed while the node ends')
    return True


def leave(code: int) -> None:
    """End the process at once, without waiting for threads that are inside a model."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
