"""What every file of a bag gives: its channels, and their messages as they were recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
import heapq
import sqlite3
import struct
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray
from rosbags.interfaces import Qos
from rosbags.rosbag1 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError

# What libraries raise over bytes that are not what they should be.
DAMAGES = (
    ReaderError,
    SerdeError,
    TypesysError,
    sqlite3.Error,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Receives what is wrong with a file, a part of a sentence. It may raise, to end the reading.
Report = Callable[[str], None]


def reason_of(error: BaseException) -> str:
    """Return what an error says, as the end of a sentence; its kind where it says too little."""
    text = ' '.join(str(error).split()).rstrip('.')
    kind = type(error).__name__
    if not text:
        return f'{kind}, without a reason'
    # A key alone tells nothing.
    return f'{kind} {text}' if isinstance(error, LookupError) else text


def counted(count: int, noun: str) -> str:
    """Return a number of things, as `1 message` or `2 messages`."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


@dataclass(frozen=True)
class Channel:
    """What is recorded of one topic, by one publisher or several.

    Attributes:
        topic: its full name.
        type: `sensor_msgs/msg/Image` for types of ROS, else as it was recorded.
        message_encoding: `cdr`, `ros1`, or of other systems: `json`, `protobuf`, …
        schema_encoding: how the definition is written: `ros2msg`, `ros2idl`, `ros1msg`; empty
            where there is none.
        definition: the text that defines the type; empty where there is none.
        qos: what its publishers offered.
    """

    topic: str
    type: str
    message_encoding: str
    schema_encoding: str = ''
    definition: str = ''
    qos: tuple[Qos, ...] = ()


class StoredEntry(NamedTuple):
    """A message as it was recorded: when it was received (ns), its channel and its bytes."""

    stamp_ns: int
    channel: int
    data: bytes


class StorageFile(Protocol):
    """One file of a bag.

    Attributes:
        channels: what it holds, by number.
        counts: how many messages of each channel can be read, as far as is known now.
    """

    channels: dict[int, Channel]
    counts: Counter[int]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """When its first and last message were received; None without any."""
        ...

    def messages(self, channels: Set[int]) -> Iterator[StoredEntry]:
        """Give the messages of some channels in the order in which they were received."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Stamped(Protocol):
    """A message with the time at which it was received."""

    @property
    def stamp_ns(self) -> int:
        """Nanoseconds."""
        ...


_Entry = TypeVar('_Entry', bound=Stamped)


@dataclass(frozen=True)
class Source(Generic[_Entry]):
    """Messages in their order, and the time before which none of them came."""

    first_ns: int
    begin: Callable[[], Iterator[_Entry]]


def merged(sources: Iterable[Source[_Entry]]) -> Iterator[_Entry]:
    """Give the messages of several sources in their order.

    A source is begun when its time has come, so that only those that overlap are in memory; of
    equal stamps, those of an earlier source come first.
    """
    waiting = sorted(enumerate(sources), key=lambda item: (-item[1].first_ns, -item[0]))
    running: list[tuple[int, int, _Entry, Iterator[_Entry]]] = []
    while waiting or running:
        while waiting and (not running or waiting[-1][1].first_ns <= running[0][0]):
            number, source = waiting.pop()
            entries = source.begin()
            first = next(entries, None)
            if first is not None:
                heapq.heappush(running, (first.stamp_ns, number, first, entries))
        if not running:
            continue
        _, number, entry, entries = running[0]
        yield entry
        following = next(entries, None)
        if following is None:
            heapq.heappop(running)
        else:
            heapq.heapreplace(running, (following.stamp_ns, number, following, entries))


def span_of(times: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the earliest start and the latest end; 0 is no start where there are others."""
    known = list(times)
    if not known:
        return None
    return min([a for a, _ in known if a] or [0]), max(b for _, b in known)


def span_of_stamps(stamps: NDArray[Any]) -> tuple[int, int]:
    """Return the same of one or more stamps."""
    known = stamps[stamps > 0]
    return int(known.min()) if known.size else 0, int(stamps.max())
