"""Read what can be read of damaged bags: cut off, without metadata, without an index.

The readers of rosbags do the reading; what stands in the missing parts is found again by walking
over the file from its beginning. Imports `bag` and rosbags.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
import heapq
from io import BytesIO
from pathlib import Path
import struct
from typing import Any, NamedTuple

import apsw
from backports import zstd
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag1 import reader as rosbag1
from rosbags.rosbag2 import Reader as Rosbag2Reader
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2 import storage_mcap as mcap
from rosbags.rosbag2.metadata import parse_qos, ReaderMetadata
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from rosbags.typesys.store import Typestore

from segzero_ros.replay.bag import BagError, DAMAGES

Messages = Generator[tuple[Connection, int, bytes], None, None]
_STORAGES = ('.mcap', '.db3', '.bag', '.active')
_ZSTD = b'\x28\xb5\x2f\xfd'
_NEVER = 2**63 - 1


def open_damaged(
    path: Path, typestore: Typestore, cause: Exception, *, opens: bool = False
) -> tuple[AnyReader, str]:
    """Open what can be read of a bag.

    Args:
        path: the bag's file or folder; it exists.
        typestore: definitions for bags that hold none.
        cause: why it cannot be opened, or read, as it should.
        opens: whether it can be opened as it should; what is damaged lies deeper.

    Returns:
        An open reader, and a sentence for a person: what is wrong, and how much can be read.

    Raises:
        BagError: nothing can be read.
    """
    files = _storages(path)
    if not files:
        raise BagError(f'{path} holds no bag: {cause}') from cause
    reader = _SalvagingReader(files, typestore, opens=opens)
    try:
        reader.open()
        found = reader.message_count
    except DAMAGES as error:
        raise BagError(f'{path} cannot be read as a bag: {error}') from cause
    if not found:
        reader.close()
        raise BagError(f'{path} is damaged, and nothing in it can be read: {cause}') from cause
    return reader, (
        f'{path} is damaged ({str(cause).rstrip(".")}); {found} messages can be read of it.'
    )


def _storages(path: Path) -> list[Path]:
    """Return the bag's files; their messages are merged by time, whatever their names."""
    files = [path] if path.is_file() else path.iterdir()
    return sorted(file for file in files if file.suffix in _STORAGES)


class _SalvagingReader(AnyReader):
    """AnyReader over the files of one bag, each as well as it can be read."""

    def __init__(self, files: list[Path], typestore: Typestore, *, opens: bool) -> None:
        super().__init__(files[:1], default_typestore=typestore)
        self.is2 = files[0].suffix in ('.mcap', '.db3')
        self.readers: Any = [_open_file(file, opens=opens) for file in files]

    def messages(
        self,
        connections: Collection[Connection] = (),
        start: int | None = None,
        stop: int | None = None,
    ) -> Messages:
        """Give the messages; those compressed one by one, which only metadata tells, too."""
        for connection, stamp_ns, data in super().messages(connections, start, stop):
            packed = self.is2 and data[:4] == _ZSTD
            yield connection, stamp_ns, zstd.decompress(data) if packed else data


def _open_file(file: Path, *, opens: bool) -> Rosbag1Reader | Rosbag2Reader:
    if file.suffix in ('.bag', '.active'):
        return _DamagedRosbag1(file)
    reader = Rosbag2Reader(file)
    if opens or not _is_whole(file):
        storages: dict[str, Any] = {'.mcap': _DamagedMcap, '.db3': _DamagedSqlite}
        reader.storage = storages[file.suffix](file)
    return reader


def _is_whole(file: Path) -> bool:
    try:
        with Rosbag2Reader(file):
            return True
    except DAMAGES:
        return False


