"""Bag reader and writer for serialized messages, including this package's own types.

They need no ROS installation, only this package's interface files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
import threading
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    StoragePlugin,
    Writer,
    WriterError,
)
from rosbags.typesys import TypesysError
import zstandard

from segzero_ros.replay.definitions import (
    BagError,
    Definitions,
    Interface,
    own_text,
    UnknownType,
    Unreadable,
)
from segzero_ros.replay.storage.bag_files import BagFiles, find_files, open_file, ZSTD_MAGIC
from segzero_ros.replay.storage.base import (
    Channel,
    counted,
    DAMAGES,
    merged,
    reason_of,
    Source,
    span_of,
    StorageFile,
)
from segzero_ros.replay.storage.qos import default_qos

__all__ = [
    'BagError',
    'BagMessage',
    'BagReader',
    'BagWriter',
    'Definitions',
    'UnknownType',
]


# Errors to list of a damaged bag.
_MAX_CAUSES = 3
# What rosbags raises for a definition that it can read but not write.
_DEFINITION_ERRORS = (
    TypesysError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class BagWriter:
    """A new MCAP bag (compressed chunks, embedded schemas) for serialized messages.

    `ros2 bag` and Foxglove can open it. Thread-safe; topics may be added at any time. An exception
    inside the `with` block leaves the bag without `metadata.yaml`, which marks it as incomplete.
    """

    def __init__(self, path: Path) -> None:
        """Create the bag's folder; raise BagError if it exists."""
        self._definitions = Definitions()
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
        self._is_open = False
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        except WriterError as error:
            raise BagError(str(error)) from error

    def __enter__(self) -> BagWriter:
        try:
            self._writer.open()
        except WriterError as error:
            raise BagError(str(error)) from error
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._writer.__exit__(kind, error, trace)

    def close(self) -> None:
        """Finish the bag. May be called twice."""
        self.__exit__(None, None, None)

    def add_topic(
        self,
        topic: str,
        message_type: str,
        *,
        reliable: bool = True,
        interface: Interface | None = None,
        qos: Sequence[Qos] = (),
    ) -> None:
        """Declare a topic, before its first message.

        Args:
            topic: its full name.
            message_type: such as `sensor_msgs/msg/Image`.
            reliable: reliability of the offered QoS, if `qos` is empty.
            interface: definition of the type in another bag; None for the installed one.
            qos: QoS profiles offered by its publishers; empty if unknown.

        Raises:
            UnknownType: there is no definition of the type.
            BagError: the definition cannot be written.
        """
        with self._lock:
            try:
                store = interface.typestore if interface else None
                store = store or self._definitions.require(message_type)
                text = own_text(interface, store, message_type)
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    message_type,
                    typestore=store,
                    msgdef=text,
                    rihs01=store.hash_rihs01(message_type) if text else None,
                    offered_qos_profiles=list(qos) or [default_qos(reliable=reliable)],
                )
            except _DEFINITION_ERRORS as error:
                raise BagError(
                    f'The definition of {message_type} cannot be written: {reason_of(error)}.'
                ) from error

    def write(self, topic: str, message: bytes, stamp_ns: int) -> None:
        """Write a message of a declared topic.

        Args:
            topic: its full name.
            message: serialized as CDR.
            stamp_ns: receive time, nanoseconds.
        """
        with self._lock:
            self._writer.write(self._connections[topic], stamp_ns, message)

    @property
    def counts(self) -> dict[str, int]:
        """Number of messages by topic."""
        with self._lock:
            return {
                topic: self._writer.counts[connection.id]
                for topic, connection in self._connections.items()
            }


class BagMessage(NamedTuple):
    """One message of a bag: its topic, type, CDR bytes and receive time (ns)."""

    topic: str
    type: str
    data: bytes
    stamp_ns: int


@dataclass
class _Topic:
    """A readable topic: its interface, and where its messages are (file and channel)."""

    interface: Interface
    qos: list[Qos]
    channels: set[tuple[int, int]] = field(default_factory=set)


