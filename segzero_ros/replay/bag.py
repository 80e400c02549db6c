"""Write and read bags as serialized messages, with the schemas of this package's own types.

Imports `types` and rosbags; no ROS installation is needed, only this package's interface files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
import os
from pathlib import Path
import struct
import threading
from types import TracebackType
from typing import Any, NamedTuple

import apsw
from backports import zstd
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinitionFormat,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    ReaderError,
    StoragePlugin,
    Writer,
    WriterError,
)
from rosbags.serde import SerdeError
from rosbags.typesys import get_types_from_msg, get_typestore, Stores, TypesysError
from rosbags.typesys.store import Typestore

from segzero_ros.types import SegZeroError

# What rosbags and the libraries below it raise over bytes that are not what they should be.
DAMAGES = (
    AnyReaderError,
    Rosbag1Error,
    ReaderError,
    SerdeError,
    TypesysError,
    apsw.Error,
    zstd.ZstdError,
    struct.error,
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_FOREVER = QosTime(9223372036, 854775807)


class BagError(SegZeroError):
    """A bag cannot be written or read; the text names the cause and the cure."""


class UnknownType(BagError):
    """There is no definition of a message type."""

    def __init__(self, name: str, looked_in: list[Path]) -> None:
        places = ', '.join(str(path) for path in looked_in)
        super().__init__(
            f'There is no definition of {name}: looked in {places}. '
            'Source the installation that holds it (AMENT_PREFIX_PATH).'
        )


class Definitions:
    """Message definitions: Jazzy's own, and whatever interface files are installed."""

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.ROS2_JAZZY)

    def require(self, name: str) -> Typestore:
        """Return the typestore after making sure that it holds a type and all that it is made of.

        Args:
            name: as `segzero_ros/msg/SegmentationResult`.

        Raises:
            UnknownType: no interface file of that name is installed.
        """
        if name in self.typestore.fielddefs:
            return self.typestore
        types = get_types_from_msg(_interface_file(name).read_text(), name)
        for _, fields in types.values():
            for _, (kind, what) in fields:
                inner = what[0] if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (kind, what)
                if inner[0] == Nodetype.NAME:
                    self.require(str(inner[1]))
        self.typestore.register(types)
        return self.typestore


def _interface_file(name: str) -> Path:
    package, _, message = name.split('/')
    sourced = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    folders = [Path(prefix, 'share', package, 'msg') for prefix in sourced if prefix]
    if package == 'segzero_ros':
        # Beside this package's modules: in a checkout, and in an installation that nobody sourced.
        here = Path(__file__).parent.parent.parent
        folders.append(here / 'msg')
        folders += [prefix / 'share' / package / 'msg' for prefix in here.parents]
    for folder in folders:
        path = folder / f'{message}.msg'
        if path.is_file():
            return path
    raise UnknownType(name, folders)


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
        typestore: Typestore | None = None,
        qos: Sequence[Qos] = (),
    ) -> None:
        """Say what a topic carries, before its first message is written.

        Args:
            topic: its full name.
            message_type: as `sensor_msgs/msg/Image`.
            reliable: whether the publisher offers reliable delivery, and so a player should.
            typestore: where the type is defined, if not by this installation's interface files.
            qos: all that its publishers offer, where that is known; else `reliable` counts.

        Raises:
            UnknownType: there is no definition of the type.
        """
        with self._lock:
            try:
                typestore = typestore or self._definitions.require(message_type)
            except TypesysError as error:
                raise BagError(f'The definition of {message_type} is broken: {error}') from error
            self._connections[topic] = self._writer.add_connection(
                topic,
                message_type,
                typestore=typestore,
                offered_qos_profiles=list(qos) or [_qos(reliable=reliable)],
            )

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


def _qos(*, reliable: bool, lasting: bool = False) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if lasting else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


class BagMessage(NamedTuple):
    """One message of a bag: its topic, type, CDR bytes and when it was received (ns)."""

    topic: str
    type: str
    data: bytes
    stamp_ns: int