class _Span:
    """When messages were received, and how many of each connection."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.start, self.end = _NEVER, 0

    def add(self, connection: int, stamp_ns: int) -> None:
        self.counts[connection] += 1
        self.start, self.end = min(self.start, stamp_ns), max(self.end, stamp_ns + 1)

    def metadata(self) -> ReaderMetadata:
        total = sum(self.counts.values())
        duration = max(0, self.end - self.start)
        return ReaderMetadata(duration, self.start, self.end, total, None, None, None, None)


class _LooseMessage(NamedTuple):
    """A message outside of a chunk: where its bytes are in the file."""

    stamp_ns: int
    offset: int
    size: int
    connection: int


class _DamagedMcap(mcap.McapReader):
    """An MCAP file without its end, or with broken chunks: the whole ones are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._loose: list[_LooseMessage] = []
        self._span = _Span()

    def _open(self) -> None:
        assert self.bio is not None
        if self.bio.read(8) != b'\x89MCAP0\r\n':
            raise ReaderError(f'{self.path} is no MCAP file')
        for code, offset, size in self._records():
            with suppress(*DAMAGES):
                self._take(code, offset, size)
        self.connections = [
            connection._replace(msgcount=self._span.counts[connection.id])
            for connection in self.connections
        ]
        self.metadata = self._span.metadata()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Messages:
        sources: list[Iterator[tuple[Connection, int, bytes]]] = [
            self._loose_messages({entry.id: entry for entry in connections}, start or 0)
        ]
        if self.chunks:
            sources.append(super().messages(connections, start, stop))
        yield from heapq.merge(*sources, key=lambda entry: entry[1])

    def _loose_messages(
        self, wanted: dict[int, Connection], start: int
    ) -> Iterator[tuple[Connection, int, bytes]]:
        assert self.bio is not None
        for message in sorted(self._loose):
            if message.connection in wanted and message.stamp_ns >= start:
                self.bio.seek(message.offset)
                data = self.bio.read(message.size)
                yield wanted[message.connection], message.stamp_ns, data

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Give (code, where the contents begin, their size) of each whole record."""
        assert self.bio is not None
        end = Path(str(self.path)).stat().st_size
        offset = 8
        while offset + 9 <= end:
            self.bio.seek(offset)
            code, size = struct.unpack('<BQ', self.bio.read(9))
            if not 0x01 <= code <= 0x0F or offset + 9 + size > end:
                return
            yield code, offset + 9, size
            offset += 9 + size

    def _take(self, code: int, offset: int, size: int) -> None:
        assert self.bio is not None
        self.bio.seek(offset)
        if code == 0x06:
            self._take_chunk(offset, size)
        elif code in (0x03, 0x04):
            self._learn(code, self.bio.read(size))
        elif code == 0x05:
            connection, _, stamp_ns, _ = struct.unpack('<HIQQ', self.bio.read(22))
            self._loose.append(_LooseMessage(stamp_ns, offset + 22, size - 22, connection))
            self._span.add(connection, stamp_ns)

    def _learn(self, code: int, body: bytes) -> None:
        """Take in a schema or a channel, by the reader's own way with the index."""
        record = struct.pack('<BQ', code, len(body)) + body
        file, self.bio, self.data_end = self.bio, BytesIO(record + b'\x02'), 0
        try:
            self.read_index()
        finally:
            self.bio = file

    def _take_chunk(self, offset: int, size: int) -> None:
        assert self.bio is not None
        record = BytesIO(self.bio.read(size))
        start, end, unpacked, crc = struct.unpack('<QQQI', record.read(28))
        compression = mcap.read_string(record)
        (packed,) = struct.unpack('<Q', record.read(8))
        raw = mcap.decompress(mcap.read_exact(record, packed), compression, unpacked, crc)
        counts: Counter[int] = Counter()
        at = 0
        while at < len(raw):
            code, length = struct.unpack_from('<BQ', raw, at)
            if code == 0x05:
                connection, _, stamp_ns = struct.unpack_from('<HIQ', raw, at + 9)
                counts[connection] += 1
                self._span.add(connection, stamp_ns)
            elif code in (0x03, 0x04):
                self._learn(code, raw[at + 9 : at + 9 + length])
            at += 9 + length
        self.chunks.append(
            mcap.ChunkInfo(
                start, end, offset - 9, size + 9, {}, 0, compression, packed, unpacked, counts
            )
        )


