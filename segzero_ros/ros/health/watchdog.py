"""Models that hear nothing any more: neither a cancel nor the end of their time.

A thread cannot be stopped from outside, so the node goes on without it: the query is answered, the
thread is left behind with its models, and others are loaded.
"""

from __future__ import annotations

from typing import NamedTuple

from segzero_ros.ros.perception.query_queue import PendingQuery
from segzero_ros.types import Status


class Overdue(NamedTuple):
    """What a query is answered whose models are stuck."""

    status: Status
    message: str


def overdue(
    pending: PendingQuery | None, now: float, time_limit: float, patience: float
) -> Overdue | None:
    """Say whether the models are stuck on a query.

    Args:
        pending: the query that is worked on; None for none.
        now: seconds of the monotonic clock.
        time_limit: most seconds that an answer may take; 0 for no limit.
        patience: seconds that the models have to end once they should; 0: for ever.

    Returns:
        What to answer; None while the models may still end by themselves.
    """
    if pending is None or pending.taken_at is None or not patience:
        return None
    if pending.cancelled_at is not None:
        since = now - max(pending.cancelled_at, pending.taken_at)
        if since <= patience:
            return None
        return Overdue(
            Status.CANCELED, f'{pending.cancel_reason} The models did not stop for {since:.0f} s.'
        )
    worked = now - pending.taken_at
    if not time_limit or worked <= time_limit + patience:
        return None
    return Overdue(
        Status.TIMEOUT,
        f'The models did not end within {worked:.0f} s; time_limit allows {time_limit:g} s.',
    )
