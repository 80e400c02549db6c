"""Folders of images with .json files: ReasonSeg as published by LISA, and labelme.

Each `x.jpg` has an `x.json` with `shapes` (each a label and corners) and `text`, the query whose
target is all shapes together. Without `text`, as in files of labelme and X-AnyLabeling, each label
is a query of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from segzero_ros.evaluation.samples import DataError, decode_labelled_image, Sample, stated_size
from segzero_ros.evaluation.shapes import (
    draw_shapes,
    IGNORE,
    is_flag,
    is_ignored,
    label_of,
    mask_of,
    TARGET,
)
from segzero_ros.types import Mask

_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, cv2.error)


class _Question(NamedTuple):
    """A query about an image: its text, or one of its labels."""

    image: Path
    shapes: Path
    text: str
    label: str | None


class LisaFolder:
    """Samples of a folder, ordered by file name."""

    def __init__(self, folder: Path) -> None:
        """Read the queries.

        Raises:
            DataError: a file cannot be read, or the folder has no query.
        """
        self.name = folder.name
        pairs = find_pairs(folder)
        if not pairs:
            raise DataError(f'{folder} has no image with a .json file of the same name.')
        self._questions = [one for pair in pairs for one in _questions(*pair)]
        if not self._questions:
            raise DataError(
                f'{folder} has no query: its .json files have neither a text nor a shape.'
            )

    def __len__(self) -> int:
        return len(self._questions)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            yield index, _sample(self._questions[index])


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return a folder's (image, .json file) pairs, ordered by name."""
    files = sorted(folder.iterdir())
    images: dict[str, Path] = {}
    for ending in _IMAGE_SUFFIXES:
        for path in files:
            if path.suffix.lower() == ending and path.is_file():
                images.setdefault(path.stem, path)
    shapes = (path for path in files if path.suffix == '.json')
    return [(images[path.stem], path) for path in shapes if path.stem in images]


def _questions(image: Path, shapes: Path) -> list[_Question]:
    content = _read(shapes)
    try:
        text = _text(content)
        if text:
            return [_Question(image, shapes, text, None)]
        labels = (label_of(shape) for shape in _shapes(content))
        queries = (label for label in labels if not is_flag(label) and not is_ignored(label))
        return [_Question(image, shapes, label, label) for label in dict.fromkeys(queries)]
    except _UNREADABLE as error:
        raise DataError(f'{shapes} cannot be read: {error}') from error


def _text(content: dict[str, Any]) -> str:
    """Return a file's query; '' if it has none."""
    text = content.get('text')
    if isinstance(text, list):
        # The first of several queries, as in the published set.
        text = text[0] if text else ''
    if isinstance(text, (dict, list, bool)):
        raise TypeError(f'text is {text!r}: write one query, or a list of queries')
    return '' if text is None else str(text)


def _shapes(content: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = content.get('shapes')
    if not isinstance(shapes, list):
        raise TypeError('it has no list of shapes, as ReasonSeg and labelme write it')
    return shapes


def _sample(question: _Question) -> Sample:
    content = _read(question.shapes)
    try:
        stated = stated_size(content, 'imageWidth', 'imageHeight')
        path = question.image
        image = decode_labelled_image(path.read_bytes(), str(path), stated)
        height, width = image.shape[:2]
        shapes = _shapes(content)
        masks: tuple[Mask, ...] = ()
        if question.label is not None:
            shapes = [one for one in shapes if _belongs(one, question.label)]
            masks = _objects(shapes, height, width)
        values = draw_shapes(shapes, height, width)
    except _UNREADABLE as error:
        raise DataError(f'{question.shapes} cannot be read: {error}') from error
    ignore = values == IGNORE
    stem = question.image.stem
    return Sample(
        image=image,
        text=question.text,
        mask=values == TARGET,
        ignore=ignore if ignore.any() else None,
        masks=masks,
        count=len(masks) if masks else None,
        image_id=stem,
        ann_id=stem if question.label is None else f'{stem} {question.label}',
    )


def _belongs(shape: dict[str, Any], label: str) -> bool:
    return label_of(shape) == label or is_ignored(label_of(shape))


def _objects(shapes: list[dict[str, Any]], height: int, width: int) -> tuple[Mask, ...]:
    """Return the mask of each object; shapes with the same `group_id` are one object."""
    found: dict[Any, Mask] = {}
    for number, shape in enumerate(shapes):
        if is_ignored(label_of(shape)):
            continue
        group = shape.get('group_id')
        key = ('alone', number) if group is None else ('group', group)
        drawn = mask_of(shape, height, width)
        found[key] = found[key] | drawn if key in found else drawn
    return tuple(found.values())


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        try:
            content = json.loads(data)
        except UnicodeDecodeError:
            # Some of the published files are encoded as Windows-1252.
            content = json.loads(data.decode('cp1252'))
    except ValueError as error:
        raise DataError(f'{path} is not valid JSON: {error}') from error
    if not isinstance(content, dict):
        raise DataError(
            f'{path} cannot be read: it is not an object with shapes, as ReasonSeg and labelme '
            'write it.'
        )
    return content
