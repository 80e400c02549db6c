"""Fetch files from the Hugging Face hub: room on the disk first, then how far it is.

Checkpoints and data sets come through `fetch`. How far a download is, is logged in a few lines,
or goes to whoever registered with `reporting` (a terminal); `progress` returns it at any time, for
the node's `status`. huggingface_hub is imported only where something is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import errno
import logging
from pathlib import Path
import shutil
import threading
import time
from typing import Any

from segzero_ros.types import SegZeroError

# A line is logged at each further tenth, and when there was none for so many seconds.
_STEP = 10
_SILENCE = 60.0
# How often a registered reporter is called, in seconds.
_PERIOD = 0.2
# What a file system needs beside the files themselves, in bytes.
_SPARE = 100_000_000
_GB = 1e9

_logger = logging.getLogger(__name__)


class DownloadError(SegZeroError):
    """Files of the hub cannot be fetched; the text names the cause and the cure."""


class DiskFull(DownloadError):
    """There is no room for them."""


class BrokenOff(DownloadError):
    """The connection broke while they came."""


@dataclass(frozen=True)
class Progress:
    """How far a download is.

    Attributes:
        name: what is fetched, as on the hub.
        done: bytes that are here.
        total: bytes of all of it.
        left_s: seconds that it will take; None while that is not known.
    """

    name: str
    done: int
    total: int
    left_s: float | None = None

    @property
    def percent(self) -> int:
        """How much of it is here, from 0 to 100."""
        return min(100, 100 * self.done // max(self.total, 1))

    def __str__(self) -> str:
        line = f'Downloading {self.name}: {self.percent}% of {_size(self.total)}'
        return line if self.left_s is None else f'{line}, {_duration(self.left_s)} left'


Report = Callable[[Progress], None]

_lock = threading.Lock()
_reporters: list[Report] = []
_progress: Progress | None = None


def progress() -> Progress | None:
    """Return how far the download is that is going on in this process; None when there is none."""
    return _progress


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Have a function called with the progress of downloads, several times a second.

    It is called in the thread that downloads, and takes the place of the log's lines.
    """
    with _lock:
        _reporters.append(report)
    try:
        yield
    finally:
        with _lock:
            _reporters.remove(report)


def fetch(
    repository: str, patterns: Sequence[str], *, repo_type: str = 'model', file: str = ''
) -> Path:
    """Fetch a repository's files that are not on this machine yet.

    What is complete is kept when a download breaks off, so the next one fetches the rest only.

    Args:
        repository: `owner/name`.
        patterns: which of its files, as in a shell; unused where `file` is given.
        repo_type: `model` or `dataset`.
        file: the only file that is wanted.

    Returns:
        The folder with the files, or the path of `file`.

    Raises:
        DiskFull: the folder that they go to has too little room.
        DownloadError: the hub cannot be reached, does not have them, or the connection broke.
    """
    name = f'{file} of {repository}' if file else repository
    track = _Track(name)
    try:
        wanted = _plan(repository, patterns, repo_type, file)
        absent = [found for found in wanted if found.will_download]
        absent.sort(key=lambda found: str(found.filename))
        track.total = sum(found.file_size or 0 for found in wanted)
        track.complete = track.total - sum(found.file_size or 0 for found in absent)
        _refuse_if_too_large(name, track.total - track.complete)
        if absent:
            track.begin()
            _download(repository, absent, repo_type, track)
        return _found(repository, patterns, repo_type, file)
    except DownloadError:
        raise
    except Exception as error:
        # The hub's client lets errors of several HTTP libraries through.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _refuse_if_too_large(name, track.total - track.complete + _SPARE)
        if track.total:
            raise BrokenOff(
                f'The download of {name} broke off after {_size(track.done)} of '
                f'{_size(track.total)} ({_cause(error)}). Files that are complete are kept: try '
                'again, and the rest is fetched.'
            ) from error
        raise DownloadError(_reason(name, error)) from error
    finally:
        _forget()


def _found(repository: str, patterns: Sequence[str], repo_type: str, file: str) -> Path:
    """Return where what is here now is; notes its revision, so that it is found offline."""
    from huggingface_hub import hf_hub_download, snapshot_download

    if file:
        return Path(hf_hub_download(repository, file, repo_type=repo_type))
    return Path(
        snapshot_download(
            repository,
            repo_type=repo_type,
            allow_patterns=list(patterns),
            tqdm_class=_bar(_ignore),
        )
    )


def _forget() -> None:
    global _progress
    _progress = None


def cache_folder() -> Path:
    """Return the folder that the hub's files are kept in; it need not be there yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def free_space() -> int:
    """Return how many bytes are free where the hub's files are kept."""
    folder = cache_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


