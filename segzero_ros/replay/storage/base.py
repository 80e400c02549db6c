"""Interface of bag files: channels, and their messages as recorded."""

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

# What libraries raise for invalid bytes.
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
# Called with damage in a file, as a part of a sentence. It may raise to stop reading.
Report = Callable[[str], None]


def reason_of(error: BaseException) -> str:
    """Return an error's text as the end of a sentence, with its type if the text is too short."""
    text = ' '.join(str(error).split()).rstrip('.')
    kind = type(error).__name__
    if not text:
        return f'{kind}, without a reason'
    # A missing key alone is not a reason.
    return f'{kind} {text}' if isinstance(error, LookupError) else text


def counted(count: int, noun: str) -> str:
    """Return a number with a noun, as `1 message` or `2 messages`."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


@dataclass(frozen=True)
class Channel:
    """A recorded topic of one or several publishers.

    Attributes:
        topic: its full name.
        type: `sensor_msgs/msg/Image` for ROS types, else as recorded.
        message_encoding: `cdr`, `ros1`, or of other systems: `json`, `protobuf`, …
        schema_encoding: of the definition: `ros2msg`, `ros2idl`, `ros1msg`; empty without any.
        definition: of the type; empty without any.
        qos: profiles offered by its publishers.
    """

    topic: str
    type: str
    message_encoding: str
    schema_encoding: str = ''
    definition: str = ''
    qos: tuple[Qos, ...] = ()


class StoredEntry(NamedTuple):
    """A message as recorded: receive time (ns), channel and bytes."""

    stamp_ns: int
    channel: int
    data: bytes


class StorageFile(Protocol):
    """One file of a bag.

    Attributes:
        channels: by number.
        counts: number of readable messages by channel, as far as known.
    """

    channels: dict[int, Channel]
    counts: Counter[int]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Receive times of the first and the last message; None without messages."""
        ...

    def messages(self, channels: Set[int]) -> Iterator[StoredEntry]:
        """Yield the messages of some channels in the order of receive times."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Stamped(Protocol):
    """A message with its receive time."""

    @property
    def stamp_ns(self) -> int:
        """Nanoseconds."""
        ...


_Entry = TypeVar('_Entry', bound=Stamped)


@dataclass(frozen=True)
class Source(Generic[_Entry]):
    """Messages ordered by time, and a lower bound of their times."""

    first_ns: int
    begin: Callable[[], Iterator[_Entry]]


def merged(sources: Iterable[Source[_Entry]]) -> Iterator[_Entry]:
    """Merge the messages of several sources by time.

    A source is started at its first time, so that only overlapping sources are in memory. For
    equal stamps, messages of an earlier source come first.
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
    """Return the earliest start and the latest end; ignore starts of 0 if there are others."""
    known = list(times)
    if not known:
        return None
    return min([a for a, _ in known if a] or [0]), max(b for _, b in known)


def span_of_stamps(stamps: NDArray[Any]) -> tuple[int, int]:
    """Return the span of one or more stamps, see `span_of`."""
    known = stamps[stamps > 0]
    return int(known.min()) if known.size else 0, int(stamps.max())
