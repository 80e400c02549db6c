"""Python's log records, with their tracebacks, into the node's logger.

Words of models, servers and queries are in them, and somebody reads them on a terminal, so nothing
active is left in.
"""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import LoggingSeverity

from segzero_ros.conversions.text import printable

PACKAGE = 'segzero_ros'


class RosLogHandler(logging.Handler):
    """Hands records to a ROS logger, whose level decides what is shown."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger
        self.setFormatter(logging.Formatter('%(message)s'))

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; each severity at a line of its own, as rclpy demands of a call site."""
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
    """Send every record of this package to a ROS logger, until `disconnect`."""
    handler = RosLogHandler(logger)
    package = logging.getLogger(PACKAGE)
    package.addHandler(handler)
    package.propagate = False
    debugging = logger.is_enabled_for(LoggingSeverity.DEBUG)
    package.setLevel(logging.DEBUG if debugging else logging.INFO)
    return handler


def disconnect(handler: RosLogHandler) -> None:
    """Send no more records to the ROS logger."""
    package = logging.getLogger(PACKAGE)
    package.removeHandler(handler)
    package.propagate = True
