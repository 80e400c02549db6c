"""Timing of the simulated camera: a rate that does not depend on how long publishing takes."""

from __future__ import annotations


class Schedule:
    """Due times at fixed intervals, however long the work in between takes.

    Args:
        max_delay_ns: delay that is made up for by working without a pause; after a longer one the
            schedule continues from the present.
    """

    def __init__(self, max_delay_ns: int) -> None:
        self._max_delay_ns = max_delay_ns
        self._due_ns: int | None = None

    def start(self, now_ns: int) -> None:
        """Record the start of the work; the first due time is that of the first call."""
        if self._due_ns is None:
            self._due_ns = now_ns

    def delay(self, now_ns: int, period_ns: int) -> int:
        """Return the time from now, after the work, to the next due time.

        Args:
            now_ns: the present time.
            period_ns: from the last due time to the next.

        Returns:
            ns, at most the period, so that a clock that jumps back does not stop the camera.
        """
        self.start(now_ns)
        assert self._due_ns is not None
        due_ns = min(self._due_ns + period_ns, now_ns + period_ns)
        if due_ns < now_ns - self._max_delay_ns:
            due_ns = now_ns
        self._due_ns = due_ns
        return max(0, due_ns - now_ns)
