"""A node's process: it spins until SIGINT or SIGTERM and survives what a callback raises.

rclpy's own signal handlers shut the middleware down at once, so that nothing can be answered any
more; here a signal only wakes the executor, and the node ends in good order.
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

# How often a failing callback is reported at most, seconds: its traceback must not fill the log.
REPORT_PERIOD = 1.0
_ENDING = (signal.SIGINT, signal.SIGTERM)

_logger = logging.getLogger(__name__)


class StopSignals:
    """Hears SIGINT and SIGTERM while the main thread waits inside the middleware.

    Python runs signal handlers in the main thread between two bytecodes, and the main thread sits
    in the middleware's wait, which signals do not end. So a thread reads what Python writes to
    the wake-up socket at the very moment of the signal.

    Attributes:
        received: whether one has come.
        wake: makes the main thread come out of its wait; set it before the wait begins.
    """

    def __init__(self) -> None:
        self.received = False
        self.wake: Callable[[], None] = _nobody_waits
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, _heard_elsewhere)
        threading.Thread(target=self._listen, name='signals', daemon=True).start()

    def close(self) -> None:
        """Ignore the two signals from now on; the process is ending."""
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def _listen(self) -> None:
        # Python writes the number of every signal that it has a handler for.
        while self._reader.recv(1)[0] not in _ENDING:
            pass
        self.received = True
        self.wake()


def _nobody_waits() -> None:
    """Wake nobody."""


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread of StopSignals acts."""


def spin(executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    """Execute callbacks until `stopped`; report what one raises and go on.

    rclpy raises whatever a callback raises, and what it meets itself, such as a caller that has
    gone before its reply.
    """
    reports = Reports()
    while not stopped():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception:
            reports.failed()


class Reports:
    """Logs failures with their traceback, one a second at most, and how many there were."""

    def __init__(self) -> None:
        self._unreported = 0
        self._reported_at = -math.inf

    def failed(self) -> None:
        """Report the exception that is being handled, now or by counting it next time."""
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
    """Execute callbacks while a condition holds, for so many seconds at most.

    Returns:
        Whether the condition came to an end.
    """
    reports = Reports()
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() > end:
            return False
        try:
            executor.spin_once(timeout_sec=0.02)
        except ExternalShutdownException:
            return False
        except Exception:
            reports.failed()
    return True


def leave(code: int) -> None:
    """End the process at once, without waiting for threads that are inside a model."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
