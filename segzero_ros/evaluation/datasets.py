"""Open a data set by name: a published set, a hub repository, a folder or a file."""

from __future__ import annotations

from pathlib import Path

from segzero_ros.evaluation.coco_json import CocoJson
from segzero_ros.evaluation.hub import find_split, HubDataset, open_hub, PUBLISHED
from segzero_ros.evaluation.image_files import find_index, find_splits, ImageFiles, is_index
from segzero_ros.evaluation.lisa_folder import find_pairs, LisaFolder
from segzero_ros.evaluation.parquet import ParquetDataset
from segzero_ros.evaluation.samples import DataError, Dataset
from segzero_ros.replay.bag_folder import is_bag
from segzero_ros.replay.bags_extra import require_bags


def open_dataset(
    source: str,
    *,
    offline: bool = False,
    pictures: Path | None = None,
    truth: Path | None = None,
    image: str = '',
    published_prompt: bool = False,
) -> Dataset:
    """Open a data set.

    Args:
        source: one of `hub.PUBLISHED`, `owner/name` on the Hub, a folder with parquet files,
            with ReasonSeg's images and polygons or with the files of a published set, a parquet
            file, a JSON file in COCO layout, or, with `truth`, a bag.
        offline: use only cached data.
        pictures: folder that the file names in a JSON file are relative to.
        truth: accepted answers about a bag.
        image: the bag's image topic; empty to detect it.
        published_prompt: ask what the paper of a points set asks point models, with the form of
            the answer, instead of the bare question.

    Raises:
            DataError: it does not exist, or cannot be read.
    """
    path = Path(source)
    if truth is not None:
        with require_bags():
            from segzero_ros.evaluation.bag_truth import BagWithTruth
        return BagWithTruth(path, truth, image)
    if is_bag(path):
        raise DataError(
            f'{path} is a bag: give the accepted answers about it with --truth FILE, as written '
            f'by segzero replay {path} --accept FILE.'
        )
    if path.is_dir():
        return _open_folder(path, published_prompt)
    if path.suffix in ('.json', '.jsonl') and path.is_file():
        if path.suffix == '.jsonl' or is_index(path):
            return ImageFiles(path, published_prompt=published_prompt)
        return CocoJson(path, pictures)
    if path.suffix == '.parquet' and path.is_file():
        return ParquetDataset([path], path.stem, published_prompt=published_prompt)
    published = PUBLISHED.get(source)
    if published is None and source.count('/') == 1 and not path.suffix:
        known = (one for one in PUBLISHED.values() if one.repository == source)
        published = next(known, HubDataset(source))
    if published is not None:
        return open_hub(published, offline=offline, published_prompt=published_prompt)
    raise DataError(
        f'{source} is neither a file, a folder nor a published set; published sets are '
        f'{", ".join(PUBLISHED)}, and tabletop.'
    )


def _open_folder(folder: Path, published_prompt: bool) -> Dataset:
    index = find_index(folder)
    if index is not None:
        return ImageFiles(index, published_prompt=published_prompt)
    if find_pairs(folder):
        return LisaFolder(folder)
    files = find_split(folder)
    if files:
        return ParquetDataset(files, folder.name, published_prompt=published_prompt)
    splits = find_splits(folder)
    if len(splits) == 1:
        return ImageFiles(splits[0], published_prompt=published_prompt)
    if splits:
        names = ', '.join(str(path) for path in splits)
        raise DataError(f'{folder} has several splits: give one of {names}.')
    raise DataError(
        f'{folder} contains neither a complete set of parquet files nor images with .json files '
        'of the same names. Open a set with a val and a test folder one folder at a time.'
    )


def published_name(source: str) -> str:
    """Return the name in `hub.PUBLISHED` of a source, also of a local copy; '' for other data."""
    last = Path(source).name.lower()
    for name, published in PUBLISHED.items():
        index = f'{published.split}.jsonl' if published.image_files else ''
        if last in (name.lower(), published.repository.partition('/')[2].lower(), index):
            return name
    return ''
