"""The camera's frames since a query was accepted, undecoded and in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading
from typing import Generic, TypeVar

Item = TypeVar('Item')

# Most frames that are kept while a query is answered.
CAPACITY = 64


@dataclass(frozen=True)
class _Kept(Generic[Item]):
    number: int
    time_ns: int
    item: Item


class FrameBuffer(Generic[Item]):
    """The frames since a moment, undecoded, in bounded memory; used from any thread.

    When it is full, every second frame goes, and of those that come later too: what is left is
    spread evenly over the whole time. The newest frame is always there.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f'capacity must be at least 2, but is {capacity}')
        self._capacity = capacity
        self._kept: deque[_Kept[Item]] = deque()
        self._keeping = False
        self._count = 0
        self._stride = 1
        self._newest = 0
        self._changed = threading.Condition()

    def open(self) -> None:
        """Forget everything, and keep what comes from now on."""
        with self._changed:
            self._kept.clear()
            self._keeping, self._count, self._stride, self._newest = True, 0, 1, 0

    def close(self) -> None:
        """Forget everything, and keep nothing any more."""
        with self._changed:
            self._kept.clear()
            self._keeping = False

    def put(self, time_ns: int, item: Item) -> None:
        """Keep a frame that was taken at a time; it costs a reference."""
        with self._changed:
            if not self._keeping:
                return
            if self._kept and self._kept[-1].number % self._stride:
                self._kept.pop()  # it was kept as the newest only
            self._kept.append(_Kept(self._count, time_ns, item))
            self._count += 1
            self._newest = time_ns
            if len(self._kept) > self._capacity:
                self._thin()
            self._changed.notify_all()

    def _thin(self) -> None:
        self._stride *= 2
        newest = self._kept.pop()
        self._kept = deque(kept for kept in self._kept if kept.number % self._stride == 0)
        self._kept.append(newest)

    def lag(self, time_ns: int) -> float:
        """Return how many seconds after a time the newest frame was taken; at least 0.0."""
        with self._changed:
            return max(0.0, (self._newest - time_ns) / 1e9)

    def take(self, time_ns: float, timeout: float) -> tuple[int, Item] | None:
        """Return the first frame at or after a time, or else the newest; forget those before it.

        Args:
            time_ns: the time.
            timeout: seconds to wait when there is none.

        Returns:
            When it was taken, and the frame; None if none came in time.
        """
        with self._changed:
            if not self._kept and not self._changed.wait_for(lambda: bool(self._kept), timeout):
                return None
            taken = self._kept.popleft()
            while taken.time_ns < time_ns and self._kept:
                taken = self._kept.popleft()
            if not self._kept:
                self._stride = 1
            return taken.time_ns, taken.item
