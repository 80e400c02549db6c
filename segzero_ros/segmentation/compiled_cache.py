"""A cache on disk of compiled models, which take long to compile and little time to read.

An entry is a folder of files with their checksums. It is written under another name and then
renamed, so that a reader never sees half an entry, whoever else writes it at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import hashlib
import json
import os
from pathlib import Path
import shutil
import tempfile
import time

from segzero_ros.types import SegZeroError

_CHECKSUMS = 'checksums.json'
_UNFINISHED = '.unfinished'
# Seconds after which an unfinished entry belongs to a process that was killed.
_ABANDONED_AFTER = 3600.0
# How often an entry that cannot be read is moved out of the way.
_ATTEMPTS = 3


class CacheError(SegZeroError):
    """An entry cannot be read or written; the text names it and the reason."""


def cache_folder() -> Path:
    """Return the folder of all entries; it need not exist."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'segzero_ros' / 'openvino'


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; raise OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def entry_key(*parts: str) -> str:
    """Return the name of the entry for what it was compiled from, as 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_entry(key: str) -> dict[str, bytes] | None:
    """Return the content of an entry by file name; None if there is none.

    Raises:
        CacheError: the entry is damaged, is not one, or cannot be read.
    """
    folder = cache_folder() / key
    if not os.path.lexists(folder):
        return None
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text())
        content = {name: (folder / Path(name).name).read_bytes() for name in checksums}
    except (OSError, ValueError, TypeError) as error:
        raise CacheError(f'{folder} cannot be read ({error})') from error
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != checksums[name]:
            raise CacheError(f'{folder / name} is damaged')
    return content


def write_entry(key: str, content: Mapping[str, bytes]) -> None:
    """Write an entry, in place of one that cannot be read.

    Raises:
        CacheError: it cannot be written, for instance because the disk is full. Nothing is left.
    """
    folder = cache_folder() / key
    unfinished = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        unfinished = Path(tempfile.mkdtemp(_UNFINISHED, f'{key}.', folder.parent))
        for name, data in content.items():
            (unfinished / name).write_bytes(data)
        checksums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        (unfinished / _CHECKSUMS).write_text(json.dumps(checksums))
        _put(unfinished, folder)
    except OSError as error:
        raise CacheError(f'{folder} cannot be written ({error})') from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _put(unfinished: Path, folder: Path) -> None:
    """Rename a finished entry to its place, unless another process has put a sound one there."""
    for attempt in range(_ATTEMPTS):
        try:
            unfinished.rename(folder)
            return
        except OSError:
            # A rename does not replace a file or a folder with content.
            if attempt == _ATTEMPTS - 1 or not unfinished.is_dir():
                raise
        with suppress(CacheError):
            if read_entry(folder.name) is not None:
                return
        aside = unfinished.with_name(f'{unfinished.name}{_UNFINISHED}')
        with suppress(FileNotFoundError):
            folder.rename(aside)
            _remove(aside)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f'*{_UNFINISHED}'):
        # Another process may just have removed it.
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > _ABANDONED_AFTER:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
