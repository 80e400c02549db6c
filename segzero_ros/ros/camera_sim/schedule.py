"""When a simulated camera publishes next, so that publishing takes nothing from its rate."""

from __future__ import annotations


class Schedule:
    """Due times at fixed distances from each other, however long the work in between takes.

    Args:
        catch_up_ns: how late the work may be for what was missed to be made up for, one piece
            after the other without a pause; what is later still is let go.
    """

    def __init__(self, catch_up_ns: int) -> None:
        self._catch_up_ns = catch_up_ns
        self._due_ns: int | None = None

    def start(self, now_ns: int) -> None:
        """Note when the work began that is under way; the first was due then."""
        if self._due_ns is None:
            self._due_ns = now_ns

    def wait(self, now_ns: int, period_ns: int) -> int:
        """Return how long to wait, after the work, for what is due a period after the last.

        Args:
            now_ns: the time now.
            period_ns: between the last that was due and the next.

        Returns:
            ns, never more than the period: a clock that jumps back does not stop the camera.
        """
        self.start(now_ns)
        assert self._due_ns is not None
        due_ns = min(self._due_ns + period_ns, now_ns + period_ns)
        if due_ns < now_ns - self._catch_up_ns:
            due_ns = now_ns
        self._due_ns = due_ns
        return max(0, due_ns - now_ns)
