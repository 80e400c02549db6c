"""Watchdog for models that hang: that react neither to a cancel nor to the end of their time.

A thread cannot be stopped from outside. So the node continues without it: the query is answered,
the thread is abandoned with its models, and the models are loaded again.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from segzero_ros.ros.perception.model_loader import FREEING, LOADING, RELOADING
from segzero_ros.ros.perception.query_queue import PendingQuery
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.types import Status

_logger = logging.getLogger(__name__)


class Overdue(NamedTuple):
    """Status and message of the answer to a query whose models hang."""

    status: Status
    message: str


class Watchdog:
    """Abandons models that hang.

    Args:
        query_server: answers the query and drops the models.
        worker: runs the models.
    """

    def __init__(self, query_server: QueryServer, worker: Worker) -> None:
        self._query_server = query_server
        self._worker = worker

    def check(self, time_limit: float, timeout: float) -> None:
        """Abandon the models if they hang; to be called periodically.

        Args:
            time_limit: maximum duration of an answer, seconds; 0 for no limit.
            timeout: seconds within which the models have to stop when they should; 0: no limit.
        """
        pending = self._query_server.queue.current
        if pending is None:
            self._check_job(timeout)
            return
        found = overdue(pending, time.monotonic(), time_limit, timeout)
        if found is not None:
            _logger.error(
                '%s The models are abandoned and reloaded. They are at\n%s',
                found.message,
                self._worker.stack_trace(),
            )
            self._query_server.queue.close(RELOADING, RELOADING)
            self._query_server.abandon_query(pending, *found)

    def _check_job(self, timeout: float) -> None:
        """Abandon a job other than a query without a heartbeat; loading has no time limit."""
        silence = self._worker.seconds_since_heartbeat()
        job = self._worker.current_job
        if not timeout or silence <= timeout or job == LOADING:
            return
        _logger.error(
            'No heartbeat from %s for %.0f s. It is abandoned with the models. It is at\n%s',
            job,
            silence,
            self._worker.stack_trace(),
        )
        if job != FREEING:
            self._query_server.queue.close(RELOADING, RELOADING)
        self._query_server.abandon_models()


def overdue(
    pending: PendingQuery, now: float, time_limit: float, timeout: float
) -> Overdue | None:
    """Return the answer to a query whose models hang, or None while they may still finish.

    Args:
        pending: the current query.
        now: seconds of the monotonic clock.
        time_limit: maximum duration of an answer, seconds; 0 for no limit.
        timeout: seconds within which the models have to stop when they should; 0: no limit.
    """
    if pending.started_at is None or not timeout:
        return None
    if pending.cancelled_at is not None:
        since = now - max(pending.cancelled_at, pending.started_at)
        if since <= timeout:
            return None
        message = f'{pending.cancel_reason} The models did not stop within {since:.0f} s.'
        return Overdue(Status.CANCELED, message)
    elapsed = now - pending.started_at
    if not time_limit or elapsed <= time_limit + timeout:
        return None
    message = (
        f'The models did not finish within {elapsed:.0f} s; limits.answer_time is '
        f'{time_limit:g} s.'
    )
    return Overdue(Status.TIMEOUT, message)
