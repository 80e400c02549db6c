"""Counts, latencies and the last error of the queries, for logs and `/diagnostics`."""

from __future__ import annotations

from collections import Counter, deque
import logging
import time

from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.health.rates import percentile
from segzero_ros.ros.perception.query_queue import describe
from segzero_ros.types import Query, Status, Timing

SUCCESSES = (Status.OK, Status.NOT_FOUND)
FAILURES = (Status.ERROR, Status.MALFORMED_ANSWER, Status.TIMEOUT, Status.NO_IMAGE)
# How many answers the 95th percentile of the latency is taken over.
WINDOW = 20
_logger = logging.getLogger(__name__)


class QueryStats:
    """Statistics of the queries; written by the thread that answers, read by any.

    Attributes:
        counts: how many queries ended with each status.
        last_timing: of the last query that the models answered; None before the first.
        last_error: message of the last query if it failed, else empty.
        failed_at: time of that failure, seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.counts: Counter[Status] = Counter()
        self.last_timing: Timing | None = None
        self.last_error = ''
        self.failed_at = 0.0
        self._latencies: deque[float] = deque(maxlen=WINDOW)

    @property
    def answered(self) -> int:
        """Number of queries that were answered OK or NOT_FOUND."""
        return sum(self.counts[status] for status in SUCCESSES)

    @property
    def failed(self) -> int:
        """Number of queries that ended with any other status."""
        return self.counts.total() - self.answered

    @property
    def p95(self) -> float:
        """95th percentile of the last latencies without queueing, seconds; NaN before any."""
        return percentile(list(self._latencies), 0.95)

    def record_timing(self, timing: Timing) -> None:
        """Add the timing of a query that the models answered."""
        self.last_timing = timing
        self._latencies.append(timing.total - timing.queued)

    def record_result(self, result: SegmentationResult) -> None:
        """Count a result and log it."""
        status = Status(result.status)
        self.counts[status] += 1
        query = describe(Query(result.query, result.query_id))
        if status in FAILURES:
            self.last_error, self.failed_at = result.message, time.monotonic()
            _logger.warning('Query %s: %s, %s', query, status.name, result.message)
            return
        if status in SUCCESSES:
            self.last_error = ''
        _logger.info(
            'Query %s: %s, %d objects, %.3f s',
            query,
            status.name,
            len(result.objects),
            result.timing.total,
        )
