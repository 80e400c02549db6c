"""Open a data set by name: a published set, a hub repository, a folder or a file."""

from __future__ import annotations

from pathlib import Path

from segzero_ros.evaluation.coco_json import CocoJson
from segzero_ros.evaluation.hub import find_split, open_hub, PUBLISHED
from segzero_ros.evaluation.lisa_folder import find_pairs, LisaFolder
from segzero_ros.evaluation.parquet import ParquetDataset
from segzero_ros.evaluation.samples import DataError, Dataset
from segzero_ros.replay.bags_extra import needs_bags


def open_dataset(
    source: str,
    *,
    offline: bool = False,
    pictures: Path | None = None,
    truth: Path | None = None,
    image: str = '',
) -> Dataset:
    """Open a data set.

    Args:
        source: one of `hub.PUBLISHED`, `owner/name` of the hub, a folder with parquet files or
            with ReasonSeg's pictures and polygons, a parquet file, a JSON file as COCO's, or,
            with `truth`, a bag.
        offline: never ask the hub.
        pictures: the folder of a JSON file's pictures.
        truth: the accepted answers about a bag.
        image: the topic of a bag's images; empty to find it.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = Path(source)
    if truth is not None:
        with needs_bags():
            from segzero_ros.evaluation.bag_truth import BagWithTruth
        return BagWithTruth(path, truth, image)
    if is_bag(path):
        raise DataError(
            f'{path} is a bag: name the accepted answers about it with --truth FILE; '
            f'segzero replay {path} --accept FILE makes such a file.'
        )
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == '.json' and path.is_file():
        return CocoJson(path, pictures)
    if path.suffix == '.parquet' and path.is_file():
        return ParquetDataset([path], path.stem)
    if source in PUBLISHED:
        return open_hub(PUBLISHED[source].repository, offline=offline)
    if source.count('/') == 1 and not path.suffix:
        return open_hub(source, offline=offline)
    raise DataError(
        f'{source} is no file, no folder and no published set; these are {", ".join(PUBLISHED)}, '
        'and tabletop.'
    )


def is_bag(path: Path) -> bool:
    """Return whether a path looks like a bag."""
    return path.suffix in ('.bag', '.mcap', '.db3') or (path / 'metadata.yaml').is_file()


def _open_folder(folder: Path) -> Dataset:
    if find_pairs(folder):
        return LisaFolder(folder)
    files = find_split(folder)
    if files:
        return ParquetDataset(files, folder.name)
    raise DataError(
        f'{folder} holds neither a complete set of parquet files nor pictures with .json files '
        'of the same names. A set with a val and a test folder is opened one folder at a time.'
    )


def published_name(source: str) -> str:
    """Return which of `hub.PUBLISHED` a source is, also as a local copy by its name, or ''."""
    last = Path(source).name.lower()
    for name, published in PUBLISHED.items():
        if last in (name.lower(), published.repository.partition('/')[2].lower()):
            return name
    return ''
