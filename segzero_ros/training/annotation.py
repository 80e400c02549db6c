"""Training rows from images with masks: accepted answers about a bag, or a data set.

Boxes, points and the check with a segmenter are as in the published sets (Seg-Zero, arXiv
2503.06520, and its code).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.evaluation.samples import DataError, Sample
from segzero_ros.reasoning.dialects import Dialect, SQUARE
from segzero_ros.segmentation.base import Segmenter
from segzero_ros.training.presets import TrainingError
from segzero_ros.types import Frame, GroundedObject, Grounding, Mask

# Minimum IoU of a segmenter's mask for box and point with the object, as published.
MIN_IOU = 0.6
_BATCH_ROWS = 50

Points = tuple[tuple[int, int], tuple[int, int]]


def make_rows(
    samples: Iterable[tuple[int, Sample]],
    dialect: Dialect,
    segmenter: Segmenter[Any] | None,
    corrections: Path | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> Iterator[dict[str, Any] | str]:
    """Yield a row of the published schema for each sample, or the reason why it is skipped.

    Args:
        samples: with their indices.
        dialect: defines the form of the solutions.
        segmenter: checks boxes and points; None for no check.
        corrections: folder of corrected masks, `<index of the sample>.png`: 0 is background,
            each other value is one object.
        on_row: called with the index of each finished sample.
    """
    for index, sample in samples:
        corrected = None if corrections is None else corrections / f'{index}.png'
        if corrected is not None and corrected.is_file():
            masks = read_masks(corrected, sample)
            union = np.any(masks, axis=0) if masks else np.zeros(sample.image.shape[:2], np.bool_)
            sample = replace(sample, masks=masks, mask=union)
        yield _row(index, sample, dialect, segmenter)
        on_row(index)


def _row(
    index: int, sample: Sample, dialect: Dialect, segmenter: Segmenter[Any] | None
) -> dict[str, Any] | str:
    if sample.mask is None and not sample.masks:
        return 'it has no mask, which a point needs'
    masks = [mask for mask in _objects(sample) if mask.any()]
    if dialect.grammar.single and len(masks) != 1:
        return 'the dialect needs exactly one object'
    prompts = [(box_of(mask), points_of(mask)) for mask in masks]
    if segmenter is not None and masks:
        lowest = min(_segmented_ious(sample.frame, masks, prompts, segmenter))
        if lowest < MIN_IOU:
            return f'the mask of the segmenter does not match (IoU below {MIN_IOU:g})'
    height, width = sample.image.shape[:2]
    factors = SQUARE / width, SQUARE / height
    resized = cv2.resize(sample.image, (SQUARE, SQUARE), interpolation=cv2.INTER_AREA)
    _, png = cv2.imencode('.png', cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))
    return {
        'id': sample.ann_id or str(index),
        'problem': sample.text,
        'solution': _solution(prompts, factors, dialect),
        'image': {'bytes': png.tobytes(), 'path': None},
        'img_height': height,
        'img_width': width,
    }


def _objects(sample: Sample) -> tuple[Mask, ...]:
    if sample.masks or sample.mask is None:
        return sample.masks
    # Sets with one region per query, such as ReasonSeg.
    return (sample.mask,)


def read_masks(path: Path, sample: Sample) -> tuple[Mask, ...]:
    """Return the objects of a corrected mask; raise DataError if it does not fit the image."""
    # Keep 16 bits: the high byte alone would be background.
    drawn = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    size = sample.image.shape[:2]
    if drawn is None:
        raise DataError(f'{path} is not an image that OpenCV can read.')
    if drawn.shape != size:
        raise DataError(
            f'{path} has {drawn.shape[1]}x{drawn.shape[0]} pixels, its image {size[1]}x{size[0]}.'
        )
    return tuple(np.asarray(drawn == value) for value in np.unique(drawn) if value)


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return a mask's box (x1, y1, x2, y2); x2 and y2 are the last pixels, as published."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def points_of(mask: Mask) -> Points:
    """Return two inner pixels (x, y) of a mask.

    The first is the centre of the largest inscribed circle. The second is the pixel farthest from
    the border among the half of the pixels that is farther from the first, as in the published
    sets.
    """
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    first = _highest(inside)
    rows, columns = np.nonzero(mask)
    away = np.hypot(columns - first[0], rows - first[1])
    far = away > np.median(away)
    if not far.any():
        return first, first
    beyond = np.zeros_like(inside)
    beyond[rows[far], columns[far]] = inside[rows[far], columns[far]]
    return first, _highest(beyond)


def _highest(values: NDArray[Any]) -> tuple[int, int]:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(column), int(row)


def _segmented_ious(
    frame: Frame,
    masks: list[Mask],
    prompts: list[tuple[tuple[int, int, int, int], Points]],
    segmenter: Segmenter[Any],
) -> list[float]:
    """Return the IoU of each mask with a segmenter's mask for its box and first point."""
    objects = tuple(
        GroundedObject((x1, y1, x2 + 1, y2 + 1), (points[0],), '')
        for (x1, y1, x2, y2), points in prompts
    )
    grounding = Grounding('', objects)
    made = segmenter.segment(segmenter.encode(frame), grounding)
    pairs = ((found.mask, mask) for found, mask in zip(made, masks, strict=True))
    return [float((found & mask).sum() / (found | mask).sum()) for found, mask in pairs]


def _solution(
    prompts: list[tuple[tuple[int, int, int, int], Points]],
    factors: tuple[float, float],
    dialect: Dialect,
) -> str:
    def scaled(values: Iterable[int]) -> list[int]:
        return [int(value * factors[at % 2] + 0.5) for at, value in enumerate(values)]

    if not dialect.grammar.single:
        items = [
            {'bbox_2d': scaled(box), 'point_2d': scaled(points[0])} for box, points in prompts
        ]
        return json.dumps(items)
    (box, points), *_ = prompts
    x1, y1, x2, y2 = scaled(box)
    (xa, ya), (xb, yb) = map(scaled, points)
    return f'<box>({x1},{y1}),({x2},{y2})</box><points>({xa},{ya}),({xb},{yb})</points>'


def write_rows(rows: Iterable[dict[str, Any] | str], folder: Path) -> tuple[int, Counter[str]]:
    """Write rows as `train.parquet`; return their number, and the reasons for skipped ones.

    An existing file is replaced when the new one is complete.

    Args:
        rows: rows, or the reasons why they are skipped.
        folder: is created.

    Raises:
        TrainingError: there are no rows, or the folder cannot be written to.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ('id', 'problem', 'solution')),
            ('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())])),
            *((name, pa.int64()) for name in ('img_height', 'img_width')),
        ]
    )
    skipped: Counter[str] = Counter()
    waiting: list[dict[str, Any]] = []
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / 'train.part'
        with parquet.ParquetWriter(unfinished, schema) as writer:
            for row in rows:
                if isinstance(row, str):
                    skipped[row] += 1
                    continue
                count += 1
                waiting.append(row)
                if len(waiting) == _BATCH_ROWS:
                    writer.write_table(pa.Table.from_pylist(waiting, schema))
                    waiting.clear()
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
    except OSError as error:
        raise TrainingError(f'{folder} cannot be written: {error}') from error
    if not count:
        unfinished.unlink()
        reasons = '; '.join(f'{number} skipped: {why}' for why, number in skipped.items())
        raise TrainingError(f'There are no rows to write: {reasons or "the source is empty"}.')
    unfinished.replace(folder / 'train.parquet')
    return count, skipped
