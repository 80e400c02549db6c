"""Write and read bags as serialized messages, with the schemas of this package's own types.

No ROS installation is needed, only this package's interface files.
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
from rosbags.typesys.store import Typestore
import zstandard

from segzero_ros.replay.definitions import (
    BagError,
    Definitions,
    Interface,
    layouts_of,
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
from segzero_ros.replay.storage.qos import usual_qos

__all__ = [
    'BagError',
    'BagMessage',
    'BagReader',
    'BagWriter',
    'Definitions',
    'UnknownType',
]


# Of many damages, as many are named.
_CAUSES = 3
# What comes of a definition that rosbags can read, but not write.
_BROKEN = (TypesysError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


class BagWriter:
    """A new bag (MCAP in compressed chunks, schemas embedded) for serialized messages.

    `ros2 bag` and Foxglove open it. Topics are added as they come; may be used by several threads.
    On an exception inside the `with` block the bag is left without `metadata.yaml`, so that a
    broken one never looks complete.
    """

    def __init__(self, path: Path) -> None:
        """Create the bag's folder; raise BagError if there is one already."""
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
        """Complete the bag; nothing can be written any more. Safe to call twice."""
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
        """Say what a topic carries, before its first message is written.

        Args:
            topic: its full name.
            message_type: as `sensor_msgs/msg/Image`.
            reliable: whether the publisher offers reliable delivery, and so a player should.
            interface: how another bag defines the type; empty for this installation's definition.
            qos: all that its publishers offer, where that is known; else `reliable` counts.

        Raises:
            UnknownType: there is no definition of the type.
            BagError: there is one that cannot be written.
        """
        with self._lock:
            try:
                store = interface.typestore if interface else None
                store = store or self._definitions.require(message_type)
                text = _own_text(interface, store, message_type)
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    message_type,
                    typestore=store,
                    msgdef=text,
                    rihs01=store.hash_rihs01(message_type) if text else None,
                    offered_qos_profiles=list(qos) or [usual_qos(reliable=reliable)],
                )
            except _BROKEN as error:
                raise BagError(
                    f'The definition of {message_type} cannot be written: {reason_of(error)}.'
                ) from error

    def write(self, topic: str, message: bytes, stamp_ns: int) -> None:
        """Write a message of a topic that was added.

        Args:
            topic: its full name.
            message: serialized as CDR, as ROS 2 sends it.
            stamp_ns: when it was received, nanoseconds.
        """
        with self._lock:
            self._writer.write(self._connections[topic], stamp_ns, message)

    @property
    def counts(self) -> dict[str, int]:
        """How many messages each topic holds."""
        with self._lock:
            return {
                topic: self._writer.counts[connection.id]
                for topic, connection in self._connections.items()
            }


class BagMessage(NamedTuple):
    """One message of a bag: its topic, type, CDR bytes and when it was received (ns)."""

    topic: str
    type: str
    data: bytes
    stamp_ns: int


@dataclass
class _Topic:
    """A topic that can be read: how, and where its messages are (file and channel)."""

    interface: Interface
    qos: list[Qos]
    channels: set[tuple[int, int]] = field(default_factory=set)


