"""Published evaluation sets on the Hugging Face Hub, from the local cache or downloaded."""

from __future__ import annotations

from pathlib import Path
import re
from typing import NamedTuple

from segzero_ros import hub
from segzero_ros.evaluation.image_files import find_index, find_splits, ImageFiles
from segzero_ros.evaluation.parquet import ParquetDataset
from segzero_ros.evaluation.samples import DataError, Dataset
from segzero_ros.extras import lacking
from segzero_ros.types import Task

# The sets of Seg-Zero and VisionReasoner have one split each, also where their name says val.
SPLIT = 'test'
_HUB = 'Ricky06662'


class HubDataset(NamedTuple):
    """A published set.

    Attributes:
        repository: its name on the Hub.
        samples: number of samples in the papers; 0: unknown.
        split: the split whose files are read; empty: all.
        task: what it asks for.
        measures: what it measures, in a few words.
        licence: empty if only the Hub's page knows.
        convention: the one of its own paper; empty: that of the model.
        image_files: whether it has image files and an index instead of parquet files.
    """

    repository: str
    samples: int = 0
    split: str = SPLIT
    task: Task = Task.SEGMENT
    measures: str = ''
    licence: str = ''
    convention: str = ''
    image_files: bool = False


def _referring(name: str, samples: int = 0) -> HubDataset:
    return HubDataset(f'{_HUB}/{name}', samples, measures='expressions that refer to objects')


def _counting(name: str, samples: int = 0) -> HubDataset:
    return HubDataset(f'{_HUB}/{name}', samples, task=Task.COUNT, measures='how many there are')


def _refspatial(split: str, samples: int) -> HubDataset:
    return HubDataset(
        'BAAI/RefSpatial-Bench',
        samples,
        split,
        Task.POINT,
        'multi-step spatial words, free space',
        'Apache-2.0',
    )


def _converseg(split: str, samples: int) -> HubDataset:
    return HubDataset(
        'aadarsh99/ConverSeg',
        samples,
        split,
        measures='affordance, safety, physics, intent',
        licence='CC BY 4.0; images: COCO',
        convention='converseg',
        image_files=True,
    )


_REASONING = 'reasoning about what is meant'
PUBLISHED = {
    'reasonseg_val': HubDataset(f'{_HUB}/ReasonSeg_val', 200, measures=_REASONING),
    'reasonseg_test': HubDataset(f'{_HUB}/ReasonSeg_test', 779, measures=_REASONING),
    'refcoco_val': _referring('refcoco_val'),
    'refcoco_testA': _referring('refcoco_testA', 1975),
    'refcocoplus_val': _referring('refcocoplus_val'),
    'refcocoplus_testA': _referring('refcocoplus_testA', 1975),
    'refcocog_val': _referring('refcocog_val'),
    'refcocog_test': _referring('refcocog_test', 5023),
    'refcoco_val_all': _referring('refcoco_val_all'),
    'refcoco_testA_all': _referring('refcoco_testA_all'),
    'refcocoplus_val_all': _referring('refcocoplus_val_all'),
    'refcocoplus_testA_all': _referring('refcocoplus_testA_all'),
    'refcocog_val_all': _referring('refcocog_val_all'),
    'refcocog_test_all': _referring('refcocog_test_all'),
    'grefcoco_val_all': HubDataset(
        f'{_HUB}/grefcoco_val_all', measures='expressions that may refer to nothing'
    ),
    'counting_pixmo_validation': _counting('counting_pixmo_validation'),
    'counting_pixmo_test': _counting('counting_pixmo_test'),
    'counting_countbench': _counting('counting_countbench', 504),
    'coco_val': HubDataset(
        f'{_HUB}/coco_val', task=Task.DETECT, measures='all objects of a category'
    ),
    'refspatial': _refspatial('', 277),
    'refspatial_location': _refspatial('location', 100),
    'refspatial_placement': _refspatial('placement', 100),
    'refspatial_unseen': _refspatial('unseen', 77),
    'refspatial_expand': HubDataset(
        'JingkunAn/RefSpatial-Expand-Bench',
        441,
        '',
        Task.POINT,
        'the same, indoors and outdoors',
    ),
    'where2place': HubDataset(
        'FlagEval/Where2Place',
        100,
        task=Task.POINT,
        measures='where to place things',
        licence='Apache-2.0',
    ),
    'where2place_files': HubDataset(
        'wentao-yuan/where2place',
        100,
        '',
        Task.POINT,
        'where to place things',
        'Apache-2.0',
        image_files=True,
    ),
    'roboafford_eval': HubDataset(
        'Zray26/roboafford-eval', task=Task.POINT, measures='affordance: object, part, space'
    ),
    'part_afford': HubDataset(
        'IffYuan/part-affordance-2_k', split='train', task=Task.POINT, measures='parts of objects'
    ),
    'roborefit': HubDataset(
        'Zray26/roborefit', task=Task.POINT, measures='cluttered tables, similar objects'
    ),
    'vabench_point': HubDataset(
        'Zray26/vabench-point-bbox', 300, task=Task.POINT, measures='instructions to a robot'
    ),
    'converseg_sam_seeded': _converseg('sam_seeded', 1194),
    'converseg_human_annotated': _converseg('human_annotated', 493),
    'hallusegbench': HubDataset(
        'PLAN-Lab/HalluSegBench',
        split='',
        measures='NOT_FOUND on edited images',
        licence='OSL-3.0',
        image_files=True,
    ),
}
_PATTERNS = ['*.parquet']
_IMAGE_FILE_PATTERNS = ['*.json', '*.jsonl', '*.png', '*.jpg', '*.jpeg']
_PART = re.compile(r'-(\d{5})-of-(\d{5})')