class BagReader:
    """Reads any bag of ROS 1 or ROS 2 (`.bag`, SQLite3, MCAP) as messages of ROS 2.

    Attributes:
        path: the bag's file or folder.
        unreadable: topics that cannot be read, with the reason as the end of a sentence.
        warnings: sentences about skipped topics and messages.
    """

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        """Open the bag.

        Args:
            path: its file or folder.
            salvage: read as much as possible of a damaged bag, and report it in `damage`.

        Raises:
                BagError: the bag is missing, or cannot be read.
        """
        self.path = path
        self.unreadable: dict[str, str] = {}
        self.warnings: list[str] = []
        self._salvage = salvage
        self._causes: list[str] = []
        # A missing metadata.yaml is reported, but loses no messages.
        self._missing_metadata = ''
        # Stamps of invalid messages by file and channel.
        self._invalid: dict[tuple[int, int], set[int]] = {}
        self._definitions = Definitions()
        self._unpacked: TemporaryDirectory[str] | None = None
        self._files: list[StorageFile] = []
        if not path.exists():
            raise BagError(f'{path} cannot be read as a bag: there is no such file or folder.')
        try:
            found = find_files(path, self._report)
            if found.no_metadata and not salvage:
                self._report(found.no_metadata)
            self._missing_metadata = found.no_metadata
            self._open(found)
            self._topics = self._choose_channels(found)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the bag's files."""
        for file in self._files:
            file.close()
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None

    @property
    def damage(self) -> str:
        """A sentence about the damage found so far; empty without any."""
        readable = counted(sum(self.counts.values()), 'message')
        if not self._causes:
            if not self._missing_metadata:
                return ''
            return (
                f'{self.path}: {self._missing_metadata}; its files are complete, and '
                f'{readable} can be read.'
            )
        causes = list(dict.fromkeys([*filter(None, [self._missing_metadata]), *self._causes]))
        left = len(causes) - _MAX_CAUSES
        more = f'; and {counted(left, "more error")}' if left > 0 else ''
        return (
            f'{self.path} is damaged ({"; ".join(causes[:_MAX_CAUSES])}{more}); '
            f'{readable} can be read.'
        )

    @property
    def topics(self) -> dict[str, str]:
        """The types of the readable topics."""
        return {name: topic.interface.type for name, topic in self._topics.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Number of readable messages by topic, as far as known."""
        return {
            name: sum(
                self._files[file].counts[channel] - len(self._invalid.get((file, channel), ()))
                for file, channel in topic.channels
            )
            for name, topic in self._topics.items()
        }

    @property
    def span_ns(self) -> tuple[int, int]:
        """Receive times of the first and the last message; (0, 0) for an empty bag."""
        spans = (file.span_ns for file in self._files)
        return span_of(span for span in spans if span is not None) or (0, 0)

    def parse(self, message: BagMessage) -> Any:
        """Return a deserialized message.

        Raises:
            BagError: its bytes do not match its type.
        """
        try:
            known = self._topics.get(message.topic)
            if known is not None and known.interface.type == message.type:
                typestore = known.interface.typestore
            else:
                typestore = self._definitions.require(message.type)
            return typestore.deserialize_cdr(message.data, message.type)
        except DAMAGES as error:
            raise BagError(
                f'A message on {message.topic} ({len(message.data)} bytes) is no whole '
                f'{message.type}: {reason_of(error)}'
            ) from error

    def interface_of(self, topic: str) -> Interface:
        """Return the interface of a topic."""
        return self._topics[topic].interface

    def qos_of(self, topic: str) -> list[Qos]:
        """Return the QoS profiles that a topic's publishers offered; empty if not recorded."""
        return self._topics[topic].qos

    def messages(self, topics: set[str] | None = None) -> Iterator[BagMessage]:
        """Yield the messages of some topics, or of all, in the order of receive times.

        Raises:
            BagError: the bag is damaged. With `salvage`, damaged parts are skipped.
        """
        sources = []
        for number, file in enumerate(self._files):
            wanted = {
                channel: name
                for name, topic in self._topics.items()
                for holder, channel in topic.channels
                if holder == number and (topics is None or name in topics)
            }
            if wanted and file.span_ns is not None:
                begin = partial(self._messages_of, number, wanted)
                sources.append(Source(file.span_ns[0], begin))
        yield from merged(sources)

    def _messages_of(self, number: int, topics: dict[int, str]) -> Iterator[BagMessage]:
        for entry in self._files[number].messages(topics.keys()):
            topic = topics[entry.channel]
            interface = self._topics[topic].interface
            try:
                data = _as_cdr(entry.data, interface)
            except DAMAGES as error:
                invalid = self._invalid.setdefault((number, entry.channel), set())
                if entry.stamp_ns not in invalid:
                    invalid.add(entry.stamp_ns)
                    self._report(
                        f'a message on {topic} is not a valid {interface.type}: {reason_of(error)}'
                    )
                continue
            yield BagMessage(topic, interface.type, data, entry.stamp_ns)

    def _open(self, found: BagFiles) -> None:
        for path in found.paths:
            try:
                self._files.append(open_file(path, self._report, self._folder))
            except DAMAGES as error:
                self._report(reason_of(error))
        if not found.paths:
            raise BagError(f'{self.path} contains no bag: no MCAP, SQLite or ROS 1 bag file.')
        if self._causes and not any(file.counts.total() for file in self._files):
            raise BagError(
                f'{self.path} is damaged, and none of it can be read: '
                f'{"; ".join(self._causes[:_MAX_CAUSES])}'
            )

    def _folder(self) -> Path:
        if self._unpacked is None:
            self._unpacked = TemporaryDirectory(prefix='segzero_bag_')
        return Path(self._unpacked.name)

    def _report(self, cause: str) -> None:
        if not self._salvage:
            raise BagError(f'{self.path} cannot be read as a bag: {cause}.')
        self._causes.append(cause)

    def _choose_channels(self, found: BagFiles) -> dict[str, _Topic]:
        """Return the readable topics with one type each; add warnings about the rest."""
        by_topic: dict[str, list[tuple[int, int, Channel]]] = {}
        for number, file in enumerate(self._files):
            for key, channel in file.channels.items():
                by_topic.setdefault(channel.topic, []).append((number, key, channel))
        topics = {}
        for name, channels in sorted(by_topic.items()):
            topic = self._choose_type(name, channels)
            if topic is not None:
                topic.qos = list(found.qos.get(name) or topic.qos)
                topics[name] = topic
        return topics

    def _choose_type(self, name: str, channels: list[tuple[int, int, Channel]]) -> _Topic | None:
        """Return a topic with the type of most of its messages."""
        kinds: dict[object, _Topic] = {}
        sizes: Counter[object] = Counter()
        reasons: dict[str, str] = {}
        for number, key, channel in channels:
            count = self._files[number].counts[key]
            try:
                interface = self._definitions.of_channel(channel)
            except Unreadable as error:
                reasons.setdefault(channel.type, str(error))
                sizes[channel.type] += count
                continue
            kind = interface.type, interface.layout, interface.is_ros1
            topic = kinds.setdefault(kind, _Topic(interface, list(channel.qos)))
            topic.channels.add((number, key))
            sizes[kind] += count
        chosen = max(kinds, key=lambda kind: sizes[kind], default=None)
        others = sum(count for kind, count in sizes.items() if kind != chosen)
        if others and chosen is None:
            self.unreadable[name] = next(iter(reasons.values()))
        if others:
            self.warnings.append(
                f'{name} is skipped: {self.unreadable[name]}.'
                if chosen is None
                else f'{_skipped(others, name)} another type, or another definition of it, than '
                f'the other {sizes[chosen]}.'
            )
        return kinds[chosen] if chosen is not None else None


def _skipped(count: int, topic: str) -> str:
    if count == 1:
        return f'1 message on {topic} is skipped: it has'
    return f'{count} messages on {topic} are skipped: they have'


def _as_cdr(data: bytes, interface: Interface) -> bytes:
    if interface.is_ros1:
        return bytes(interface.typestore.ros1_to_cdr(data, interface.type))
    # Message compression; CDR never starts with these bytes.
    if data[:4] == ZSTD_MAGIC:
        try:
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
        except zstandard.ZstdError as error:
            raise ValueError(error) from error
    return data
