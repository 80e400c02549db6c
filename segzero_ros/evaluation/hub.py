"""Published evaluation sets on the Hugging Face Hub, from the local cache or downloaded."""

from __future__ import annotations

from pathlib import Path
import re
from typing import NamedTuple

from segzero_ros import hub
from segzero_ros.evaluation.parquet import ParquetDataset
from segzero_ros.evaluation.samples import DataError
from segzero_ros.extras import lacking


class HubDataset(NamedTuple):
    """A published set: its repository, and its number of samples in the papers (0: unknown)."""

    repository: str
    samples: int = 0


_HUB = 'Ricky06662'
PUBLISHED = {
    'reasonseg_val': HubDataset(f'{_HUB}/ReasonSeg_val', 200),
    'reasonseg_test': HubDataset(f'{_HUB}/ReasonSeg_test', 779),
    'refcoco_val': HubDataset(f'{_HUB}/refcoco_val'),
    'refcoco_testA': HubDataset(f'{_HUB}/refcoco_testA', 1975),
    'refcocoplus_val': HubDataset(f'{_HUB}/refcocoplus_val'),
    'refcocoplus_testA': HubDataset(f'{_HUB}/refcocoplus_testA', 1975),
    'refcocog_val': HubDataset(f'{_HUB}/refcocog_val'),
    'refcocog_test': HubDataset(f'{_HUB}/refcocog_test', 5023),
    'refcoco_val_all': HubDataset(f'{_HUB}/refcoco_val_all'),
    'refcoco_testA_all': HubDataset(f'{_HUB}/refcoco_testA_all'),
    'refcocoplus_val_all': HubDataset(f'{_HUB}/refcocoplus_val_all'),
    'refcocoplus_testA_all': HubDataset(f'{_HUB}/refcocoplus_testA_all'),
    'refcocog_val_all': HubDataset(f'{_HUB}/refcocog_val_all'),
    'refcocog_test_all': HubDataset(f'{_HUB}/refcocog_test_all'),
    'grefcoco_val_all': HubDataset(f'{_HUB}/grefcoco_val_all'),
    'counting_pixmo_validation': HubDataset(f'{_HUB}/counting_pixmo_validation'),
    'counting_pixmo_test': HubDataset(f'{_HUB}/counting_pixmo_test'),
    'counting_countbench': HubDataset(f'{_HUB}/counting_countbench', 504),
}
# The sets have one split each, `test`, also where their name says val.
SPLIT = 'test'
_PATTERNS = ['*.parquet']
_PART = re.compile(r'-(\d{5})-of-(\d{5})')


def open_hub(repository: str, *, offline: bool = False) -> ParquetDataset:
    """Open a set on the Hub.

    Args:
        repository: `owner/name`.
        offline: use only the cache.

    Raises:
        DataError: it is not cached and cannot be downloaded.
    """
    folder = _local(repository)
    files = find_split(folder) if folder else []
    if not files:
        if offline:
            raise DataError(
                f'{repository} is not cached on this machine: download it without --offline, or '
                'copy its parquet files here and give their folder instead.'
            )
        files = find_split(_download(repository))
    if not files:
        raise DataError(f'{repository} has no parquet files of a split named {SPLIT!r}.')
    return ParquetDataset(files, repository)


def find_split(folder: Path) -> list[Path]:
    """Return a folder's parquet files of the split, or all files if none is named by a split.

    Returns an empty list if numbered parts are missing.
    """
    files = sorted(folder.rglob('*.parquet'))
    chosen = [path for path in files if path.name.startswith(SPLIT)] or files
    parts = [match for path in chosen if (match := _PART.search(path.name))]
    if parts and {int(match[1]) for match in parts} != set(range(int(parts[0][2]))):
        return []
    return chosen


def _local(repository: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise DataError(f'{lacking("Data sets on the Hub need", error, "data")}.') from error
    try:
        return Path(
            snapshot_download(
                repository, repo_type='dataset', allow_patterns=_PATTERNS, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise DataError(f'{repository!r} is not a valid name on the Hub: {error}') from error


def _download(repository: str) -> Path:
    try:
        return hub.fetch(repository, _PATTERNS, repo_type='dataset')
    except hub.DiskFull as error:
        raise DataError(str(error)) from error
    except hub.DownloadError as error:
        raise DataError(
            f'{repository} is not cached on this machine and cannot be downloaded. {error} Or '
            'copy its parquet files here and give their folder instead.'
        ) from error
