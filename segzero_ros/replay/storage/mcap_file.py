"""MCAP files with or without chunks, indexes and summary, also truncated or damaged.

Records are parsed by the mcap library. Its readers are not used to find messages: they load a file
without chunk indexes completely, and skip channels that are not in the summary.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
import struct
from typing import BinaryIO

from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.stream_reader import breakup_chunk
import numpy as np
import zstandard

from segzero_ros.replay.storage.base import (
    Channel,
    counted,
    DAMAGES,
    merged,
    reason_of,
    Report,
    Source,
    span_of,
    span_of_stamps,
    StoredEntry,
)
from segzero_ros.replay.storage.names import message_type
from segzero_ros.replay.storage.qos import latched, read_qos

MAGIC = b'\x89MCAP0\r\n'
_DAMAGES = (*DAMAGES, McapError, zstandard.ZstdError)
_RECORD = struct.Struct('<BQ')
# A message record starts with channel, sequence, log time and publish time.
_MESSAGE_HEADER = 22
_INDEX_ENTRY = 16
_COMPRESSIONS = ('', 'lz4', 'zstd')


@dataclass(eq=False)
class _Chunk:
    """A chunk, and where the content of its record starts.

    Attributes:
        start_ns: time of the first message.
        end_ns: time of the last message.
        counts: number of messages by channel, from its indexes or its content.
        first_ns: time of the first message with a time above 0.
        is_read: whether the values are from its content.
    """

    offset: int
    start_ns: int
    end_ns: int
    first_ns: int
    counts: Counter[int] = field(default_factory=Counter)
    is_read: bool = False


class McapFile:
    """One MCAP file, opened for each iteration, so that several may run in parallel."""

    def __init__(self, path: Path, report: Report) -> None:
        """Scan the file's records; chunks are decompressed only if they have no indexes.

        Args:
            path: the file.
            report: called with damage in it.
        """
        self._path = path
        self._report = report
        self._schemas: dict[int, records.Schema] = {}
        self._declared: dict[int, records.Channel] = {}
        self._statistics: records.Statistics | None = None
        self._chunks: list[_Chunk] = []
        # Messages outside of chunks: receive time, offset and length of the data, channel.
        self._loose = tuple(array(kind) for kind in 'QQQH')
        with path.open('rb') as file:
            self._scan(file)
            self._read_unindexed_chunks(file)
        self.channels = {
            number: self._channel(declared) for number, declared in self._declared.items()
        }
        self.counts: Counter[int] = Counter(self._loose[3])
        for chunk in self._chunks:
            self.counts.update(chunk.counts)
        undeclared = sum(count for key, count in self.counts.items() if key not in self.channels)
        if undeclared:
            report(f'{counted(undeclared, "message")} of {path.name} without a declared channel')

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Receive times of the first and the last message; None without messages."""
        times = [(chunk.first_ns, chunk.end_ns) for chunk in self._chunks if chunk.counts]
        stamps = np.asarray(self._loose[0])
        if stamps.size:
            times.append(span_of_stamps(stamps))
        return span_of(times)

    def close(self) -> None:
        """Do nothing: files are open only during iterations."""

    def messages(self, channels: Set[int]) -> Iterator[StoredEntry]:
        """Yield the messages of some channels in the order of receive times."""
        with self._path.open('rb') as file:
            sources = [
                Source(chunk.start_ns, partial(self._entries, file, chunk, channels))
                for chunk in self._chunks
                if not channels.isdisjoint(chunk.counts)
            ]
            if len(self._loose[0]):
                sources.append(Source(0, partial(self._loose_entries, file, channels)))
            yield from merged(sources)

    def _entries(self, file: BinaryIO, chunk: _Chunk, channels: Set[int]) -> Iterator[StoredEntry]:
        before = Counter(chunk.counts)
        found = self._read_chunk(file, chunk)
        self.counts.update(chunk.counts)
        self.counts.subtract(before)
        wanted = [message for message in found if message.channel_id in channels]
        wanted.sort(key=lambda message: message.log_time)
        for message in wanted:
            yield StoredEntry(message.log_time, message.channel_id, message.data)

    def _loose_entries(self, file: BinaryIO, channels: Set[int]) -> Iterator[StoredEntry]:
        stamps, offsets, sizes, numbers = self._loose
        known = np.flatnonzero(np.isin(np.asarray(numbers), list(channels)))
        for index in known[np.argsort(np.asarray(stamps)[known], kind='stable')].tolist():
            file.seek(offsets[index])
            yield StoredEntry(stamps[index], numbers[index], file.read(sizes[index]))

    def _scan(self, file: BinaryIO) -> None:
        """Scan the records from the start to the footer, without their content."""
        size = self._path.stat().st_size
        if file.read(len(MAGIC)) != MAGIC:
            self._report(f'{self._path.name} does not start like an MCAP file')
            return
        position = len(MAGIC)
        while True:
            head = file.read(_RECORD.size) if file.seek(position) + _RECORD.size <= size else b''
            opcode, length = _RECORD.unpack(head) if head else (0, 0)
            begin = position + _RECORD.size
            if not opcode or begin + length > size:
                self._report(f'{self._path.name} is truncated or damaged at byte {position}')
                position = self._next_chunk(file, position)
                if position < 0:
                    return
                continue
            if opcode == Opcode.FOOTER:
                return
            try:
                self._index_record(file, opcode, begin, length)
            except _DAMAGES as error:
                self._report(f'a record of {self._path.name} cannot be read: {reason_of(error)}')
            position = begin + length

    def _next_chunk(self, file: BinaryIO, damaged: int) -> int:
        """Return the offset of the next chunk after a damaged record, by the summary; else -1."""
        try:
            summary = make_reader(file).get_summary() if not file.seek(0) else None
        except _DAMAGES:
            return -1
        if summary is None:
            return -1
        offsets = [index.chunk_start_offset for index in summary.chunk_indexes]
        return min((offset for offset in offsets if offset > damaged), default=-1)

    def _index_record(self, file: BinaryIO, opcode: int, begin: int, length: int) -> None:
        stream = ReadDataStream(file)
        if opcode == Opcode.MESSAGE:
            message = records.Message.read(stream, _MESSAGE_HEADER)
            values = (message.log_time, begin + _MESSAGE_HEADER, length - _MESSAGE_HEADER)
            for column, value in zip(self._loose, (*values, message.channel_id), strict=True):
                column.append(value)
        elif opcode == Opcode.CHUNK:
            start_ns, end_ns = stream.read8(), stream.read8()
            self._chunks.append(_Chunk(begin, start_ns, end_ns, start_ns))
        elif opcode == Opcode.MESSAGE_INDEX and self._chunks:
            channel, size = stream.read2(), stream.read4()
            if size:
                self._chunks[-1].counts[channel] += size // _INDEX_ENTRY
        elif opcode == Opcode.SCHEMA:
            self._declare(records.Schema.read(stream))
        elif opcode == Opcode.CHANNEL:
            self._declare(records.Channel.read(stream))
        elif opcode == Opcode.STATISTICS:
            self._statistics = records.Statistics.read(stream)

    def _declare(self, record: records.Schema | records.Channel) -> None:
        if isinstance(record, records.Schema):
            self._schemas.setdefault(record.id, record)
        else:
            self._declared.setdefault(record.id, record)

    def _read_unindexed_chunks(self, file: BinaryIO) -> None:
        """Read the chunks with missing or wrong indexes."""
        indexed = len(self._loose[0]) + sum(chunk.counts.total() for chunk in self._chunks)
        stated = self._statistics.message_count if self._statistics else indexed
        for chunk in list(self._chunks):
            known = chunk.counts and all(map(self._is_declared, chunk.counts))
            if not known or not chunk.start_ns or stated != indexed:
                self._read_chunk(file, chunk)

    def _is_declared(self, channel: int) -> bool:
        """Return whether a channel and its schema are declared outside of chunks."""
        declared = self._declared.get(channel)
        return declared is not None and declared.schema_id in (0, *self._schemas)

    def _read_chunk(self, file: BinaryIO, chunk: _Chunk) -> list[records.Message]:
        """Return a chunk's messages in file order; none for a damaged chunk."""
        try:
            file.seek(chunk.offset)
            record = records.Chunk.read(ReadDataStream(file))
            if record.compression not in _COMPRESSIONS:
                raise McapError(f'unknown compression {record.compression!r}')
            contents = breakup_chunk(record, validate_crc=True) if record.data else []
        except _DAMAGES as error:
            self._report(f'a chunk of {self._path.name} cannot be read: {reason_of(error)}')
            self._chunks.remove(chunk)
            chunk.counts.clear()
            return []
        found = []
        for entry in contents:
            if isinstance(entry, records.Message):
                found.append(entry)
            elif isinstance(entry, (records.Schema, records.Channel)):
                self._declare(entry)
        if not chunk.is_read:
            chunk.is_read = True
            chunk.counts = Counter(message.channel_id for message in found)
            stamps = [message.log_time for message in found]
            chunk.start_ns, chunk.end_ns = min(stamps, default=0), max(stamps, default=0)
            chunk.first_ns = min((stamp for stamp in stamps if stamp), default=0)
        return found

    def _channel(self, declared: records.Channel) -> Channel:
        schema = self._schemas.get(declared.schema_id)
        name, encoding, definition = '', '', ''
        if schema is not None:
            name, encoding = schema.name, schema.encoding
            definition = schema.data.decode('utf-8', 'replace')
        metadata = declared.metadata
        qos = read_qos(metadata.get('offered_qos_profiles', ''))
        if declared.message_encoding == 'ros1':
            qos = latched(metadata.get('latching', '') in ('1', 'true'))
        return Channel(
            declared.topic,
            message_type(name),
            declared.message_encoding,
            encoding,
            definition,
            qos,
        )
