"""One's own data: a JSON file in the layout of COCO, with a `text` beside each annotation.

`images` have `id` and `file_name`; `annotations` have `image_id`, `segmentation` (polygons or a
run-length code), `bbox` and `text`, or a `category_id` whose name is asked for. Annotations of one
picture with the same text are one question about all of them, each text of a list is a question;
`iscrowd` marks what is ignored.
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
    decode_picture,
    number_in,
    Sample,
    stated_size,
)
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
            # Of bytes, json knows the encoding itself, also with the mark of Windows' editors.
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(f'{path} cannot be read: {error.strerror}.') from error
        except ValueError as error:
            raise DataError(f'{path} is no JSON: {error}') from error
        try:
            self._questions = _questions(content)
        except _Unclear as error:
            raise DataError(f'{path} is not laid out as COCO with texts: {error}') from error
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


def _questions(content: Any) -> list[_Question]:
    images = _images(content)
    categories = _by_id(content, 'categories') if content.get('categories') else {}
    found: dict[tuple[str, str], _Question] = {}
    annotated = set()
    for number, annotation in enumerate(_records(content, 'annotations'), 1):
        name = _name(annotation, number)
        image = str(annotation.get('image_id'))
        if image not in images:
            raise _Unclear(
                f'{name} is about the image {image}, which `images` does not list: add it there, '
                'or take the annotation out.'
            )
        annotated.add(image)
        for text in _texts(annotation, name) or [_category(annotation, categories, name)]:
            asked = found.setdefault((image, text), _Question(images[image], text, []))
            asked.annotations.append(annotation)
    for image, record in images.items():
        if image not in annotated:
            # Nothing in it was marked, so nothing in it is meant.
            for text in _texts(record, f'image {image}'):
                found[image, text] = _Question(record, text, [])
    return list(found.values())


def _records(content: Any, name: str) -> list[dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise _Unclear(f'it needs `{name}`, a list of objects.')
    return records


def _by_id(content: Any, name: str) -> dict[str, dict[str, Any]]:
    # Some programs write the same number as text in one place and as a number in another.
    records = _records(content, name)
    if any(one.get('id') is None for one in records):
        raise _Unclear(f'one of `{name}` has no id: give it one.')
    return {str(one['id']): one for one in records}


def _images(content: Any) -> dict[str, dict[str, Any]]:
    images = _by_id(content, 'images')
    for name, one in images.items():
        if not one.get('file_name'):
            raise _Unclear(f'image {name} has no file_name: name its picture there.')
    return {name: {**one, 'file_name': str(one['file_name'])} for name, one in images.items()}


def _texts(record: dict[str, Any], name: str) -> list[str]:
    """Return what is asked by a `text`, each question once; it may be a list of them."""
    text = record.get('text')
    texts = text if isinstance(text, list) else [text]
    if any(isinstance(one, (dict, list, bool)) for one in texts):
        raise _Unclear(f'{name} has the text {text!r}: write one question, or a list of them.')
    return list(dict.fromkeys(str(one) for one in texts if one not in (None, '')))


def _category(annotation: dict[str, Any], categories: dict[str, dict[str, Any]], name: str) -> str:
    """Return the name of an annotation's category, which is asked for where it has no text."""
    number = annotation.get('category_id')
    if number is None:
        raise _Unclear(
            f'{name} has neither a text nor a category_id: write what is asked as text.'
        )
    category = categories.get(str(number))
    if category is None:
        raise _Unclear(
            f'{name} has the category_id {number}, which `categories` does not list: add it '
            'there, or give the annotation a text.'
        )
    if category.get('name') in (None, ''):
        raise _Unclear(f'category {number} has no name: give it one, or its annotations a text.')
    return str(category['name'])


def _name(annotation: dict[str, Any], number: int | str = '') -> str:
    return f'annotation {annotation.get("id", number)}'.strip()


def _stated(question: _Question) -> tuple[int, int] | None:
    """Return the (width, height) that the labels were made for, as far as the file says."""
    stated = stated_size(question.image)
    sizes = (size_of(one.get('segmentation')) for one in question.annotations)
    return stated or next(filter(None, sizes), None)


class _Object(NamedTuple):
    """One object that is meant: where it is, as far as the annotation says."""

    mask: Mask | None
    box: Box | None


def _sample(picture: RgbImage, question: _Question) -> Sample:
    height, width = picture.shape[:2]
    annotations = question.annotations
    crowded = [bool(number_in(one, 'iscrowd')) for one in annotations]
    crowds = [one for one, is_crowd in zip(annotations, crowded, strict=True) if is_crowd]
    # Where nothing else is marked the crowd is what is meant; CVAT writes brushed masks so.
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
        # Boxes of some objects are not the truth about all of them.
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


def _ignored(crowd: dict[str, Any], height: int, width: int) -> Mask:
    """Return what a crowd marks beside others: its mask, or its box where it has that alone."""
    found = _object(crowd, height, width)
    if found is not None and found.mask is not None:
        return found.mask
    region = np.zeros((height, width), np.bool_)
    if found is not None and found.box is not None:
        x1, y1, x2, y2 = (max(round(value), 0) for value in found.box)
        region[y1:y2, x1:x2] = True
    return region


def _object(annotation: dict[str, Any], height: int, width: int) -> _Object | None:
    """Return what an annotation marks; None where it says that nothing is meant.

    Raises:
        _Unclear: it says neither where its object is nor that there is none.
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
    if segmentation is None or extent or any(map(float, annotation.get('bbox') or ())):
        raise _Unclear(
            f'{name} marks no area: give it a segmentation or a bbox with an area, or write '
            '"segmentation": [] and no bbox where nothing in the picture is meant.'
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
