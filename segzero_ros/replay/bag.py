"""Write and read bags as serialized messages, with the schemas of this package's own types.

Imports `types` and rosbags; no ROS installation is needed, only this package's interface files.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import threading
from types import TracebackType
from typing import NamedTuple

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Connection,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import get_types_from_msg, get_typestore, Stores, TypesysError
from rosbags.typesys.store import Typestore

from segzero_ros.types import SegZeroError

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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._writer.__exit__(kind, error, trace)

    def add_topic(self, topic: str, message_type: str, *, reliable: bool = True) -> None:
        """Say what a topic carries, before its first message is written.

        Args:
            topic: its full name.
            message_type: as `sensor_msgs/msg/Image`.
            reliable: whether the publisher offers reliable delivery, and so a player should.

        Raises:
            UnknownType: there is no definition of the type.
        """
        with self._lock:
            try:
                typestore = self._definitions.require(message_type)
            except TypesysError as error:
                raise BagError(f'The definition of {message_type} is broken: {error}') from error
            self._connections[topic] = self._writer.add_connection(
                topic,
                message_type,
                typestore=typestore,
                offered_qos_profiles=[_qos(reliable=reliable)],
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


def _qos(*, reliable: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.VOLATILE,
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
    """Any bag of ROS 1 or ROS 2 (`.bag`, SQLite3, MCAP), as messages that ROS 2 understands."""

    def __init__(self, path: Path) -> None:
        """Open the bag; raise BagError when it is missing or cannot be read."""
        self.path = path
        self._definitions = Definitions()
        try:
            self._reader = AnyReader([path], default_typestore=self._definitions.typestore)
            self._reader.open()
        except (AnyReaderError, OSError) as error:
            raise BagError(f'{path} cannot be read as a bag: {error}') from error

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

    def messages(self, topics: set[str] | None = None) -> Iterator[BagMessage]:
        """Give the messages of some topics, or of all, in the order in which they came."""
        connections = [
            connection
            for connection in self._reader.connections
            if topics is None or connection.topic in topics
        ]
        if not connections:
            return
        try:
            for connection, stamp_ns, data in self._reader.messages(connections):
                yield BagMessage(
                    connection.topic, connection.msgtype, self._as_cdr(connection, data), stamp_ns
                )
        except AnyReaderError as error:
            raise BagError(f'{self.path} cannot be read further: {error}') from error

    def _as_cdr(self, connection: Connection, data: bytes) -> bytes:
        if self._reader.is2:
            return bytes(data)
        typestore = self._definitions.require(connection.msgtype)
        return bytes(typestore.ros1_to_cdr(data, connection.msgtype))
