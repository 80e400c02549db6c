"""Queue of pending queries: one is processed, others wait, are preempted or are rejected.

Every submitted query gets exactly one answer: from the worker that popped it, or from here when it
is rejected, preempted, cancelled while waiting, or when the queue closes. Does not depend on ROS;
every method may be called from any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
import threading
import time
from typing import Any

from segzero_ros.pipeline import Listeners
from segzero_ros.rgbd.buffer import RgbdMessages
from segzero_ros.spatial.placement import Placed
from segzero_ros.types import Answer, Query, Status, Task, Timing

SILENT = Listeners()


def _discard(_: Answer) -> None:
    """Ignore an answer: one was delivered already."""


class QueryPolicy(str, Enum):
    """What happens to a query that arrives while another one is processed.

    PREEMPT: it replaces the other one, which is cancelled and answered CANCELED.
    QUEUE: it waits behind at most `queue_size` others; beyond that it is answered REJECTED.
    REJECT: it is answered REJECTED.
    """

    PREEMPT = 'preempt'
    QUEUE = 'queue'
    REJECT = 'reject'


class PendingQuery:
    """A query without an answer yet, and the callback for its answer.

    Attributes:
        query: the text and its id.
        image: the image message to query, undecoded; None for a camera frame.
        stamp_ns: stamp of the camera frame to query; 0 for the newest.
        rgbd: that frame's messages, taken from the buffer when the query is accepted.
        placed: the answer of the models with its geometry, just before it is delivered.
        listeners: callbacks for stages, reasoning and objects.
        accepted_ns: time of submission by the node's clock, nanoseconds.
        started_at: when processing began, seconds of the monotonic clock; None before.
        cancelled_at: when cancellation was requested, likewise.
        abandoned: whether the watchdog has answered it because the models hang. The thread that
            still processes it must then neither publish nor count anything for it.
        low_priority: whether the node submitted it by itself. Any query of a client cancels it,
            under every policy.

    Args:
        query: the text and its id.
        deliver: called once with the answer.
        image: see above.
        stamp_ns: see above.
        listeners: see above.
        accepted_ns: see above.
        low_priority: see above.
    """

    def __init__(
        self,
        query: Query,
        deliver: Callable[[Answer], None],
        *,
        image: Any = None,
        stamp_ns: int = 0,
        listeners: Listeners = SILENT,
        accepted_ns: int = 0,
        low_priority: bool = False,
    ) -> None:
        self.query = query
        self.low_priority = low_priority
        self.image = image
        self.stamp_ns = stamp_ns
        self.rgbd: RgbdMessages | None = None
        self.placed: Placed | None = None
        self.listeners = listeners
        self.accepted_ns = accepted_ns
        self.started_at: float | None = None
        self.cancelled_at: float | None = None
        self.abandoned = False
        self._deliver = deliver
        self._accepted = time.perf_counter()
        self._cancel_reason = ''
        self._answered = False
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since submission."""
        return time.perf_counter() - self._accepted

    @property
    def cancel_reason(self) -> str:
        """Why cancellation was requested; empty while it was not."""
        return self._cancel_reason

    def cancelled(self) -> bool:
        """Return whether cancellation was requested."""
        return bool(self._cancel_reason)

    def cancel(self, reason: str) -> None:
        """Request that the models stop; the first reason counts."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
        self._cancel_reason = self._cancel_reason or reason

    def answer(self, answer: Answer) -> bool:
        """Deliver the answer unless one was delivered before; return whether this one was."""
        with self._lock:
            if self._answered:
                return False
            self._answered = True
        # The callback holds a reference to this query with its image and result. Drop it, so that
        # they are freed now and not by the garbage collector minutes later.
        deliver, self._deliver = self._deliver, _discard
        deliver(answer)
        return True

    def refuse(self, status: Status, message: str) -> bool:
        """Answer without running the models; return whether this answer was delivered."""
        return self.answer(self.failed(status, message))

    def failed(self, status: Status, message: str) -> Answer:
        """Return an answer without results, for a query that never reaches the models."""
        timing = Timing(queued=self.elapsed, total=self.elapsed)
        task = self.query.task or Task.SEGMENT
        return Answer(self.query, status, message, timing=timing, task=task)


class QueryQueue:
    """Accepts pending queries by a policy and hands them out one at a time.

    Args:
        policy: what happens to a query that arrives while another one is processed.
        queue_size: how many may wait under QueryPolicy.QUEUE, besides the current one.
        closed: message for queries that are rejected while the queue is closed; empty: open.
    """

    def __init__(
        self, policy: QueryPolicy = QueryPolicy.QUEUE, queue_size: int = 10, closed: str = ''
    ) -> None:
        self.policy = policy
        self.queue_size = queue_size
        self._closed = closed
        self._waiting: deque[PendingQuery] = deque()
        self._current: PendingQuery | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of waiting queries."""
        return len(self._waiting)

    @property
    def current(self) -> PendingQuery | None:
        """The query that is processed now."""
        return self._current

    def open(self) -> None:
        """Accept queries from now on."""
        self._closed = ''

    def close(self, rejection: str, reason: str = '') -> None:
        """Reject further queries and cancel the present ones.

        Args:
            rejection: message of the REJECTED answers to later queries.
            reason: message of the CANCELED answers to the waiting queries, sent now, and to the
                current one, sent when the models have stopped; empty: the same as `rejection`.
        """
        with self._lock:
            self._closed = rejection
            waiting = list(self._waiting)
            self._waiting.clear()
            if self._current is not None:
                self._current.cancel(reason or rejection)
        for pending in waiting:
            pending.refuse(Status.CANCELED, reason or rejection)

    def submit(self, pending: PendingQuery) -> bool:
        """Enqueue a query or answer it REJECTED; return whether it was enqueued."""
        with self._lock:
            replaced: list[PendingQuery] = []
            if not self._closed and not pending.low_priority:
                replaced = self._cancel_low_priority()
            rejection = self._closed or self._full()
            if not rejection:
                if self.policy is QueryPolicy.PREEMPT:
                    replaced += self._preempt(pending)
                self._waiting.append(pending)
        for other in replaced:
            other.refuse(Status.CANCELED, other.cancel_reason)
        if rejection:
            pending.refuse(Status.REJECTED, rejection)
        return not rejection

    def pop(self) -> PendingQuery | None:
        """Return the oldest waiting query, current until `finish`; None if none waits."""
        with self._lock:
            self._current = self._waiting.popleft() if self._waiting else None
            if self._current is not None:
                self._current.started_at = time.monotonic()
            return self._current

    def finish(self, pending: PendingQuery) -> None:
        """Mark a popped query as processed; its answer may follow."""
        with self._lock:
            if self._current is pending:
                self._current = None

    def cancel(self, pending: PendingQuery, reason: str) -> None:
        """Answer a waiting query CANCELED; request the models to stop if it is the current one."""
        with self._lock:
            waiting = pending in self._waiting
            if waiting:
                self._waiting.remove(pending)
            pending.cancel(reason)
        if waiting:
            pending.refuse(Status.CANCELED, reason)

    def cancel_all(self, reason: str) -> int:
        """Cancel the current query and all waiting ones; return how many there were."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            current = self._current
            if current is not None:
                current.cancel(reason)
        for pending in waiting:
            pending.refuse(Status.CANCELED, reason)
        return len(waiting) + (current is not None)

    def _cancel_low_priority(self) -> list[PendingQuery]:
        """Cancel all low-priority queries; return the waiting ones, which need an answer now."""
        replaced = [other for other in self._waiting if other.low_priority]
        for other in (*replaced, self._current):
            if other is not None and other.low_priority:
                other.cancel("The node's own query was cancelled by a client's query.")
        for other in replaced:
            self._waiting.remove(other)
        return replaced

    def _preempt(self, pending: PendingQuery) -> list[PendingQuery]:
        """Cancel all earlier queries; return the waiting ones, which need an answer now."""
        reason = f'Replaced by query {describe(pending.query)}.'
        replaced = list(self._waiting)
        self._waiting.clear()
        for other in (*replaced, self._current):
            if other is not None:
                other.cancel(reason)
        return replaced

    def _full(self) -> str:
        """Return why the policy allows no further query; empty if it does."""
        current = None if self._current is None or self._current.low_priority else self._current
        busy = current or (self._waiting[0] if self._waiting else None)
        if self.policy is QueryPolicy.REJECT and busy is not None:
            return (
                f'Busy with query {describe(busy.query)}; retry after its answer, or set '
                'query.policy to `queue` or `preempt`.'
            )
        if self.policy is QueryPolicy.QUEUE and busy is not None:
            # A query that has not been popped yet counts as the current one.
            waiting = len(self._waiting) - (self._current is None)
            if waiting >= self.queue_size:
                return (
                    f'The queue is full: {waiting} queries are waiting, which is '
                    'query.queue_size. Retry later, or set query.policy to `preempt`.'
                )
        return ''


def describe(query: Query, max_length: int = 60) -> str:
    """Return a query's id and the beginning of its text, for logs and messages.

    Args:
        query: the query.
        max_length: of the text, characters.
    """
    text = query.text
    if len(text) > max_length:
        text = text[: max_length - 1] + '…'
    return f'{query.id} (“{text}”)'