class _DamagedSqlite(Sqlite3Reader):
    """An SQLite file without its end: the rows that are there are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows: list[tuple[int, int, int]] = []

    def _open(self) -> None:
        assert self.dbconn is not None
        # Otherwise SQLite refuses a file that is shorter than its header says.
        self.dbconn.execute('PRAGMA writable_schema=ON')
        span = _Span()
        for row, topic, stamp_ns in self._walk():
            self._rows.append((stamp_ns, row, topic))
            span.add(topic, stamp_ns)
        self._rows.sort()
        definitions = self._definitions()
        topics = 'SELECT id, name, type, serialization_format, offered_qos_profiles FROM topics'
        self.connections = [
            Connection(
                number,
                name,
                kind,
                definitions.get(kind, MessageDefinition(MessageDefinitionFormat.NONE, '')),
                '',
                span.counts[number],
                ConnectionExtRosbag2(serialization, parse_qos(qos)),
                self,
            )
            for number, name, kind, serialization, qos in self._read(topics)
        ]
        self.metadata = span.metadata()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Messages:
        assert self.dbconn is not None
        wanted = {entry.id: entry for entry in connections}
        for stamp_ns, row, topic in self._rows:
            if topic in wanted and stamp_ns >= (start or 0):
                # A message whose pages are missing is left out.
                with suppress(apsw.Error):
                    found = self._read('SELECT data FROM messages WHERE id = ?', (row,))
                    yield wanted[topic], stamp_ns, found[0][0]

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        """Give (id, topic, stamp) of the rows, by their numbers, until none can be read."""
        assert self.dbconn is not None
        rows = self.dbconn.execute('SELECT id, topic_id, timestamp FROM messages ORDER BY id')
        with suppress(apsw.Error):
            for row in rows:
                yield int(row[0]), int(row[1]), int(row[2])

    def _definitions(self) -> dict[str, MessageDefinition]:
        with suppress(apsw.Error):
            return {
                kind: MessageDefinition(MessageDefinitionFormat.MSG, text)
                for kind, encoding, text in self._read(
                    'SELECT topic_type, encoding, encoded_message_definition '
                    'FROM message_definitions'
                )
                if encoding == 'ros2msg'
            }
        return {}

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        assert self.dbconn is not None
        return list(self.dbconn.execute(query, values))


class _DamagedRosbag1(Rosbag1Reader):
    """A bag of ROS 1 without its index, as `rosbag reindex` would make it whole."""

    def open(self) -> None:
        self.bio = self.path.open('rb')
        try:
            begins = self.bio.readline()
            entries: dict[int, list[rosbag1.IndexData]] = defaultdict(list)
            # Every damage ends the walk: what was found until there is kept.
            with suppress(*DAMAGES):
                while begins == b'#ROSBAG V2.0\n':
                    self._take_record(entries)
            self.indexes = {c.id: sorted(entries[c.id]) for c in self.connections}
            self.connections = [
                c._replace(msgcount=len(self.indexes[c.id])) for c in self.connections
            ]
        except BaseException:
            self.close()
            raise

    def _take_record(self, entries: dict[int, list[rosbag1.IndexData]]) -> None:
        assert self.bio is not None
        offset = self.bio.tell()
        header = rosbag1.Header.read(self.bio)
        if header.get_uint8('op') != rosbag1.RecordType.CHUNK:
            rosbag1.read_bytes(self.bio, rosbag1.read_uint32(self.bio))
            return
        size = rosbag1.read_uint32(self.bio)
        begins = self.bio.tell()
        unpack = rosbag1.decompressors[header.get_string('compression')]
        raw = BytesIO(unpack(rosbag1.read_bytes(self.bio, size)))
        span = _Span()
        with suppress(*DAMAGES):
            while raw.tell() < len(raw.getbuffer()):
                self._take_from_chunk(raw, offset, entries, span)
        self.chunks[offset] = rosbag1.Chunk(size, begins, unpack)
        if span.counts:
            info = rosbag1.ChunkInfo(offset, span.start, span.end, dict(span.counts))
            self.chunk_infos.append(info)

    def _take_from_chunk(
        self,
        raw: BytesIO,
        chunk: int,
        entries: dict[int, list[rosbag1.IndexData]],
        span: _Span,
    ) -> None:
        offset = raw.tell()
        header = rosbag1.Header.read(raw)
        if header.get_uint8('op') == rosbag1.RecordType.CONNECTION:
            raw.seek(offset)
            file, self.bio = self.bio, raw
            try:
                connection = self.read_connection()
            finally:
                self.bio = file
            if connection.id not in {known.id for known in self.connections}:
                self.connections.append(connection)
            return
        rosbag1.read_bytes(raw, rosbag1.read_uint32(raw))
        number, stamp_ns = header.get_uint32('conn'), header.get_time('time')
        entries[number].append(rosbag1.IndexData(stamp_ns, chunk, offset))
        span.add(number, stamp_ns)
