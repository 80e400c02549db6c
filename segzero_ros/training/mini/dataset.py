"""Data set of the mini reasoner: rendered scenes, cached in files.

A part is complete if its last file exists; an interrupted part is rendered again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.training.mini.dense_targets import dense_targets
from segzero_ros.training.mini.geometry import SIDE
from segzero_ros.training.mini.rendered_scenes import render_scene
from segzero_ros.training.mini.sft_examples import examples_of, SftExample

_PER_PART = 250
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes.

    Attributes:
        pictures: (N, SIDE, SIDE, 3) uint8 RGB images.
        names: (N, TOKENS, 4) int8 classes; see `dense_targets`.
        places: (N, TOKENS, 6) float32 boxes and points, pixels of the square.
        examples: for each scene those of the image and those of its mirror image.
    """

    pictures: NDArray[np.uint8]
    names: NDArray[np.int8]
    places: NDArray[np.float32]
    examples: Sequence[tuple[list[SftExample], list[SftExample]]]

    def __len__(self) -> int:
        return len(self.pictures)


def make_scenes(folder: Path, seed: int, count: int, workers: int) -> Scenes:
    """Return the scenes of consecutive seeds, from the cache if they exist.

    Args:
        folder: of the cached parts.
        seed: of the first scene.
        count: number of scenes.
        workers: number of rendering processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (folder, first, min(_PER_PART, seed + count - first))
        for first in range(seed, seed + count, _PER_PART)
    ]
    missing = [part for part in parts if not _last_file(*part).exists()]
    if missing:
        with ProcessPoolExecutor(min(workers, len(missing))) as pool:
            for number, name in enumerate(pool.map(_make_part, missing), start=1):
                _logger.info('scenes: %d of %d parts (%s)', number, len(missing), name)
    read = [_read_part(*part) for part in parts]
    pictures, names, places = (
        np.concatenate([getattr(part, name) for part in read]) for name in _ARRAYS
    )
    return Scenes(pictures, names, places, [each for part in read for each in part.examples])


_ARRAYS = ('pictures', 'names', 'places')


def _last_file(folder: Path, first: int, count: int) -> Path:
    return folder / f'{first}-{count}.jsonl'


def _array_file(folder: Path, first: int, count: int, name: str) -> Path:
    return folder / f'{first}-{count}-{name}.npy'


def _make_part(part: tuple[Path, int, int]) -> str:
    """Render the scenes of a part and write its files; return its name."""
    _, first, count = part
    arrays: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    lines = []
    for seed in range(first, first + count):
        picture, scene = render_scene(seed, SIDE)
        made: tuple[NDArray[Any], ...] = (picture, *dense_targets(scene))
        for name, values in zip(_ARRAYS, made, strict=True):
            arrays[name].append(values)
        examples = [
            [asdict(each) for each in examples_of(scene, SIDE, way)] for way in (False, True)
        ]
        lines.append(json.dumps(examples))
    for name, each in arrays.items():
        np.save(_array_file(*part, name), np.stack(each))
    last = _last_file(*part)
    unfinished = last.with_suffix('.part')
    unfinished.write_text('\n'.join(lines), encoding='utf-8')
    unfinished.replace(last)
    return last.stem


def _read_part(folder: Path, first: int, count: int) -> Scenes:
    arrays = [np.load(_array_file(folder, first, count, name)) for name in _ARRAYS]
    examples = []
    for line in _last_file(folder, first, count).read_text(encoding='utf-8').splitlines():
        plain, mirrored = ([_example(each) for each in way] for way in json.loads(line))
        examples.append((plain, mirrored))
    pictures, names, places = arrays
    return Scenes(pictures, names, places, examples)


def _example(fields: dict[str, str]) -> SftExample:
    return SftExample(fields['kind'], fields['question'], fields['answer'])