class BagReader:
    """Any bag of ROS 1 or ROS 2 (`.bag`, SQLite3, MCAP), as messages that ROS 2 understands.

    Attributes:
        path: the bag's file or folder.
        damage: what is wrong with the bag, for a person; empty while nothing is known.
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
        self.damage = ''
        self._salvage = salvage
        self._definitions = Definitions()
        try:
            self._reader = AnyReader([path], default_typestore=self._definitions.typestore)
            self._reader.open()
        except DAMAGES as error:
            if not salvage or not path.exists():
                raise BagError(f'{path} cannot be read as a bag: {error}') from error
            self._reader = self._open_damaged(error)

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    @property
    def counts(self) -> dict[str, int]:
        """How many messages each topic holds."""
        counts: Counter[str] = Counter()
        for connection in self._reader.connections:
            counts[connection.topic] += connection.msgcount
        return dict(counts)

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were received; (0, 0) for an empty bag."""
        if not self._reader.message_count:
            return 0, 0
        return self._reader.start_time, self._reader.end_time - 1

    def parse(self, message: BagMessage) -> Any:
        """Return a message with its fields.

        Raises:
            BagError: its bytes are not what its type says.
        """
        try:
            typestore = self._definitions.require(message.type)
            return typestore.deserialize_cdr(message.data, message.type)
        except DAMAGES as error:
            raise BagError(
                f'A message on {message.topic} ({len(message.data)} bytes) is no whole '
                f'{message.type}: {error}'
            ) from error

    def typestore_of(self, topic: str) -> Typestore:
        """Return where the type of a topic is defined: in the bag itself, or else here.

        Raises:
            UnknownType: in neither.
        """
        connection = self._connection(topic)
        embedded = connection.msgdef.format is not MessageDefinitionFormat.NONE
        if self._reader.is2 and embedded:
            return self._reader.typestore
        return self._definitions.require(connection.msgtype)

    def qos_of(self, topic: str) -> list[Qos]:
        """Return what the publishers of a topic offered, as far as the bag says."""
        extension = self._connection(topic).ext
        if isinstance(extension, ConnectionExtRosbag2):
            return extension.offered_qos_profiles
        return [_qos(reliable=True, lasting=bool(extension.latching))]

    def _connection(self, topic: str) -> Connection:
        return next(entry for entry in self._reader.connections if entry.topic == topic)

    def messages(self, topics: set[str] | None = None) -> Iterator[BagMessage]:
        """Give the messages of some topics, or of all, in the order in which they came.

        Raises:
            BagError: the bag cannot be read further. With `salvage`, what can be read is given.
        """
        connections = [
            connection
            for connection in self._reader.connections
            if topics is None or connection.topic in topics
        ]
        if not connections:
            return
        last_ns = -1
        try:
            for connection, last_ns, data in self._reader.messages(connections):
                yield self._message(connection, last_ns, data)
        except DAMAGES as error:
            if not self._salvage:
                raise BagError(f'{self.path} cannot be read further: {error}') from error
            yield from self._messages_behind_damage(topics, last_ns, error)

    def _message(self, connection: Connection, stamp_ns: int, data: bytes) -> BagMessage:
        return BagMessage(
            connection.topic, connection.msgtype, self._as_cdr(connection, data), stamp_ns
        )

    def _open_damaged(self, cause: Exception, *, opens: bool = False) -> AnyReader:
        from segzero_ros.replay.salvage import open_damaged

        reader, self.damage = open_damaged(
            self.path, self._definitions.typestore, cause, opens=opens
        )
        return reader

    def _messages_behind_damage(
        self, topics: set[str] | None, last_ns: int, cause: Exception
    ) -> Iterator[BagMessage]:
        """Go on after the last message that could be read, with what can be found behind it."""
        if self.damage:
            return
        whole = self._reader
        self._reader = self._open_damaged(cause, opens=True)
        whole.close()
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if wanted:
            for connection, stamp_ns, data in self._reader.messages(wanted, start=last_ns + 1):
                yield self._message(connection, stamp_ns, data)

    def _as_cdr(self, connection: Connection, data: bytes) -> bytes:
        if self._reader.is2:
            return bytes(data)
        typestore = self._definitions.require(connection.msgtype)
        return bytes(typestore.ros1_to_cdr(data, connection.msgtype))
