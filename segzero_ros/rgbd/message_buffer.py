"""The undecoded messages of one topic, ordered by the time at which they were taken.

Knows nothing of ROS but the bytes with which every message with a header begins.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median_low
import struct
from typing import NamedTuple

# A message this much older than the one before belongs to a recording that starts again.
JUMP_NS = 1_000_000_000
# How many times of a stream are remembered, and how many of the last ones give its period.
_TIMES = 128
_FOR_PERIOD = 16


class StoredMessage(NamedTuple):
    """A serialised message that begins with a std_msgs/Header.

    Attributes:
        data: the message as it came, CDR.
        stamp_ns: its header's stamp; None where it is zero or too short to hold one.
        arrived_ns: the node's clock at its arrival.
    """

    data: bytes
    stamp_ns: int | None
    arrived_ns: int

    @property
    def time_ns(self) -> int:
        """When it was taken: its stamp, or its arrival for publishers that do not stamp."""
        return self.arrived_ns if self.stamp_ns is None else self.stamp_ns


class MessageBuffer:
    """Messages of one topic by their time; their data may be dropped, their times stay longer.

    Attributes:
        messages: those whose data is here, oldest first.
        times: the times of the last messages, dropped ones too, oldest first.
        period_ns: the usual time between two messages; 0 while it is not known.
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

    def starts_again(self, message: StoredMessage) -> bool:
        """Return whether a message is so much older that the recording starts again with it."""
        return bool(self.times) and message.time_ns < self.times[-1] - JUMP_NS

    def add(self, message: StoredMessage) -> None:
        """Keep a message; one that was overtaken on its way takes its place by its time."""
        time_ns = message.time_ns
        if not self.times or time_ns >= self.times[-1]:
            self.messages.append(message)
            self.times.append(time_ns)
        else:
            insort(self.messages, message, key=_time_of)
            insort(self.times, time_ns)
        if len(self.times) > _TIMES:
            del self.times[0]
        self._bytes += len(message.data)
        self._until_period -= 1
        if not self._until_period:
            self._find_period()

    def clear(self) -> None:
        """Forget everything."""
        self.messages.clear()
        self.times.clear()
        self.period_ns = self._bytes = 0
        self._until_period = 1

    def keep(self, messages: list[StoredMessage]) -> None:
        """Drop the data of all other messages."""
        if len(messages) != len(self.messages):
            self.messages = messages
            self._bytes = sum(len(message.data) for message in messages)

    def keep_from(self, time_ns: int) -> None:
        """Drop the data of what was taken before a time, but not of the newest message."""
        while len(self.messages) > 1 and self.messages[0].time_ns < time_ns:
            self._bytes -= len(self.messages.pop(0).data)

    def thin(self, most_bytes: int, most: int = _TIMES) -> list[StoredMessage]:
        """Drop messages until the rest are no more and take no more; return what was dropped.

        The newest always stays, the oldest as long as two fit; of the others, those go first that
        leave the smallest gap.

        Args:
            most_bytes: how many bytes the rest may take.
            most: how many messages may stay.
        """
        dropped = []
        while len(self.messages) > 1 and (self._bytes > most_bytes or len(self.messages) > most):
            index = min(
                range(1, len(self.messages) - 1),
                key=lambda i: self.messages[i + 1].time_ns - self.messages[i - 1].time_ns,
                default=0,
            )
            dropped.append(self.messages.pop(index))
            self._bytes -= len(dropped[-1].data)
        return dropped

    def has_passed(self, time_ns: int) -> bool:
        """Return whether nothing can come any more that is nearer to a time than what came."""
        if not self.times:
            return False
        ahead = time_ns - self.times[-1]
        return ahead <= 0 or 2 * ahead <= self.period_ns

    def nearest(self, time_ns: int) -> StoredMessage | None:
        """Return the message nearest to a time; None if there is none, or its data is dropped."""
        message = nearest(time_ns, self.messages)
        if message is None or message.time_ns != self.nearest_time(time_ns):
            return None
        return message

    def nearest_time(self, time_ns: int) -> int | None:
        """Return the time of the message nearest to a time, of equally near ones the later."""
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
        """Take the median of the last periods: always at first, then now and then."""
        last = self.times[-_FOR_PERIOD:]
        if len(last) > 1:
            self.period_ns = median_low(b - a for a, b in pairwise(last))
        self._until_period = 1 if len(last) < _FOR_PERIOD else _FOR_PERIOD // 2


def _time_of(message: StoredMessage) -> int:
    return message.time_ns


def nearest(time_ns: int, messages: Sequence[StoredMessage]) -> StoredMessage | None:
    """Return the message whose time is nearest, of equally near ones the newest."""
    best, distance = None, 0
    for message in messages:
        apart = abs(message.time_ns - time_ns)
        if best is None or apart <= distance:
            best, distance = message, apart
    return best


def read_stamp(data: bytes) -> int | None:
    """Return the stamp of a serialised message's header, nanoseconds; None where there is none.

    A serialised message begins with four bytes, of which the second one's lowest bit says that
    numbers are little-endian; the header's stamp, int32 seconds and uint32 nanoseconds, follows.
    """
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds) or None


def read_frame_id(data: bytes) -> str:
    """Return the frame_id of a serialised message's header; empty where there is none.

    It follows the stamp: uint32 length with the closing zero, then UTF-8. A leading slash, as
    tf of ROS 1 wrote it, is left out.
    """
    if len(data) < 16:
        return ''
    (length,) = struct.unpack_from('<I' if data[1] & 1 else '>I', data, 12)
    text = bytes(data[16 : 16 + length]) if 16 + length <= len(data) else b''
    return text.rstrip(b'\0').decode('utf-8', 'replace').lstrip('/')
