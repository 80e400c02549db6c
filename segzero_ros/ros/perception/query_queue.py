"""Where queries are taken in: one is worked on; the others wait, make way or are turned away.

Every submitted query gets exactly one answer: from the worker that took it, or from here when it
is refused, replaced, cancelled while it waits, or when the queue closes. Knows nothing of ROS;
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
from segzero_ros.types import Answer, Query, Status, Timing

SILENT = Listeners()


def _nowhere(_: Answer) -> None:
    """Deliver nothing any more."""


class QueryPolicy(str, Enum):
    """What happens to a query that comes while another one is worked on.

    PREEMPT: it takes the place of the one before, which is told to stop and answered CANCELED.
    QUEUE: it waits, behind at most `queue_size` others; beyond that it is answered REJECTED.
    REJECT: it is answered REJECTED.
    """

    PREEMPT = 'preempt'
    QUEUE = 'queue'
    REJECT = 'reject'


class PendingQuery:
    """One query on its way, and where its answer goes.

    Attributes:
        query: the sentence and its id.
        image: the picture it came with, as it came; None for the newest camera frame.
        listeners: who hears how the answer comes about.
        accepted_ns: the node's clock when it was handed in, nanoseconds.
        taken_at: when work on it began, seconds of the monotonic clock; None before.
        cancelled_at: when the models were told to stop, likewise.
        abandoned: whether whoever works on it is not waited for any longer.
        low_priority: whether it makes way for every pending query that does not.
    """

    def __init__(
        self,
        query: Query,
        deliver: Callable[[Answer], None],
        *,
        image: Any = None,
        listeners: Listeners = SILENT,
        accepted_ns: int = 0,
        low_priority: bool = False,
    ) -> None:
        self.query = query
        self.low_priority = low_priority
        self.image = image
        self.listeners = listeners
        self.accepted_ns = accepted_ns
        self.taken_at: float | None = None
        self.cancelled_at: float | None = None
        self.abandoned = False
        self._deliver = deliver
        self._accepted = time.perf_counter()
        self._cancel_reason = ''
        self._answered = False
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the query was handed in."""
        return time.perf_counter() - self._accepted

    @property
    def cancel_reason(self) -> str:
        """Why the models should stop, empty while they should not."""
        return self._cancel_reason

    def cancelled(self) -> bool:
        """Return whether the models should stop."""
        return bool(self._cancel_reason)

    def cancel(self, reason: str) -> None:
        """Ask the models to stop; the first reason counts."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
        self._cancel_reason = self._cancel_reason or reason

    def answer(self, answer: Answer) -> bool:
        """Deliver the answer, unless one was delivered before; return whether this one was."""
        with self._lock:
            if self._answered:
                return False
            self._answered = True
        # Who delivers holds the pending query, its image and its result: were it kept, they
        # would stay until Python looks for cycles, which takes minutes.
        deliver, self._deliver = self._deliver, _nowhere
        deliver(answer)
        return True

    def refuse(self, status: Status, message: str) -> bool:
        """Answer without having asked the models; return whether this was the answer."""
        return self.answer(self.failed(status, message))

    def failed(self, status: Status, message: str) -> Answer:
        """Return the answer to a query that never reaches the models."""
        timing = Timing(queued=self.elapsed, total=self.elapsed)
        return Answer(self.query, status, message, timing=timing)


class QueryQueue:
    """Takes in pending queries by a policy and gives them out one at a time.

    Args:
        policy: what happens to a query that comes while another one is worked on.
        queue_size: how many may wait under Policy.QUEUE, besides the one that is worked on.
        closed: why nothing is taken in; empty to open at once.
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
        """How many queries wait."""
        return len(self._waiting)

    @property
    def current(self) -> PendingQuery | None:
        """The query that is worked on."""
        return self._current

    def open(self) -> None:
        """Take in queries from now on."""
        self._closed = ''

    def close(self, refusal: str, reason: str = '') -> None:
        """Turn queries away from now on, and end those that are here.

        Args:
            refusal: the message that later queries are answered REJECTED with.
            reason: the message that the waiting ones are answered CANCELED with, and the current
                one when the models have stopped; empty: nobody can be here.
        """
        with self._lock:
            self._closed = refusal
            waiting = list(self._waiting)
            self._waiting.clear()
            if self._current is not None:
                self._current.cancel(reason or refusal)
        for pending in waiting:
            pending.refuse(Status.CANCELED, reason or refusal)

    def submit(self, pending: PendingQuery) -> bool:
        """Take a pending query in, or refuse it; return whether it waits to be taken."""
        with self._lock:
            replaced: list[PendingQuery] = []
            if not self._closed and not pending.low_priority:
                replaced = self._drop_low_priority()
            refusal = self._closed or self._no_room()
            if not refusal:
                if self.policy is QueryPolicy.PREEMPT:
                    replaced += self._preempt(pending)
                self._waiting.append(pending)
        for other in replaced:
            other.refuse(Status.CANCELED, other.cancel_reason)
        if refusal:
            pending.refuse(Status.REJECTED, refusal)
        return not refusal

    def take(self) -> PendingQuery | None:
        """Take the oldest pending query to work on it until `done`; None when nobody waits."""
        with self._lock:
            self._current = self._waiting.popleft() if self._waiting else None
            if self._current is not None:
                self._current.taken_at = time.monotonic()
            return self._current

    def done(self, pending: PendingQuery) -> None:
        """Say that the pending query is worked on no longer; its answer may follow."""
        with self._lock:
            if self._current is pending:
                self._current = None

    def cancel(self, pending: PendingQuery, reason: str) -> None:
        """Answer a waiting query CANCELED, or tell the models to stop if it is worked on."""
        with self._lock:
            waiting = pending in self._waiting
            if waiting:
                self._waiting.remove(pending)
            pending.cancel(reason)
        if waiting:
            pending.refuse(Status.CANCELED, reason)

    def _drop_low_priority(self) -> list[PendingQuery]:
        """Cancel the pending queries that yield; return those that have to be answered now."""
        replaced = [other for other in self._waiting if other.low_priority]
        for other in (*replaced, self._current):
            if other is not None and other.low_priority:
                other.cancel('The node asked this by itself, and made way for a query.')
        for other in replaced:
            self._waiting.remove(other)
        return replaced

    def _preempt(self, pending: PendingQuery) -> list[PendingQuery]:
        """Cancel everything before the query; return those that have to be answered now."""
        reason = f'Replaced by query {describe(pending.query)}.'
        replaced = list(self._waiting)
        self._waiting.clear()
        for other in (*replaced, self._current):
            if other is not None:
                other.cancel(reason)
        return replaced

    def _no_room(self) -> str:
        """Say why one more pending query cannot be taken in; empty when it can."""
        current = None if self._current is None or self._current.low_priority else self._current
        busy = current or (self._waiting[0] if self._waiting else None)
        if self.policy is QueryPolicy.REJECT and busy is not None:
            return (
                f'Busy with query {describe(busy.query)}; ask again when it is answered, or set '
                'query_policy to `queue` or `preempt`.'
            )
        if self.policy is QueryPolicy.QUEUE and busy is not None:
            # A pending query that nobody has taken yet counts as the one that is worked on.
            waiting = len(self._waiting) - (self._current is None)
            if waiting >= self.queue_size:
                return (
                    f'{waiting} queries wait already, which is the queue_size; ask again later, '
                    'or set query_policy to `preempt`.'
                )
        return ''


def describe(query: Query, longest: int = 60) -> str:
    """Name a query for a person: its id and the beginning of its text."""
    text = query.text if len(query.text) <= longest else query.text[: longest - 1] + '…'
    return f'{query.id} (“{text}”)'
