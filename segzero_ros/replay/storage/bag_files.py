"""Find and open the files of a bag. Compressed files are decompressed to a temporary folder.

Counts and times in `metadata.yaml` are not used: they are read from the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath
import shutil
from typing import Any, NamedTuple

from rosbags.interfaces import Qos
import yaml
import zstandard

from segzero_ros.replay.storage import mcap_file, rosbag1_file, sqlite_file
from segzero_ros.replay.storage.base import DAMAGES, reason_of, Report, StorageFile
from segzero_ros.replay.storage.qos import read_qos

METADATA = 'metadata.yaml'
_SUFFIXES = ('.mcap', '.db3', '.bag', '.active')
_COMPRESSED = ('.zstd', '.zst')
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_KINDS: dict[bytes, Callable[[Path, Report], StorageFile]] = {
    mcap_file.MAGIC: mcap_file.McapFile,
    sqlite_file.MAGIC: sqlite_file.SqliteFile,
    rosbag1_file.MAGIC: rosbag1_file.Rosbag1File,
}


class BagFiles(NamedTuple):
    """The files of a bag, and its metadata.

    Attributes:
        paths: the files.
        qos: QoS profiles by topic.
        no_metadata: why there is no metadata; empty if there is, or if none is needed.
    """

    paths: list[Path]
    qos: dict[str, tuple[Qos, ...]]
    no_metadata: str = ''


def find_files(path: Path, report: Report) -> BagFiles:
    """Return the files of a bag.

    Args:
        path: the bag's existing file or folder.
        report: called for each missing file.
    """
    if path.is_file():
        return BagFiles([path], {})
    found = _storages(path)
    metadata, no_metadata = _read_metadata(path / METADATA, found)
    named = [path / PurePath(str(name)).name for name in _listed(metadata, 'relative_file_paths')]
    missing = [file for file in named if not file.is_file()]
    others = [file for file in found if file not in named]
    if not named or (missing and others):
        # Renamed or decompressed by hand: use the existing files.
        named, missing = found, missing[len(others) :]
    for file in missing:
        report(f'{file.name} is missing')
    paths = [file for file in named if file.is_file()]
    return BagFiles(paths, _qos_by_topic(metadata), no_metadata)


def open_file(path: Path, report: Report, unpacked: Callable[[], Path]) -> StorageFile:
    """Open one file of a bag.

    Args:
        path: the file, of any name.
        report: called with damage in it.
        unpacked: returns the folder for decompressed files.

    Raises:
            Exception: one of DAMAGES; the file cannot be read at all.
    """
    with path.open('rb') as file:
        begins = file.read(16)
    if begins.startswith(ZSTD_MAGIC):
        path = _decompress(path, unpacked(), report)
        with path.open('rb') as file:
            begins = file.read(16)
    for magic, kind in _KINDS.items():
        if begins.startswith(magic):
            return kind(path, report)
    raise ValueError(
        f'{path.name} is empty'
        if not begins
        else f'{path.name} is not a bag: it starts with {begins[:8]!r}, unlike MCAP, SQLite and '
        'ROS 1 bags'
    )


def _decompress(path: Path, folder: Path, report: Report) -> Path:
    plain = folder / path.stem
    with path.open('rb') as packed, plain.open('wb') as out:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        try:
            shutil.copyfileobj(reader, out, 1 << 20)
        except zstandard.ZstdError as error:
            report(f'{path.name} cannot be decompressed completely: {reason_of(error)}')
    return plain


def _storages(folder: Path) -> list[Path]:
    """Return a folder's bag files; of a compressed and a decompressed one, the latter."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    plain = [file for file in files if file.suffix in _SUFFIXES]
    packed = [
        file
        for file in files
        if file.suffix in _COMPRESSED
        and file.with_suffix('').suffix in _SUFFIXES
        and file.with_suffix('') not in plain
    ]
    return sorted(plain + packed)


def _read_metadata(path: Path, found: list[Path]) -> tuple[dict[str, Any], str]:
    """Return the metadata; if it cannot be read, an empty one and the reason."""
    if not path.is_file():
        # ROS 1 bags have none.
        is_ros2 = any(file.suffix not in ('.bag', '.active') for file in found)
        return {}, f'{METADATA} is missing' if is_ros2 else ''
    try:
        text = path.read_text(encoding='utf-8', errors='replace')
        metadata = yaml.safe_load(text)
        information = metadata['rosbag2_bagfile_information']
    except (yaml.YAMLError, *DAMAGES) as error:
        return {}, f'{METADATA} cannot be read: {reason_of(error)}'
    return information if isinstance(information, dict) else {}, ''


def _listed(metadata: dict[str, Any], key: str) -> list[Any]:
    entries = metadata.get(key)
    return entries if isinstance(entries, list) else []


def _qos_by_topic(metadata: dict[str, Any]) -> dict[str, tuple[Qos, ...]]:
    found = {}
    for entry in _listed(metadata, 'topics_with_message_count'):
        topic = entry.get('topic_metadata') if isinstance(entry, dict) else None
        if isinstance(topic, dict) and isinstance(topic.get('name'), str):
            found[topic['name']] = read_qos(topic.get('offered_qos_profiles'))
    return found
