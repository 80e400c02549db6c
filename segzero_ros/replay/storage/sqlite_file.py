"""SQLite files of rosbag2 (`.db3`), of all schema versions, also truncated."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import closing
from pathlib import Path
import sqlite3
from typing import Any

import numpy as np

from segzero_ros.replay.storage.base import (
    Channel,
    reason_of,
    Report,
    span_of_stamps,
    StoredEntry,
)
from segzero_ros.replay.storage.names import message_type
from segzero_ros.replay.storage.qos import read_qos

MAGIC = b'SQLite format 3\0'


class SqliteFile:
    """One SQLite file, opened for each iteration, so that several may run in parallel."""

    def __init__(self, path: Path, report: Report) -> None:
        """Read topics, definitions and message rows.

        Args:
            path: the file.
            report: called with damage in it.
        """
        self._path = path
        self._report = report
        self._wal = path.with_name(f'{path.name}-wal')
        self._reads_wal = self._wal.is_file() and self._wal.stat().st_size > 0
        self.channels: dict[int, Channel] = {}
        # For each message: its row, its topic and its receive time.
        self._rows = tuple(array('q') for _ in range(3))
        self._unreadable: set[int] = set()
        with closing(self._open()) as database:
            try:
                self._read_channels(database)
                self._find_rows(database)
            except sqlite3.Error as error:
                report(f'{path.name} cannot be read completely: {reason_of(error)}')
            if self._is_truncated():
                self._remove_truncated_rows(database)
        self.counts: Counter[int] = Counter(self._rows[1])

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Receive times of the first and the last message; None without messages."""
        stamps = np.asarray(self._rows[2])
        return span_of_stamps(stamps) if stamps.size else None

    def close(self) -> None:
        """Do nothing: the database is open only during iterations."""

    def messages(self, channels: Set[int]) -> Iterator[StoredEntry]:
        """Yield the messages of some channels in the order of receive times."""
        rows, topics, stamps = self._rows
        wanted = np.flatnonzero(np.isin(np.asarray(topics), list(channels)))
        order = np.argsort(np.asarray(stamps)[wanted], kind='stable')
        with closing(self._open()) as database:
            for index in wanted[order].tolist():
                data = self._data(database, rows[index])
                if data is not None:
                    yield StoredEntry(stamps[index], topics[index], data)
                elif rows[index] not in self._unreadable:
                    self._unreadable.add(rows[index])
                    self.counts[topics[index]] -= 1

    def _data(self, database: sqlite3.Connection, row: int) -> bytes | None:
        try:
            found = database.execute('SELECT data FROM messages WHERE id = ?', (row,)).fetchone()
        except sqlite3.Error as error:
            self._report(f'a message of {self._path.name} cannot be read: {reason_of(error)}')
            return None
        data = found[0] if found else None
        return data.encode() if isinstance(data, str) else data

    def _open(self) -> sqlite3.Connection:
        # A killed recorder leaves messages in the write-ahead log; SQLite reads it if it may lock
        # the file.
        if self._reads_wal:
            try:
                return self._connect('mode=ro')
            except sqlite3.Error as error:
                self._reads_wal = False
                self._report(f'{self._wal.name} cannot be read: {reason_of(error)}')
        return self._connect('immutable=1')

    def _connect(self, how: str) -> sqlite3.Connection:
        address = f'{self._path.resolve().as_uri()}?{how}'
        # An iteration may move to another thread.
        database = sqlite3.connect(address, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode('utf-8', 'replace')
        # Otherwise SQLite rejects a truncated file.
        database.execute('PRAGMA writable_schema=ON')
        if self._reads_wal:
            # SQLite opens the file at the first statement.
            database.execute('SELECT 1 FROM sqlite_master').fetchone()
        return database

    def _read_channels(self, database: sqlite3.Connection) -> None:
        definitions = {
            row['topic_type']: (row['encoding'], row['encoded_message_definition'])
            for row in _table(database, 'message_definitions')
        }
        for row in _table(database, 'topics'):
            encoding, definition = definitions.get(row['type'], ('', ''))
            self.channels[row['id']] = Channel(
                row['name'],
                message_type(row['type']),
                row['serialization_format'],
                encoding,
                definition,
                read_qos(row.get('offered_qos_profiles', '')),
            )

    def _find_rows(self, database: sqlite3.Connection) -> None:
        columns = 'SELECT id, topic_id, timestamp FROM messages ORDER BY id'
        for values in database.execute(columns):
            if values[1] in self.channels:
                for column, value in zip(self._rows, values, strict=True):
                    column.append(value)

    def _is_truncated(self) -> bool:
        """Return whether the file is shorter than in its header."""
        with self._path.open('rb') as file:
            head = file.read(100)
        if head[24:28] != head[92:96]:
            # Written by a version without a valid number of pages.
            return False
        page = int.from_bytes(head[16:18], 'big')
        pages = int.from_bytes(head[28:32], 'big')
        # A page size of 65,536 is stored as 1.
        return self._path.stat().st_size < pages * (65_536 if page == 1 else page)

    def _remove_truncated_rows(self, database: sqlite3.Connection) -> None:
        self._report(f'{self._path.name} is truncated')
        rows = [row for row in zip(*self._rows, strict=True) if _is_readable(database, row[0])]
        self._rows = tuple(array('q', (row[at] for row in rows)) for at in range(3))


def _is_readable(database: sqlite3.Connection, row: int) -> bool:
    try:
        database.execute('SELECT data FROM messages WHERE id = ?', (row,)).fetchone()
    except sqlite3.Error:
        return False
    return True


def _table(database: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    """Return a table's rows by column names; none if the table does not exist."""
    exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    if database.execute(exists, (name,)).fetchone() is None:
        return []
    rows = database.execute(f'SELECT * FROM {name} ORDER BY id')  # noqa: S608
    columns = [column[0] for column in rows.description]
    return [dict(zip(columns, row, strict=True)) for row in rows]