class BagReader:
    """Any bag of ROS 1 or ROS 2 (`.bag`, SQLite3, MCAP), as messages that ROS 2 understands.

    Attributes:
        path: the bag's file or folder.
        left_out: the topics that cannot be read, and for each why not, as the end of a sentence.
        remarks: for a person: which messages are left out.
    """

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        """Open the bag.

        Args:
            path: its file or folder.
            salvage: read what can be read of a damaged bag, and say so in `damage`.

        Raises:
            BagError: it is missing, or cannot be read.
        """
        self.path = path
        self.left_out: dict[str, str] = {}
        self.remarks: list[str] = []
        self._salvage = salvage
        self._causes: list[str] = []
        # What the files do not need: its absence costs nothing.
        self._lacking = ''
        # By file and channel, when messages came that are none of their type.
        self._lost: dict[tuple[int, int], set[int]] = {}
        self._definitions = Definitions()
        self._unpacked: TemporaryDirectory[str] | None = None
        self._files: list[StorageFile] = []
        if not path.exists():
            raise BagError(f'{path} cannot be read as a bag: there is no such file or folder.')
        try:
            found = find_files(path, self._report)
            if found.lacking and not salvage:
                self._report(found.lacking)
            self._lacking = found.lacking
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
        """What is wrong with the bag, for a person; empty while nothing is known."""
        readable = counted(sum(self.counts.values()), 'message')
        if not self._causes:
            if not self._lacking:
                return ''
            return (
                f'{self.path}: {self._lacking}; its files are whole, and {readable} can be read.'
            )
        causes = list(dict.fromkeys([*filter(None, [self._lacking]), *self._causes]))
        left = len(causes) - _CAUSES
        more = f'; and {counted(left, "time")} more' if left > 0 else ''
        return (
            f'{self.path} is damaged ({"; ".join(causes[:_CAUSES])}{more}); '
            f'{readable} can be read of it.'
        )

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic that can be read."""
        return {name: topic.interface.type for name, topic in self._topics.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many messages of each topic can be read, as far as is known now."""
        return {
            name: sum(
                self._files[file].counts[channel] - len(self._lost.get((file, channel), ()))
                for file, channel in topic.channels
            )
            for name, topic in self._topics.items()
        }

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were received; (0, 0) for an empty bag."""
        spans = (file.span_ns for file in self._files)
        return span_of(span for span in spans if span is not None) or (0, 0)

    def parse(self, message: BagMessage) -> Any:
        """Return a message with its fields.

        Raises:
            BagError: its bytes are not what its type says.
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
        """Return how the messages of a topic are read, and what its type is made of."""
        return self._topics[topic].interface

    def qos_of(self, topic: str) -> list[Qos]:
        """Return what the publishers of a topic offered, as far as the bag says."""
        return self._topics[topic].qos

    def messages(self, topics: set[str] | None = None) -> Iterator[BagMessage]:
        """Give the messages of some topics, or of all, in the order in which they came.

        Raises:
            BagError: the bag cannot be read further. With `salvage`, what can be read is given.
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
                lost = self._lost.setdefault((number, entry.channel), set())
                if entry.stamp_ns not in lost:
                    lost.add(entry.stamp_ns)
                    self._report(
                        f'a message on {topic} is no whole {interface.type}: {reason_of(error)}'
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
            raise BagError(f'{self.path} holds no bag: no file in it is MCAP, SQLite or ROS 1.')
        if self._causes and not any(file.counts.total() for file in self._files):
            raise BagError(
                f'{self.path} is damaged, and nothing in it can be read: '
                f'{"; ".join(self._causes[:_CAUSES])}'
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
        """Return the topics that can be read, each as one type; the rest is remarked on."""
        held: dict[str, list[tuple[int, int, Channel]]] = {}
        for number, file in enumerate(self._files):
            for key, channel in file.channels.items():
                held.setdefault(channel.topic, []).append((number, key, channel))
        topics = {}
        for name, channels in sorted(held.items()):
            topic = self._choose_type(name, channels)
            if topic is not None:
                topic.qos = list(found.qos.get(name) or topic.qos)
                topics[name] = topic
        return topics

    def _choose_type(self, name: str, channels: list[tuple[int, int, Channel]]) -> _Topic | None:
        """Return a topic as the type that most of its messages are of."""
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
            self.left_out[name] = next(iter(reasons.values()))
        if others:
            self.remarks.append(
                f'{name} is left out: {self.left_out[name]}.'
                if chosen is None
                else f'{_left_out(others, name)} of another type, or of another definition of it, '
                f'than the other {sizes[chosen]}.'
            )
        return kinds[chosen] if chosen is not None else None


def _left_out(count: int, topic: str) -> str:
    if count == 1:
        return f'1 message on {topic} is left out: it is'
    return f'{count} messages on {topic} are left out: they are'


def _own_text(interface: Interface | None, store: Typestore, kind: str) -> str | None:
    """Return a bag's own definition of a type that has to do with an action.

    Of all others, rosbags makes the text from what it has read.
    """
    if all('/msg/' in name for name in layouts_of(store, kind)):
        return None
    if interface is None or not interface.definition:
        raise BagError(
            f'The definition of {kind} cannot be written: that is possible for a type of an '
            'action only where the bag has it as ros2msg.'
        )
    return interface.definition


def _as_cdr(data: bytes, interface: Interface) -> bytes:
    if interface.is_ros1:
        return bytes(interface.typestore.ros1_to_cdr(data, interface.type))
    # Compressed one by one: CDR never begins so.
    if data[:4] == ZSTD_MAGIC:
        try:
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
        except zstandard.ZstdError as error:
            raise ValueError(error) from error
    return data
