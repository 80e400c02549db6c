"""Custom data: a JSON file in COCO layout, with a `text` for each annotation.

`images` have `id` and `file_name`; `annotations` have `image_id`, `segmentation` (polygons or
RLE), `bbox` and `text`, or a `category_id` whose name is the query. Annotations of one image with
the same text are one query with several targets; each text of a list is a query of its own.
`iscrowd` marks ignored regions.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segzero_ros.evaluation.coco_masks import extent_of, read_segmentation, size_of
from segzero_ros.evaluation.samples import (
    DataError,
    decode_labelled_image,
    number_in,
    Sample,
    stated_size,
)
from segzero_ros.types import Box, Mask, RgbImage, Roi

_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class _Question(NamedTuple):
    """A query about an image: the image's record in the file, the text, the annotations.

    `category` is the id of the category that the query names; empty if it has a text of its own.
    """

    image: dict[str, Any]
    text: str
    annotations: list[dict[str, Any]]
    category: str = ''


class CocoJson:
    """Samples of a JSON file, in the order of its annotations."""

    def __init__(self, path: Path, pictures: Path | None = None) -> None:
        """Read the file.

        Args:
            path: the JSON file.
            pictures: folder that the file names are relative to; default: the JSON file's folder.

        Raises:
            DataError: it cannot be read, or has no query.
        """
        self.name = path.stem
        self._path = path
        self._folder = pictures or path.parent
        try:
            # json detects the encoding of bytes, also with a byte order mark.
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(f'{path} cannot be read: {error.strerror}.') from error
        except ValueError as error:
            raise DataError(f'{path} is not valid JSON: {error}') from error
        try:
            self._questions = _questions(content)
        except _BadAnnotation as error:
            raise DataError(f'{path} is not in COCO layout with texts: {error}') from error
        if not self._questions:
            raise DataError(f'{path} has no annotations.')

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
                    f'{path} cannot be read ({error.strerror}): give the image folder with '
                    '--pictures.'
                ) from error
            where = f'{self._path}, the annotations of {name} for {question.text!r}'
            try:
                image = decode_labelled_image(data, str(path), _stated(question))
                yield index, _sample(image, question)
            except _UNREADABLE as error:
                raise DataError(f'{where} cannot be read: {error}') from error
            except _BadAnnotation as error:
                raise DataError(f'{where}: {error}') from error


class _BadAnnotation(Exception):
    """An incomplete annotation; the message says what is missing."""


def _questions(content: Any) -> list[_Question]:
    images = _images(content)
    categories = _by_id(content, 'categories') if content.get('categories') else {}
    found: dict[tuple[str, str], _Question] = {}
    annotated = set()
    for number, annotation in enumerate(_records(content, 'annotations'), 1):
        name = _name(annotation, number)
        image = str(annotation.get('image_id'))
        if image not in images:
            raise _BadAnnotation(
                f'{name} refers to image {image}, which is not in `images`: add it there, or '
                'remove the annotation.'
            )
        annotated.add(image)
        texts = _texts(annotation, name)
        category = '' if texts else str(annotation.get('category_id'))
        for text in texts or [_category(annotation, categories, name)]:
            new = _Question(images[image], text, [], category)
            question = found.setdefault((image, text), new)
            question.annotations.append(annotation)
    for image, record in images.items():
        if image not in annotated:
            # Without annotations the image has no target.
            for text in _texts(record, f'image {image}'):
                found[image, text] = _Question(record, text, [])
    return list(found.values())


def _records(content: Any, name: str) -> list[dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise _BadAnnotation(f'`{name}` must be a list of objects.')
    return records


def _by_id(content: Any, name: str) -> dict[str, dict[str, Any]]:
    # Some programs write the same id as text in one list and as a number in another.
    records = _records(content, name)
    if any(one.get('id') is None for one in records):
        raise _BadAnnotation(f'an entry of `{name}` has no id: add one.')
    return {str(one['id']): one for one in records}


def _images(content: Any) -> dict[str, dict[str, Any]]:
    images = _by_id(content, 'images')
    for name, one in images.items():
        if not one.get('file_name'):
            raise _BadAnnotation(f'image {name} has no file_name: add it.')
    return {name: {**one, 'file_name': str(one['file_name'])} for name, one in images.items()}


def _texts(record: dict[str, Any], name: str) -> list[str]:
    """Return the distinct queries of a `text` field, which may be a list."""
    text = record.get('text')
    texts = text if isinstance(text, list) else [text]
    if any(isinstance(one, (dict, list, bool)) for one in texts):
        raise _BadAnnotation(
            f'{name} has the text {text!r}: write one query, or a list of queries.'
        )
    return list(dict.fromkeys(str(one) for one in texts if one not in (None, '')))


def _category(annotation: dict[str, Any], categories: dict[str, dict[str, Any]], name: str) -> str:
    """Return an annotation's category name, the query of an annotation without a text."""
    number = annotation.get('category_id')
    if number is None:
        raise _BadAnnotation(
            f'{name} has neither a text nor a category_id: write the query as its text.'
        )
    category = categories.get(str(number))
    if category is None:
        raise _BadAnnotation(
            f'{name} has the category_id {number}, which is not in `categories`: add it there, or '
            'give the annotation a text.'
        )
    if category.get('name') in (None, ''):
        raise _BadAnnotation(
            f'category {number} has no name: add one, or give its annotations a text.'
        )
    return str(category['name'])


