"""Check for files of killed processes in Fast DDS shared memory, ROS 2's local transport.

A mutex held by a killed process, or a port it listened on, drops the messages of the next
participant on that port: nodes discover each other but receive nothing. `fastdds shm clean`
removes such files by the same criterion: no process holds their locks.
"""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
from pathlib import Path
import time

from segzero_ros.doctor.checks import Check, ok, warn

_MEMORY = Path('/dev/shm')  # noqa: S108 - shared memory, which is only read
# File name prefixes of Fast DDS 2 (Jazzy) and 3 (Kilted and later).
_PREFIXES = ('fastrtps_', 'fastdds_')
_LOCK_SUFFIXES = ('_el', '_sl')
# Seconds after creation within which a file may not be locked yet.
_MIN_AGE = 3.0


def check_shared_memory(memory: Path = _MEMORY) -> Iterator[Check]:
    """Yield a warning if there are such files."""
    files = abandoned(memory)
    name = 'shared memory'
    if not files:
        yield ok(name, f'no files of killed processes in {memory}')
        return
    message = (
        f'{len(files)} files of Fast DDS in {memory} belong to no running process; a node that '
        'uses one of their ports may not receive messages'
    )
    yield warn(name, message, 'fastdds shm clean; then restart nodes that receive nothing.')


def abandoned(memory: Path = _MEMORY) -> list[Path]:
    """Return the files, locks and mutexes of Fast DDS whose locks no running process holds.

    A port without a lock file was closed properly and is harmless.
    """
    files = []
    for path in (path for prefix in _PREFIXES for path in memory.glob(f'{prefix}*')):
        if path.name.endswith(_LOCK_SUFFIXES) or _is_new(path):
            continue
        locks = [path.with_name(path.name + suffix) for suffix in _LOCK_SUFFIXES]
        locks = [lock for lock in locks if lock.exists()]
        if locks and not any(map(_is_held, locks)):
            mutex = path.with_name(f'sem.{path.name}_mutex')
            files += [path, *locks, *([mutex] if mutex.exists() else [])]
    return files


def _is_new(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _MIN_AGE
    except FileNotFoundError:
        return True


def _is_held(lock: Path) -> bool:
    """Return whether a running process holds a lock; True if another user's lock is unreadable."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False
