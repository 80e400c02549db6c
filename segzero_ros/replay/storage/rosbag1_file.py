"""ROS 1 bags, read by rosbags; without an index by scanning the file.

Only the scan uses private names of rosbags (`rosbags.rosbag1.reader`), which the version bounds in
pyproject.toml and `test/replay/test_damaged_bags.py` protect.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from contextlib import suppress
from io import BytesIO
from pathlib import Path
import threading

from rosbags.interfaces import ConnectionExtRosbag1
from rosbags.rosbag1 import Reader
from rosbags.rosbag1 import reader as internal

from segzero_ros.replay.storage.base import (
    Channel,
    DAMAGES,
    reason_of,
    Report,
    span_of,
    StoredEntry,
)
from segzero_ros.replay.storage.qos import latched

MAGIC = b'#ROSBAG V'


class Rosbag1File:
    """One ROS 1 bag; several iterations may run in parallel."""

    def __init__(self, path: Path, report: Report) -> None:
        """Open the bag.

        Args:
            path: the file.
            report: called with damage in it.
        """
        self._path = path
        self._report = report
        # The reader caches one chunk for all iterations.
        self._lock = threading.Lock()
        self._has_index = True
        self._reader = Reader(path)
        try:
            self._reader.open()
        except DAMAGES as error:
            self._scan(error)
        self._read_channels()

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Receive times of the first and the last message; None without messages."""
        if not self.counts.total():
            return None
        return span_of([(self._reader.start_time, self._reader.end_time - 1)])

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(self, channels: Set[int]) -> Iterator[StoredEntry]:
        """Yield the messages of some channels in the order of receive times."""
        read: Counter[int] = Counter()
        for entry in self._entries(channels, 0):
            read[entry.channel] += 1
            yield entry
        if not self._has_index:
            self.counts.update({key: read[key] - self.counts[key] for key in channels})

    def _entries(self, channels: Set[int], since_ns: int) -> Iterator[StoredEntry]:
        last_ns = since_ns - 1
        connections = [entry for entry in self._reader.connections if entry.id in channels]
        if not connections:
            return
        entries = self._reader.messages(connections, start=since_ns)
        while True:
            try:
                with self._lock:
                    found = next(entries, None)
            except DAMAGES as error:
                if not self._has_index:
                    self._report(f'{self._path.name} cannot be read further: {reason_of(error)}')
                    return
                indexed = self._reader
                self._scan(error)
                indexed.close()
                self._read_channels()
                # A scan may find messages that the index does not have.
                yield from self._entries(channels, last_ns + 1)
                return
            if found is None:
                return
            connection, last_ns, data = found
            yield StoredEntry(last_ns, connection.id, bytes(data))

    def _scan(self, cause: Exception) -> None:
        self._report(f'{self._path.name}: {reason_of(cause)}')
        self._has_index = False
        self._reader = _UnindexedReader(self._path)
        self._reader.open()

    def _read_channels(self) -> None:
        self.channels: dict[int, Channel] = {}
        self.counts: Counter[int] = Counter()
        for entry in self._reader.connections:
            ext = entry.ext
            is_latched = isinstance(ext, ConnectionExtRosbag1) and bool(ext.latching)
            self.channels[entry.id] = Channel(
                entry.topic,
                entry.msgtype,
                'ros1',
                'ros1msg',
                entry.msgdef.data,
                latched(is_latched),
            )
            self.counts[entry.id] = entry.msgcount


class _UnindexedReader(Reader):
    """Reads a bag without its index, like `rosbag reindex`."""

    def open(self) -> None:
        self.bio = self.path.open('rb')
        try:
            begins = self.bio.readline()
            entries: dict[int, list[internal.IndexData]] = defaultdict(list)
            # Damage ends the scan; the messages before it are used.
            with suppress(*DAMAGES):
                while begins == b'#ROSBAG V2.0\n':
                    self._read_record(entries)
            self.indexes = {c.id: sorted(entries[c.id]) for c in self.connections}
            self.connections = [
                c._replace(msgcount=len(self.indexes[c.id])) for c in self.connections
            ]
        except BaseException:
            self.close()
            raise

    def _read_record(self, entries: dict[int, list[internal.IndexData]]) -> None:
        assert self.bio is not None
        offset = self.bio.tell()
        header = internal.Header.read(self.bio)
        if header.get_uint8('op') != internal.RecordType.CHUNK:
            internal.read_bytes(self.bio, internal.read_uint32(self.bio))
            return
        size = internal.read_uint32(self.bio)
        begins = self.bio.tell()
        unpack = internal.decompressors[header.get_string('compression')]
        raw = BytesIO(unpack(internal.read_bytes(self.bio, size)))
        counts: Counter[int] = Counter()
        stamps: list[int] = []
        with suppress(*DAMAGES):
            while raw.tell() < len(raw.getbuffer()):
                self._read_from_chunk(raw, offset, entries, counts, stamps)
        self.chunks[offset] = internal.Chunk(size, begins, unpack)
        if stamps:
            info = internal.ChunkInfo(offset, min(stamps), max(stamps) + 1, dict(counts))
            self.chunk_infos.append(info)

    def _read_from_chunk(
        self,
        raw: BytesIO,
        chunk: int,
        entries: dict[int, list[internal.IndexData]],
        counts: Counter[int],
        stamps: list[int],
    ) -> None:
        offset = raw.tell()
        header = internal.Header.read(raw)
        if header.get_uint8('op') == internal.RecordType.CONNECTION:
            raw.seek(offset)
            file, self.bio = self.bio, raw
            try:
                connection = self.read_connection()
            finally:
                self.bio = file
            if connection.id not in {known.id for known in self.connections}:
                self.connections.append(connection)
            return
        internal.read_bytes(raw, internal.read_uint32(raw))
        number, stamp_ns = header.get_uint32('conn'), header.get_time('time')
        entries[number].append(internal.IndexData(stamp_ns, chunk, offset))
        counts[number] += 1
        stamps.append(stamp_ns)
