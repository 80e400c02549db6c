"""One's own data: a JSON file in the layout of COCO, with a `text` beside each annotation.

`images` have `id` and `file_name`; `annotations` have `image_id`, `segmentation` (polygons or a
run-length code), `bbox` and `text`, or a `category_id` whose name is asked for. Annotations of one
picture with the same text are one question about all of them; `iscrowd` marks what is ignored.
Imports `samples`, `coco_masks` and NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segzero_ros.evaluation.coco_masks import extent_of, read_segmentation, size_of
from segzero_ros.evaluation.samples import DataError, decode_picture, Sample, stated_size
from segzero_ros.types import Box, Mask, RgbImage, Roi

_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class _Question(NamedTuple):
    """What is asked about an image: its record in the file, the text, the annotations."""

    image: dict[str, Any]
    text: str
    annotations: list[dict[str, Any]]


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
            self._questions = _questions(content)
        except (OSError, *_UNREADABLE) as error:
            raise DataError(f'{path} is not laid out as COCO with texts: {error!r}') from error
        if not self._questions:
            raise DataError(f'{path} holds no annotations.')

    def __len__(self) -> int:
        return len(self._questions)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            question = self._questions[index]
            name = question.image['file_name']
            path = self._folder / name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(
                    f'{path} cannot be read ({error.strerror}): name the folder of the pictures '
                    'with --pictures.'
                ) from error
            where = f'{self._path}, the annotations of {name} for {question.text!r}'
            try:
                picture = decode_picture(data, str(path), _stated(question))
                yield index, _sample(picture, question)
            except _UNREADABLE as error:
                raise DataError(f'{where} cannot be read: {error}') from error
            except _Unclear as error:
                raise DataError(f'{where}: {error}') from error


class _Unclear(Exception):
    """An annotation does not say what it marks; the text says what is missing."""


def _questions(content: dict[str, Any]) -> list[_Question]:
    # Some programs write the same number as text in one place and as a number in another.
    images = {
        str(one['id']): {**one, 'file_name': str(one['file_name'])} for one in content['images']
    }
    categories = {str(one['id']): str(one['name']) for one in content.get('categories') or ()}
    found: dict[tuple[str, str], _Question] = {}
    annotations = content['annotations']
    for annotation in annotations:
        text = str(annotation.get('text') or categories[str(annotation['category_id'])])
        image = str(annotation['image_id'])
        asked = found.setdefault((image, text), _Question(images[image], text, []))
        asked.annotations.append(annotation)
    annotated = {image for image, _ in found}
    for image, record in images.items():
        # Nothing in it was marked, so nothing in it is meant.
        if record.get('text') and image not in annotated:
            found[image, ''] = _Question(record, str(record['text']), [])
    return list(found.values())


def _stated(question: _Question) -> tuple[int, int] | None:
    """Return the (width, height) that the labels were made for, as far as the file says."""
    stated = stated_size(question.image.get('width'), question.image.get('height'))
    sizes = (size_of(one.get('segmentation')) for one in question.annotations)
    return stated or next(filter(None, sizes), None)


class _Object(NamedTuple):
    """One object that is meant: where it is, as far as the annotation says."""

    mask: Mask | None
    box: Box | None


def _sample(picture: RgbImage, question: _Question) -> Sample:
    height, width = picture.shape[:2]
    annotations = question.annotations
    crowds = [one for one in annotations if one.get('iscrowd')]
    # Where nothing else is marked the crowd is what is meant; CVAT writes brushed masks so.
    alone = len(crowds) == len(annotations)
    single = [one for one in annotations if alone or not one.get('iscrowd')]
    objects = [found for one in single if (found := _object(one, height, width))]
    masks = tuple(found.mask for found in objects if found.mask is not None)
    mask = None
    if len(masks) == len(objects):
        mask = _union(masks, height, width)
        boxes = [found.box for found in objects]
    else:
        boxes = [found.box or _box_around(found.mask) for found in objects]
        # Boxes of some objects are not the truth about all of them.
        boxes = [] if None in boxes else boxes
    ignore = None
    if crowds and not alone and mask is not None:
        drawn = (read_segmentation(one['segmentation'], height, width) for one in crowds)
        ignore = _union(tuple(drawn), height, width) & ~mask
    first = annotations[0] if annotations else {}
    count = first.get('count', None if crowds and alone else len(objects))
    return Sample(
        image=picture,
        text=question.text,
        mask=mask,
        ignore=ignore if ignore is not None and ignore.any() else None,
        masks=masks if mask is not None else (),
        boxes=tuple(box for box in boxes if box is not None),
        count=None if count is None else int(count),
        image_id=str(question.image['id']),
        ann_id=str(first.get('id', '')),
    )


def _object(annotation: dict[str, Any], height: int, width: int) -> _Object | None:
    """Return what an annotation marks; None where it says that nothing is meant.

    Raises:
        _Unclear: it says neither where its object is nor that there is none.
    """
    name = f'annotation {annotation.get("id", "")}'.strip()
    segmentation = annotation.get('segmentation')
    drawn = extent = None
    if segmentation is not None:
        drawn = read_segmentation(segmentation, height, width)
        extent = extent_of(segmentation)
    box = _box(annotation.get('bbox'), name)
    if drawn is not None and drawn.any():
        return _Object(drawn, box)
    # A polygon without a pixel in it still says where its object is.
    box = box or (extent if extent and _has_area(extent) else None)
    if box is not None:
        x1, y1, x2, y2 = box
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise _Unclear(
                f'{name} lies outside the picture of {width}x{height} pixels: label it anew, or '
                'take it out.'
            )
        return _Object(None, box)
    if any(annotation.get('keypoints') or ()):
        return _Object(None, None)
    if segmentation is None or extent or any(annotation.get('bbox') or ()):
        raise _Unclear(
            f'{name} marks no area: give it a segmentation or a bbox with an area, or write '
            '"segmentation": [] and no bbox where nothing in the picture is meant.'
        )
    return None


def _box(bbox: Any, name: str) -> Box | None:
    """Return COCO's [x, y, width, height] as (x1, y1, x2, y2); None without an area."""
    if not bbox:
        return None
    x, y, width, height = map(float, bbox)
    if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
        raise _Unclear(f'{name} has the bbox {bbox}, which is no [x, y, width, height].')
    box = (x, y, x + width, y + height)
    return box if _has_area(box) else None


def _has_area(box: Box) -> bool:
    return box[2] > box[0] and box[3] > box[1]


def _box_around(mask: Mask | None) -> Box | None:
    if mask is None:
        return None
    x, y, width, height = Roi.around(mask)
    return float(x), float(y), float(x + width), float(y + height)


def _union(masks: tuple[Mask, ...], height: int, width: int) -> Mask:
    union = np.zeros((height, width), np.bool_)
    for mask in masks:
        union |= mask
    return union
