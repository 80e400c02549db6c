"""Process of a node: spins until SIGINT or SIGTERM, and survives exceptions of callbacks.

rclpy's own signal handlers shut the middleware down at once, so pending queries could not be
answered. Here a signal only wakes the executor, and the node shuts down in order.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

# Minimum seconds between two reports of failing callbacks, so that they do not fill the log.
REPORT_PERIOD = 1.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_logger = logging.getLogger(__name__)


class StopSignals:
    """Receives SIGINT and SIGTERM while the main thread waits inside the middleware.

    Python runs signal handlers in the main thread between two bytecodes, but the main thread is
    in the middleware's wait, which signals do not interrupt. So a thread reads the wake-up socket
    (signal.set_wakeup_fd), to which Python writes at the moment of the signal.

    Attributes:
        received: whether a signal was received.
        wake: called at the signal, to end the main thread's wait; set it before the wait begins.
    """

    def __init__(self) -> None:
        self.received = False
        self.wake: Callable[[], None] = _do_nothing
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, _ignore)
        threading.Thread(target=self._read_signals, name='signals', daemon=True).start()

    def close(self) -> None:
        """Ignore the two signals from now on; the process is ending."""
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def _read_signals(self) -> None:
        # Python writes the number of every signal that has a handler.
        while self._reader.recv(1)[0] not in _STOP_SIGNALS:
            pass
        self.received = True
        self.wake()


def _do_nothing() -> None:
    """Wake no thread: none waits yet."""


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread of StopSignals handles the signal."""


def spin(executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    """Execute callbacks until `stopped`, and log exceptions.

    rclpy raises a callback's exceptions and its own, such as for a client that left before its
    reply.

    Args:
        executor: with the node.
        stopped: returns whether to stop.
    """
    failures = FailureLog()
    while not stopped():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception:
            failures.log_exception()


class FailureLog:
    """Logs exceptions with their traceback, at most one a second, and counts the others."""

    def __init__(self) -> None:
        self._unreported = 0
        self._reported_at = -math.inf

    def log_exception(self) -> None:
        """Log or count the exception that is being handled."""
        self._unreported += 1
        now = time.monotonic()
        if now - self._reported_at < REPORT_PERIOD:
            return
        _logger.exception('A callback failed (%d since the last report)', self._unreported)
        self._unreported = 0
        self._reported_at = now


def spin_while(
    executor: SingleThreadedExecutor, condition: Callable[[], bool], seconds: float
) -> bool:
    """Execute callbacks while a condition holds.

    Args:
        executor: with the node.
        condition: whether to continue.
        seconds: maximum duration.

    Returns:
        Whether the condition ended in time.
    """
    failures = FailureLog()
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() > end:
            return False
        try:
            executor.spin_once(timeout_sec=0.02)
        except ExternalShutdownException:
            return False
        except Exception:
            failures.log_exception()
    return True


def exit_now(code: int) -> None:
    """Exit the process at once, without waiting for threads that run a model."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