class _Track:
    """Counts what is fetched, and reports it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.total = self.complete = self._part = 0
        self._began_with = 0
        self._began = time.monotonic()
        self._logged, self._logged_at = -_STEP, 0.0
        self._reported, self._reported_at = -1, 0.0

    @property
    def done(self) -> int:
        """How many bytes are here."""
        return self.complete + self._part

    def begin(self) -> None:
        """Begin to count the time."""
        self._began, self._began_with = time.monotonic(), self.done
        self._report()

    def take(self, count: int) -> None:
        """Take note of how many bytes of the file that is fetched now are here."""
        self._part = count
        self._report()

    def finish(self, size: int) -> None:
        """Take note that a file is complete."""
        self.complete += size
        self._part = 0
        self._report()

    def _report(self) -> None:
        """Make known how far it is, if it is time to."""
        global _progress
        now = time.monotonic()
        if self.done == self._reported:
            return
        self._reported = self.done
        fetched, seconds = self.done - self._began_with, now - self._began
        # A few small files tell nothing of the speed.
        known = 100 * fetched > self.total - self._began_with
        left = (self.total - self.done) * seconds / fetched if known else None
        _progress = reached = Progress(self._name, self.done, self.total, left)
        with _lock:
            reporter = _reporters[-1] if _reporters else None
        if reporter is not None:
            if self.done >= self.total or now - self._reported_at >= _PERIOD:
                self._reported_at = now
                reporter(reached)
        elif reached.percent >= self._logged + _STEP or now - self._logged_at >= _SILENCE:
            self._logged, self._logged_at = reached.percent // _STEP * _STEP, now
            _logger.warning('%s', reached)


def _bar(take: Callable[[int], None]) -> type[Any]:
    """Return a class of the hub's progress bars that shows nothing.

    The client makes one for what is received and one for what is on the disk, or one for both:
    they count the same bytes, and `take` is called with the highest count.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: list[Any] = []

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, name: str = '', **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, 'disable': True})
            self.count = int(kwargs.get('initial') or 0)
            bars.append(self)

        def update(self, n: float | None = 1) -> None:
            self.count += int(n or 0)
            take(max(bar.count for bar in bars))

    return Bar


def _ignore(_: int) -> None:
    """Leave it at that."""


def _plan(repository: str, patterns: Sequence[str], repo_type: str, file: str) -> list[Any]:
    """Return what is wanted, each with its size and whether it is here: `DryRunFileInfo`."""
    from huggingface_hub import hf_hub_download, snapshot_download

    if file:
        return [hf_hub_download(repository, file, repo_type=repo_type, dry_run=True)]
    return snapshot_download(
        repository,
        repo_type=repo_type,
        allow_patterns=list(patterns),
        tqdm_class=_bar(_ignore),
        dry_run=True,
    )


def _download(repository: str, files: list[Any], repo_type: str, track: _Track) -> None:
    """Fetch those files that are not here."""
    from huggingface_hub import hf_hub_download

    for found in files:
        hf_hub_download(
            repository,
            found.filename,
            repo_type=repo_type,
            revision=found.commit_hash,
            tqdm_class=_bar(track.take),
        )
        track.finish(found.file_size or 0)


def _refuse_if_too_large(name: str, size: int) -> None:
    """Raise DiskFull when there is no room for so many bytes."""
    if not size:
        return
    missing = size + _SPARE - free_space()
    if missing > 0:
        raise DiskFull(
            f'{name} takes {_size(size)} more in {cache_folder()}, and {_size(missing)} of that '
            'are missing on its disk: free them, or set HF_HOME to a folder on a larger disk.'
        )


def _reason(name: str, error: Exception) -> str:
    """Say why a download does not begin, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kinds = [type(each) for each in _chain(error)]
    if OfflineModeIsEnabled in kinds:
        return f'{name} cannot be fetched, since HF_HUB_OFFLINE is set: unset it on a network.'
    if GatedRepoError in kinds:
        return f'{name} wants its terms accepted: do so on the hub, and log in with hf auth login.'
    if {RepositoryNotFoundError, RevisionNotFoundError} & set(kinds):
        return (
            f'The hub ({constants.ENDPOINT}) has no {name}, or keeps it private: put the name '
            'right, or log in with hf auth login.'
        )
    return (
        f'The hub ({constants.ENDPOINT}) cannot be asked for {name} ({_cause(error)}): is there '
        'network?'
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _cause(error: BaseException) -> str:
    """Return an error's first cause in a line."""
    *_, cause = _chain(error)
    text = str(cause).strip().partition('\n')[0].rstrip('.')
    return f'{type(cause).__name__}: {text}' if text else type(cause).__name__


def _size(count: float) -> str:
    return f'{count / _GB:.1f} GB' if count >= _GB / 10 else f'{count / 1e6:.1f} MB'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60} min'
