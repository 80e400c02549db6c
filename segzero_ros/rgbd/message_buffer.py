"""The serialised messages of one topic, ordered by time.

Of a message, only the CDR-encoded std_msgs/Header at its start is read.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median_low
import struct
from typing import NamedTuple

from segzero_ros.types import S_TO_NS

# A message this much older than the previous one marks the restart of a recording. Nanoseconds.
JUMP_NS = 1_000_000_000
# Number of message times that are kept, and number of the last ones that give the period.
_MAX_TIMES = 128
_PERIOD_TIMES = 16


class StoredMessage(NamedTuple):
    """A serialised message that starts with a std_msgs/Header.

    Attributes:
        data: the message in CDR.
        stamp_ns: its header's stamp; None if it is zero or missing.
        arrived_ns: time of arrival by the node's clock.
    """

    data: bytes
    stamp_ns: int | None
    arrived_ns: int

    @property
    def time_ns(self) -> int:
        """Its stamp, or its arrival for publishers that do not set one."""
        return self.arrived_ns if self.stamp_ns is None else self.stamp_ns


class MessageBuffer:
    """Messages of one topic by time; times are kept longer than messages.

    Attributes:
        messages: the buffered messages, oldest first.
        times: the times of the last messages, including dropped ones, oldest first.
        period_ns: median time between two messages; 0 while unknown.
    """

    def __init__(self) -> None:
        self.messages: list[StoredMessage] = []
        self.times: list[int] = []
        self.period_ns = 0
        self._bytes = 0
        self._until_period = 1

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter(self.messages)

    @property
    def newest(self) -> StoredMessage | None:
        """The message with the latest time."""
        return self.messages[-1] if self.messages else None

    def is_restart(self, message: StoredMessage) -> bool:
        """Return whether a message is so much older that the recording must have restarted."""
        return bool(self.times) and message.time_ns < self.times[-1] - JUMP_NS

    def add(self, message: StoredMessage) -> None:
        """Insert a message by its time; messages may arrive out of order."""
        time_ns = message.time_ns
        if not self.times or time_ns >= self.times[-1]:
            self.messages.append(message)
            self.times.append(time_ns)
        else:
            insort(self.messages, message, key=_time_of)
            insort(self.times, time_ns)
        if len(self.times) > _MAX_TIMES:
            del self.times[0]
        self._bytes += len(message.data)
        self._until_period -= 1
        if not self._until_period:
            self._find_period()

    def clear(self) -> None:
        """Discard all messages and times."""
        self.messages.clear()
        self.times.clear()
        self.period_ns = self._bytes = 0
        self._until_period = 1

    def keep(self, messages: list[StoredMessage]) -> None:
        """Drop all other messages."""
        if len(messages) != len(self.messages):
            self.messages = messages
            self._bytes = sum(len(message.data) for message in messages)

    def keep_from(self, time_ns: int) -> None:
        """Drop messages before a time, except the newest message."""
        while len(self.messages) > 1 and self.messages[0].time_ns < time_ns:
            self._bytes -= len(self.messages.pop(0).data)

    def thin(self, max_bytes: int, max_count: int = _MAX_TIMES) -> list[StoredMessage]:
        """Drop messages until the rest are within both limits.

        The newest message always stays, the oldest as long as two fit; of the others, the one that
        leaves the smallest gap is dropped first.

        Args:
            max_bytes: limit for the size of all messages.
            max_count: limit for the number of messages.

        Returns:
            The dropped messages.
        """
        dropped = []
        while len(self.messages) > 1 and (
            self._bytes > max_bytes or len(self.messages) > max_count
        ):
            index = min(
                range(1, len(self.messages) - 1),
                key=lambda i: self.messages[i + 1].time_ns - self.messages[i - 1].time_ns,
                default=0,
            )
            dropped.append(self.messages.pop(index))
            self._bytes -= len(dropped[-1].data)
        return dropped

    def has_passed(self, time_ns: int) -> bool:
        """Return whether no later message can be nearer to a time than the ones so far."""
        if not self.times:
            return False
        ahead = time_ns - self.times[-1]
        return ahead <= 0 or 2 * ahead <= self.period_ns

    def nearest(self, time_ns: int) -> StoredMessage | None:
        """Return the message nearest to a time; None if there is none or it was dropped."""
        message = nearest(time_ns, self.messages)
        if message is None or message.time_ns != self.nearest_time(time_ns):
            return None
        return message

    def nearest_time(self, time_ns: int) -> int | None:
        """Return the time of the message nearest to a time; the later one in case of a tie."""
        times = self.times
        if not times:
            return None
        after = bisect_left(times, time_ns)
        if after == len(times):
            return times[-1]
        if not after or times[after] - time_ns <= time_ns - times[after - 1]:
            return times[after]
        return times[after - 1]

    def _find_period(self) -> None:
        """Set the median of the last periods: for each message at first, later less often."""
        last = self.times[-_PERIOD_TIMES:]
        if len(last) > 1:
            self.period_ns = median_low(b - a for a, b in pairwise(last))
        self._until_period = 1 if len(last) < _PERIOD_TIMES else _PERIOD_TIMES // 2


def _time_of(message: StoredMessage) -> int:
    return message.time_ns


def nearest(time_ns: int, messages: Sequence[StoredMessage]) -> StoredMessage | None:
    """Return the message nearest to a time; the last one in case of a tie."""
    best, best_distance = None, 0
    for message in messages:
        distance = abs(message.time_ns - time_ns)
        if best is None or distance <= best_distance:
            best, best_distance = message, distance
    return best


def read_stamp(data: bytes) -> int | None:
    """Return the stamp of a serialised message's header, nanoseconds; None if zero or missing.

    CDR starts with four bytes; the lowest bit of the second one is set for little-endian numbers.
    The header's stamp (int32 seconds, uint32 nanoseconds) follows.
    """
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(seconds) * S_TO_NS + int(nanoseconds) or None


def read_frame_id(data: bytes) -> str:
    """Return the frame_id of a serialised message's header; empty if missing.

    It follows the stamp: uint32 length including the terminating zero, then UTF-8. A leading slash
    (ROS 1 tf) is removed.
    """
    if len(data) < 16:
        return ''
    (length,) = struct.unpack_from('<I' if data[1] & 1 else '>I', data, 12)
    text = bytes(data[16 : 16 + length]) if 16 + length <= len(data) else b''
    return text.rstrip(b'\0').decode('utf-8', 'replace').lstrip('/')
