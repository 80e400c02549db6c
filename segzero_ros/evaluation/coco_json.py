"""One's own data: a JSON file in the layout of COCO, with a `text` beside each annotation.

`images` have `id` and `file_name`; `annotations` have `image_id`, `segmentation` (polygons or a
run-length code; an empty list where nothing is meant) and `text`, or a `category_id` whose name is
asked for. Annotations of one picture with the same text are one question about all of them;
`iscrowd` marks what is ignored. Imports `samples`, the code of masks in `replay`, and OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segzero_ros.evaluation.samples import DataError, decode_picture, Sample
from segzero_ros.replay.masks import from_rle
from segzero_ros.types import Box, Mask

_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, cv2.error)


class CocoJson:
    """Samples of a JSON file, in the order of its annotations."""

    def __init__(self, path: Path, pictures: Path | None = None) -> None:
        """Read the file.

        Args:
            path: the JSON file.
            pictures: where the file names start; the JSON file's folder by default.

        Raises:
            DataError: it cannot be read, or holds no question.
        """
        self.name = path.stem
        self._path = path
        self._folder = pictures or path.parent
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            names = {one['id']: str(one['file_name']) for one in content['images']}
            categories = {one['id']: one['name'] for one in content.get('categories', ())}
            self._questions = _questions(content['annotations'], names, categories)
        except (OSError, *_UNREADABLE) as error:
            raise DataError(f'{path} is not laid out as COCO with texts: {error!r}') from error
        if not self._questions:
            raise DataError(f'{path} holds no annotations.')

    def __len__(self) -> int:
        return len(self._questions)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            name, text, annotations = self._questions[index]
            path = self._folder / name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(
                    f'{path} cannot be read ({error.strerror}): name the folder of the pictures '
                    'with --pictures.'
                ) from error
            picture = decode_picture(data, str(path))
            try:
                yield index, _sample(picture, text, annotations)
            except _UNREADABLE as error:
                where = f'{self._path}, the annotations of {name} for {text!r}'
                raise DataError(f'{where} cannot be read: {error!r}') from error


_Question = tuple[str, str, list[dict[str, Any]]]


def _questions(
    annotations: Sequence[dict[str, Any]], names: dict[Any, str], categories: dict[Any, str]
) -> list[_Question]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for annotation in annotations:
        text = annotation.get('text') or categories[annotation['category_id']]
        found.setdefault((names[annotation['image_id']], str(text)), []).append(annotation)
    return [(name, text, group) for (name, text), group in found.items()]


def _sample(picture: Any, text: str, annotations: list[dict[str, Any]]) -> Sample:
    height, width = picture.shape[:2]
    mask, ignore = np.zeros((2, height, width), np.bool_)
    boxes: list[Box] = []
    masks: list[Mask] = []
    for annotation in annotations:
        drawn = read_segmentation(annotation['segmentation'], height, width)
        if annotation.get('iscrowd'):
            ignore |= drawn
            continue
        mask |= drawn
        masks += [drawn] if drawn.any() else []
        if annotation.get('bbox'):
            x, y, w, h = map(float, annotation['bbox'])
            boxes.append((x, y, x + w, y + h))
    first = annotations[0]
    return Sample(
        image=picture,
        text=text,
        mask=mask,
        ignore=ignore & ~mask if ignore.any() else None,
        masks=tuple(masks),
        boxes=tuple(boxes),
        count=int(first.get('count', len(masks))),
        image_id=str(first['image_id']),
        ann_id=str(first.get('id', '')),
    )


def read_segmentation(segmentation: Any, height: int, width: int) -> Mask:
    """Return the (height, width) bool mask of polygons or of a run-length code."""
    if isinstance(segmentation, dict):
        rows, columns = segmentation['size']
        counts = segmentation['counts']
        if (rows, columns) != (height, width):
            raise ValueError(f'the code is of {columns}x{rows} pixels, not {width}x{height}')
        if isinstance(counts, str):
            return from_rle(counts, height, width)
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return np.ascontiguousarray(flat.reshape((height, width), order='F'))
    drawn = np.zeros((height, width), np.uint8)
    for polygon in segmentation:
        points = np.array(polygon, np.float64).reshape(-1, 2).round().astype(np.int32)
        cv2.fillPoly(drawn, [points], 1)
    return np.asarray(drawn != 0)
