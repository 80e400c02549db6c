"""Download files from the Hugging Face hub, with a disk space check and progress reports.

Checkpoints and datasets are downloaded with `fetch`. Progress is logged, or passed to a callback
registered with `reporting` (for a terminal); `progress` returns the current state, for the node's
`status`. huggingface_hub is imported only for a download.
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

# Progress is logged every 10 percent, and at least every 60 seconds.
_LOG_STEP = 10
_LOG_PERIOD = 60.0
# Interval of calls of a registered callback, in seconds.
_REPORT_PERIOD = 0.2
# Disk space that must stay free, in bytes.
_MIN_FREE = 100_000_000
_GB = 1e9

_logger = logging.getLogger(__name__)


class DownloadError(SegZeroError):
    """Files cannot be downloaded; the text gives the reason and a hint."""


class DiskFull(DownloadError):
    """There is not enough disk space."""


class Gated(DownloadError):
    """The files are given only to those who asked for them on the hub."""


class BrokenOff(DownloadError):
    """The connection was lost during a download."""


class NoSuchName(SegZeroError):
    """A text that cannot be a repository's name."""


@dataclass(frozen=True)
class Progress:
    """Progress of a download.

    Attributes:
        name: of the repository or file, as on the hub.
        done: downloaded bytes.
        total: total bytes.
        left_s: estimated remaining seconds; None while unknown.
    """

    name: str
    done: int
    total: int
    left_s: float | None = None

    @property
    def percent(self) -> int:
        """Progress in percent, 0 to 100."""
        return min(100, 100 * self.done // max(self.total, 1))

    def __str__(self) -> str:
        line = f'Downloading {self.name}: {self.percent}% of {_size(self.total)}'
        return line if self.left_s is None else f'{line}, {_duration(self.left_s)} left'


Report = Callable[[Progress], None]

_lock = threading.Lock()
_reporters: list[Report] = []
_progress: Progress | None = None


def progress() -> Progress | None:
    """Return the progress of this process's current download; None if there is none."""
    return _progress


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Call a function with the progress of downloads, several times per second.

    It is called in the downloading thread, and replaces the log messages.
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
    """Download a repository's files that are not cached yet.

    Complete files are kept when a download fails, so the next one downloads only the rest.

    Args:
        repository: `owner/name`.
        patterns: shell patterns of its files; unused if `file` is given.
        repo_type: `model` or `dataset`.
        file: a single file.

    Returns:
        The folder with the files, or the path of `file`.

    Raises:
        DiskFull: there is not enough disk space.
        Gated: access has to be asked for.
        DownloadError: the hub cannot be reached, does not have the files, or the connection was
            lost.
    """
    name = f'{file} of {repository}' if file else repository
    tracker = _ProgressTracker(name)
    try:
        files = _plan(repository, patterns, repo_type, file)
        missing = [info for info in files if info.will_download]
        missing.sort(key=lambda info: str(info.filename))
        tracker.total = sum(info.file_size or 0 for info in files)
        tracker.complete = tracker.total - sum(info.file_size or 0 for info in missing)
        _check_disk_space(name, tracker.total - tracker.complete)
        if missing:
            tracker.begin()
            _download(repository, missing, repo_type, tracker)
        return _recorded(repository, patterns, repo_type, file)
    except DownloadError:
        raise
    except Exception as error:
        # huggingface_hub raises errors of several HTTP libraries.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _check_disk_space(name, tracker.total - tracker.complete + _MIN_FREE)
        if _is_gated(error):
            raise Gated(_reason(name, error)) from error
        if tracker.total:
            raise BrokenOff(
                f'The download of {name} was interrupted after {_size(tracker.done)} of '
                f'{_size(tracker.total)} ({_cause(error)}). Complete files are kept: try again to '
                'download the rest.'
            ) from error
        raise DownloadError(_reason(name, error)) from error
    finally:
        _clear_progress()


def cached(
    repository: str, patterns: Sequence[str], *, repo_type: str = 'model', file: str = ''
) -> Path | None:
    """Return a repository's files in the cache, without network; None if there are none.

    The folder of an interrupted download is incomplete.

    Args:
        repository: `owner/name`.
        patterns: as for `fetch`.
        repo_type: `model` or `dataset`.
        file: a single file.

    Raises:
        NoSuchName: `repository` cannot be a name on the hub; the text says why.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if file:
            return Path(
                hf_hub_download(repository, file, repo_type=repo_type, local_files_only=True)
            )
        return Path(
            snapshot_download(
                repository,
                repo_type=repo_type,
                allow_patterns=list(patterns),
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise NoSuchName(str(error)) from error


def _recorded(repository: str, patterns: Sequence[str], repo_type: str, file: str) -> Path:
    """Return the path in the cache; records the revision, so that it is found offline."""
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


def _clear_progress() -> None:
    global _progress
    _progress = None


def cache_folder() -> Path:
    """Return huggingface_hub's cache folder; it may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def free_space() -> int:
    """Return the free bytes on the cache folder's disk."""
    folder = cache_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


class _ProgressTracker:
    """Counts downloaded bytes and reports the progress."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.total = self.complete = self._part = 0
        self._done_at_start = 0
        self._start = time.monotonic()
        self._logged, self._logged_at = -_LOG_STEP, 0.0
        self._reported, self._reported_at = -1, 0.0

    @property
    def done(self) -> int:
        """Number of downloaded bytes."""
        return self.complete + self._part

    def begin(self) -> None:
        """Start measuring the speed."""
        self._start, self._done_at_start = time.monotonic(), self.done
        self._report()

    def update(self, count: int) -> None:
        """Set the number of downloaded bytes of the current file."""
        self._part = count
        self._report()

    def finish(self, size: int) -> None:
        """Add a complete file of this size, in bytes."""
        self.complete += size
        self._part = 0
        self._report()

    def _report(self) -> None:
        """Report the progress, if it is due."""
        global _progress
        now = time.monotonic()
        if self.done == self._reported:
            return
        self._reported = self.done
        downloaded, seconds = self.done - self._done_at_start, now - self._start
        # The speed is not estimated from a few small files.
        known = 100 * downloaded > self.total - self._done_at_start
        left = (self.total - self.done) * seconds / downloaded if known else None
        _progress = current = Progress(self._name, self.done, self.total, left)
        with _lock:
            reporter = _reporters[-1] if _reporters else None
        if reporter is not None:
            if self.done >= self.total or now - self._reported_at >= _REPORT_PERIOD:
                self._reported_at = now
                reporter(current)
        elif current.percent >= self._logged + _LOG_STEP or now - self._logged_at >= _LOG_PERIOD:
            self._logged, self._logged_at = current.percent // _LOG_STEP * _LOG_STEP, now
            _logger.warning('%s', current)


def _bar(on_count: Callable[[int], None]) -> type[Any]:
    """Return a tqdm class for huggingface_hub that displays nothing.

    huggingface_hub creates one bar for received bytes and one for bytes on disk, or one for both.
    They count the same bytes, and `on_count` is called with the highest count.
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
            on_count(max(bar.count for bar in bars))

    return Bar


def _ignore(_: int) -> None:
    """Do nothing."""


def _plan(repository: str, patterns: Sequence[str], repo_type: str, file: str) -> list[Any]:
    """Return the files as `DryRunFileInfo`: their size, and whether they must be downloaded."""
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


def _download(
    repository: str, files: list[Any], repo_type: str, tracker: _ProgressTracker
) -> None:
    from huggingface_hub import hf_hub_download

    for info in files:
        hf_hub_download(
            repository,
            info.filename,
            repo_type=repo_type,
            revision=info.commit_hash,
            tqdm_class=_bar(tracker.update),
        )
        tracker.finish(info.file_size or 0)


def _check_disk_space(name: str, size: int) -> None:
    """Raise DiskFull if there is not enough space for this number of bytes."""
    if not size:
        return
    missing = size + _MIN_FREE - free_space()
    if missing > 0:
        raise DiskFull(
            f'{name} takes {_size(size)} more in {cache_folder()}, and {_size(missing)} are '
            'missing on its disk: free them, or set HF_HOME to a folder on a larger disk.'
        )


def _reason(name: str, error: Exception) -> str:
    """Return why a download did not start, with a hint."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kinds = [type(each) for each in _chain(error)]
    if OfflineModeIsEnabled in kinds:
        return f'{name} cannot be downloaded, because HF_HUB_OFFLINE is set: unset it.'
    if GatedRepoError in kinds:
        return (
            f'{name} requires accepting its terms: do so on the hub, and log in with '
            'hf auth login.'
        )
    if {RepositoryNotFoundError, RevisionNotFoundError} & set(kinds):
        return (
            f'The hub ({constants.ENDPOINT}) has no {name}, or it is private: correct the name, '
            'or log in with hf auth login.'
        )
    return (
        f'{name} cannot be downloaded from the hub ({constants.ENDPOINT}; {_cause(error)}): '
        'check the network.'
    )


def _is_gated(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return any(isinstance(each, GatedRepoError) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _cause(error: BaseException) -> str:
    """Return an error's root cause on one line."""
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
