"""Forwarding of Python's log records, with tracebacks, to the node's logger.

Records contain text from models, servers and queries and are shown on terminals, so control
characters are removed.
"""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import LoggingSeverity

from segzero_ros.conversions.text import printable

PACKAGE = 'segzero_ros'


class RosLogHandler(logging.Handler):
    """Forwards records to a ROS logger, whose level filters them."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger
        self.setFormatter(logging.Formatter('%(message)s'))

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record; rclpy requires a separate call site for each severity."""
        try:
            text = printable(self.format(record))
            if record.levelno >= logging.CRITICAL:
                self._logger.fatal(text)
            elif record.levelno >= logging.ERROR:
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            elif record.levelno >= logging.INFO:
                self._logger.info(text)
            else:
                self._logger.debug(text)
        except Exception:
            self.handleError(record)


def connect(logger: RcutilsLogger) -> RosLogHandler:
    """Forward all records of this package to a ROS logger until `disconnect`."""
    handler = RosLogHandler(logger)
    package = logging.getLogger(PACKAGE)
    package.addHandler(handler)
    package.propagate = False
    debug = logger.is_enabled_for(LoggingSeverity.DEBUG)
    package.setLevel(logging.DEBUG if debug else logging.INFO)
    return handler


def disconnect(handler: RosLogHandler) -> None:
    """Stop forwarding records."""
    package = logging.getLogger(PACKAGE)
    package.removeHandler(handler)
    package.propagate = True
