"""What killed processes left of Fast DDS' shared memory, ROS 2's default transport on one machine.

A mutex that a killed process held, or a port that it listened on, swallows the messages of whoever
comes to that port next: nodes that see each other and hear nothing. `fastdds shm clean` removes
such files by the same signs: nobody holds their locks.
"""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
from pathlib import Path
import time

from segzero_ros.doctor.checks import Check, ok, warn

_MEMORY = Path('/dev/shm')  # noqa: S108 - where shared memory lies, nothing is written
# As Fast DDS 2 (Jazzy) and 3 (Kilted and later) begin the names of their files.
_NAMES = ('fastrtps_', 'fastdds_')
_LOCKS = ('_el', '_sl')
# Seconds within which a file's owner may not have come to locking it yet.
_YOUNG = 3.0


def look_at_shared_memory(memory: Path = _MEMORY) -> Iterator[Check]:
    """Yield whether there are such files."""
    left = abandoned(memory)
    what = 'shared memory'
    if not left:
        yield ok(what, f'nothing that killed processes left in {memory}')
        return
    said = (
        f'{len(left)} files of Fast DDS in {memory} belong to no living process; a node that '
        'comes to a port of theirs may not hear others'
    )
    yield warn(what, said, 'fastdds shm clean; then restart nodes that do not hear.')


def abandoned(memory: Path = _MEMORY) -> list[Path]:
    """Return the files, locks and mutexes of Fast DDS whose locks no living process holds.

    A port without a lock was left in peace by who listened on it, and does no harm.
    """
    left = []
    for path in (each for name in _NAMES for each in memory.glob(f'{name}*')):
        if path.name.endswith(_LOCKS) or _is_young(path):
            continue
        locks = [lock for end in _LOCKS if (lock := path.with_name(path.name + end)).exists()]
        if locks and not any(map(_is_held, locks)):
            mutex = path.with_name(f'sem.{path.name}_mutex')
            left += [path, *locks, *([mutex] if mutex.exists() else [])]
    return left


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _YOUNG
    except FileNotFoundError:
        return True


def _is_held(lock: Path) -> bool:
    """Return whether a living process holds a lock, or may: one of another user's may be shut."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False