def open_hub(
    published: HubDataset, *, offline: bool = False, published_prompt: bool = False
) -> Dataset:
    """Open a set on the Hub.

    Args:
        published: the set.
        offline: use only the cache.
        published_prompt: ask what the paper asks point models, with the form of the answer.

    Raises:
        DataError: it is not cached and cannot be downloaded, or has no such split.
    """
    repository = published.repository
    patterns = _IMAGE_FILE_PATTERNS if published.image_files else _PATTERNS
    folder = _local(repository, patterns)
    files = _files(folder, published) if folder else []
    if not files:
        if offline:
            raise DataError(
                f'{repository} is not cached on this machine: download it without --offline, or '
                'copy its files here and give their folder instead.'
            )
        files = _files(_download(repository, patterns), published)
    if not files:
        wanted = f' of a split named {published.split!r}' if published.split else ''
        kind = 'index of image files' if published.image_files else 'parquet files'
        raise DataError(
            f'{repository} has no {kind}{wanted}: if it has archives instead, unpack them and '
            'give the folder.'
        )
    if published.image_files:
        return ImageFiles(files[0], name=repository, published_prompt=published_prompt)
    return ParquetDataset(files, repository, published_prompt=published_prompt)


def _files(folder: Path, published: HubDataset) -> list[Path]:
    if not published.image_files:
        return find_split(folder, published.split)
    if published.split:
        return find_splits(folder, published.split)
    index = find_index(folder)
    return [index] if index else []


def find_split(folder: Path, split: str = SPLIT) -> list[Path]:
    """Return a folder's parquet files of a split.

    Returns an empty list if numbered parts are missing.

    Args:
        folder: the folder.
        split: name of the split; if no file is named by the default one, or if it is empty, all
            files are returned.
    """
    files = sorted(folder.rglob('*.parquet'))
    chosen = [path for path in files if path.name.startswith(split)]
    if not chosen and split == SPLIT:
        chosen = files
    parts: dict[tuple[str, int], set[int]] = {}
    for path in chosen:
        if match := _PART.search(path.name):
            name = str(path.with_name(path.name[: match.start()]))
            parts.setdefault((name, int(match[2])), set()).add(int(match[1]))
    if any(numbers != set(range(total)) for (_, total), numbers in parts.items()):
        return []
    return chosen


def _local(repository: str, patterns: list[str]) -> Path | None:
    try:
        return hub.cached(repository, patterns, repo_type='dataset')
    except ImportError as error:
        raise DataError(f'{lacking("Data sets on the Hub need", error, "data")}.') from error
    except hub.NoSuchName as error:
        raise DataError(f'{repository!r} is not a valid name on the Hub: {error}') from error


def _download(repository: str, patterns: list[str]) -> Path:
    try:
        return hub.fetch(repository, patterns, repo_type='dataset')
    except hub.DiskFull as error:
        raise DataError(str(error)) from error
    except hub.DownloadError as error:
        raise DataError(
            f'{repository} is not cached on this machine and cannot be downloaded. {error} Or '
            'copy its files here and give their folder instead.'
        ) from error