def _name(annotation: dict[str, Any], number: int | str = '') -> str:
    return f'annotation {annotation.get("id", number)}'.strip()


def _stated(question: _Question) -> tuple[int, int] | None:
    """Return the (width, height) that the labels were made for; None if the file has none."""
    stated = stated_size(question.image)
    sizes = (size_of(one.get('segmentation')) for one in question.annotations)
    return stated or next(filter(None, sizes), None)


class _Object(NamedTuple):
    """One target: its mask and its box, as far as they are annotated."""

    mask: Mask | None
    box: Box | None


def _sample(image: RgbImage, question: _Question) -> Sample:
    height, width = image.shape[:2]
    annotations = question.annotations
    crowded = [bool(number_in(one, 'iscrowd')) for one in annotations]
    crowds = [one for one, is_crowd in zip(annotations, crowded, strict=True) if is_crowd]
    # Without other annotations the crowd is the target; CVAT exports brush masks this way.
    alone = len(crowds) == len(annotations)
    single = [
        one for one, is_crowd in zip(annotations, crowded, strict=True) if alone or not is_crowd
    ]
    objects = [found for one in single if (found := _object(one, height, width))]
    masks = tuple(found.mask for found in objects if found.mask is not None)
    mask = None
    if len(masks) == len(objects):
        mask = _union(masks, height, width)
        boxes = [found.box for found in objects]
    else:
        boxes = [found.box or _box_around(found.mask) for found in objects]
        # The boxes of only some objects are not the ground truth.
        boxes = [] if None in boxes else boxes
    ignore = None
    if crowds and not alone and mask is not None:
        drawn = (_ignored(one, height, width) for one in crowds)
        ignore = _union(tuple(drawn), height, width) & ~mask
    first = annotations[0] if annotations else {}
    count = number_in(first, 'count')
    if 'count' not in first and not (crowds and alone):
        count = len(objects)
    return Sample(
        image=image,
        text=question.text,
        mask=mask,
        ignore=ignore if ignore is not None and ignore.any() else None,
        masks=masks if mask is not None else (),
        boxes=tuple(box for box in boxes if box is not None),
        count=None if count is None else int(count),
        image_id=str(question.image['id']),
        ann_id=str(first.get('id', '')),
        category=question.category,
        crowds=_crowd_boxes(crowds, height, width),
    )


def _crowd_boxes(crowds: list[dict[str, Any]], height: int, width: int) -> tuple[Box, ...]:
    objects = filter(None, (_object(one, height, width) for one in crowds))
    boxes = (found.box or _box_around(found.mask) for found in objects)
    return tuple(box for box in boxes if box is not None)


def _ignored(crowd: dict[str, Any], height: int, width: int) -> Mask:
    """Return the region of a crowd among other annotations: its mask, else its box."""
    found = _object(crowd, height, width)
    if found is not None and found.mask is not None:
        return found.mask
    region = np.zeros((height, width), np.bool_)
    if found is not None and found.box is not None:
        x1, y1, x2, y2 = (max(round(value), 0) for value in found.box)
        region[y1:y2, x1:x2] = True
    return region


def _object(annotation: dict[str, Any], height: int, width: int) -> _Object | None:
    """Return an annotation's object; None for an explicitly empty annotation.

    Raises:
        _BadAnnotation: it has neither an object nor an empty segmentation.
    """
    name = _name(annotation)
    segmentation = annotation.get('segmentation')
    drawn = extent = None
    if segmentation is not None:
        drawn = read_segmentation(segmentation, height, width)
        extent = extent_of(segmentation)
    box = _box(annotation.get('bbox'), name)
    if drawn is not None and drawn.any():
        return _Object(drawn, box)
    # A polygon without a pixel in it still has an extent.
    box = box or (extent if extent and _has_area(extent) else None)
    if box is not None:
        x1, y1, x2, y2 = box
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise _BadAnnotation(
                f'{name} lies outside the image of {width}x{height} pixels: correct or remove it.'
            )
        return _Object(None, box)
    if any(annotation.get('keypoints') or ()):
        return _Object(None, None)
    if segmentation is None or extent or any(map(float, annotation.get('bbox') or ())):
        raise _BadAnnotation(
            f'{name} has no area: give it a segmentation or a bbox with an area, or write '
            '"segmentation": [] and no bbox if the image has no target.'
        )
    return None


def _box(bbox: Any, name: str) -> Box | None:
    """Return COCO's [x, y, width, height] as (x1, y1, x2, y2); None without an area."""
    if not bbox:
        return None
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError):
        x = y = width = height = math.nan
    if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
        raise _BadAnnotation(f'{name} has the bbox {bbox}, which is not [x, y, width, height].')
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
