"""The bags that a user names: files, folders of a bag, and folders that contain bags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os
from pathlib import Path
from typing import NamedTuple

from segzero_ros.types import SegZeroError

_SUFFIXES = ('.bag', '.mcap', '.db3', '.active')
_COMPRESSED = ('.zstd', '.zst')
# The manifest in the output folder of a replay.
REPLAY = 'replay.json'


class NoBags(SegZeroError):
    """The paths name no bags, or some that cannot be told apart."""


class NamedBag(NamedTuple):
    """A bag and its name among others.

    Attributes:
        name: its path below the folder that contains all bags, without a file's suffix.
        path: its file or folder, absolute.
    """

    name: str
    path: Path


def is_bag(path: Path) -> bool:
    """Return whether a path looks like a bag's file, or like its folder."""
    if path.is_dir():
        return (path / 'metadata.yaml').is_file() or any(map(_is_bag_file, path.iterdir()))
    return _is_bag_file(path)


def find_bags(paths: Sequence[Path]) -> list[NamedBag]:
    """Return the bags of some paths, each with its own name, in their order.

    Args:
        paths: bags, and folders that contain bags, at any depth.

    Raises:
        NoBags: a folder contains no bag, or two bags have the same name.
    """
    roots, found = [], []
    for path in map(Path.absolute, paths):
        if path.is_dir() and not is_bag(path):
            below = list(_bags_below(path))
            if not below:
                raise NoBags(f'{path} contains no bags.')
            roots.append(path)
            found += below
        else:
            roots.append(path.parent)
            found.append(path)
    root = Path(os.path.commonpath(roots))
    named: dict[str, Path] = {}
    for path in dict.fromkeys(found):
        name = str(_without_suffix(path).relative_to(root))
        if name in named:
            raise NoBags(
                f'{named[name]} and {path} differ only in their suffix: give one of them.'
            )
        named[name] = path
    return [NamedBag(name, path) for name, path in named.items()]


def _bags_below(folder: Path) -> Iterator[Path]:
    """Yield the bags in a folder's folders, sorted by their paths; none that a replay wrote."""
    for current, folders, files in os.walk(folder):
        folders.sort()
        if REPLAY in files:
            folders.clear()
        elif current != str(folder) and is_bag(Path(current)):
            folders.clear()
            yield Path(current)


def _is_bag_file(path: Path) -> bool:
    if path.suffix in _COMPRESSED:
        path = path.with_suffix('')
    return path.suffix in _SUFFIXES


def _without_suffix(path: Path) -> Path:
    if path.is_dir():
        return path
    while path.suffix in (*_SUFFIXES, *_COMPRESSED):
        path = path.with_suffix('')
    return path
