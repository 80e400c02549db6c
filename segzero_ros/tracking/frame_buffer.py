"""Buffer of the camera's undecoded frames since a query was accepted, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading
from typing import Generic, TypeVar

from segzero_ros.types import S_TO_NS

Item = TypeVar('Item')

# Number of frames that are kept while a query is processed.
CAPACITY = 64


@dataclass(frozen=True)
class _Entry(Generic[Item]):
    number: int
    time_ns: int
    item: Item


class FrameBuffer(Generic[Item]):
    """The frames since it was opened, in bounded memory; thread-safe.

    When it is full, every second frame is dropped, also of those that arrive later, so that the
    rest is spread evenly over time. The newest frame is always kept.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f'capacity must be at least 2, but is {capacity}')
        self._capacity = capacity
        self._entries: deque[_Entry[Item]] = deque()
        self._is_open = False
        self._count = 0
        self._stride = 1
        self._newest = 0
        self._changed = threading.Condition()

    def open(self) -> None:
        """Discard all frames, and store those that arrive from now on."""
        with self._changed:
            self._entries.clear()
            self._is_open, self._count, self._stride, self._newest = True, 0, 1, 0

    def close(self) -> None:
        """Discard all frames, and ignore later ones."""
        with self._changed:
            self._entries.clear()
            self._is_open = False

    def put(self, time_ns: int, item: Item) -> None:
        """Store a reference to a frame and its time, nanoseconds."""
        with self._changed:
            if not self._is_open:
                return
            if self._entries and self._entries[-1].number % self._stride:
                self._entries.pop()  # it was kept only as the newest
            self._entries.append(_Entry(self._count, time_ns, item))
            self._count += 1
            self._newest = time_ns
            if len(self._entries) > self._capacity:
                self._thin()
            self._changed.notify_all()

    def _thin(self) -> None:
        self._stride *= 2
        newest = self._entries.pop()
        self._entries = deque(entry for entry in self._entries if entry.number % self._stride == 0)
        self._entries.append(newest)

    def lag(self, time_ns: int) -> float:
        """Return the seconds between a time and the newest frame; at least 0.0."""
        with self._changed:
            return max(0.0, (self._newest - time_ns) / S_TO_NS)

    def take(self, time_ns: float, timeout: float) -> tuple[int, Item] | None:
        """Return the first frame at or after a time, otherwise the newest; discard earlier ones.

        Args:
            time_ns: the time, nanoseconds.
            timeout: seconds to wait if the buffer is empty.

        Returns:
            The frame's time and the frame; None after the timeout.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._entries), timeout):
                return None
            entry = self._entries.popleft()
            while entry.time_ns < time_ns and self._entries:
                entry = self._entries.popleft()
            if not self._entries:
                self._stride = 1
            return entry.time_ns, entry.item
