"""A folder of pictures with .json files beside them: ReasonSeg as LISA published it, and labelme.

Each `x.jpg` has an `x.json` with `shapes` (a label and corners each) and `text`, the question
about what they mark together. Without `text`, as labelme and X-AnyLabeling write the files, each
label is a question of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from segzero_ros.evaluation.samples import DataError, decode_picture, Sample, stated_size
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

_PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, cv2.error)


class _Question(NamedTuple):
    """What is asked about a picture: a text, or one of its labels."""

    picture: Path
    shapes: Path
    text: str
    label: str | None


class LisaFolder:
    """Samples of a folder, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        """Read what is asked.

        Raises:
            DataError: a file cannot be read, or the folder holds no question.
        """
        self.name = folder.name
        pairs = find_pairs(folder)
        if not pairs:
            raise DataError(f'{folder} holds no picture with a .json file of the same name.')
        self._questions = [one for pair in pairs for one in _questions(*pair)]
        if not self._questions:
            raise DataError(
                f'{folder} holds no question: its .json files have neither a text nor a shape.'
            )

    def __len__(self) -> int:
        return len(self._questions)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            yield index, _sample(self._questions[index])


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pictures of a folder with their files of shapes, by name."""
    files = sorted(folder.iterdir())
    pictures: dict[str, Path] = {}
    for ending in _PICTURES:
        for path in files:
            if path.suffix.lower() == ending and path.is_file():
                pictures.setdefault(path.stem, path)
    shapes = (path for path in files if path.suffix == '.json')
    return [(pictures[path.stem], path) for path in shapes if path.stem in pictures]


def _questions(picture: Path, shapes: Path) -> list[_Question]:
    content = _read(shapes)
    try:
        text = _text(content)
        if text:
            return [_Question(picture, shapes, text, None)]
        labels = (label_of(shape) for shape in _shapes(content))
        asked = (label for label in labels if not is_flag(label) and not is_ignored(label))
        return [_Question(picture, shapes, label, label) for label in dict.fromkeys(asked)]
    except _UNREADABLE as error:
        raise DataError(f'{shapes} cannot be read: {error}') from error


def _text(content: dict[str, Any]) -> str:
    """Return what a file asks; '' where it asks nothing itself."""
    text = content.get('text')
    if isinstance(text, list):
        # Of several questions the first is asked, as the published set does.
        text = text[0] if text else ''
    if isinstance(text, (dict, list, bool)):
        raise TypeError(f'text is {text!r}: write one question, or a list of them')
    return '' if text is None else str(text)


def _shapes(content: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = content.get('shapes')
    if not isinstance(shapes, list):
        raise TypeError('it has no list of shapes, which ReasonSeg and labelme write')
    return shapes


def _sample(question: _Question) -> Sample:
    content = _read(question.shapes)
    try:
        stated = stated_size(content, 'imageWidth', 'imageHeight')
        picture = question.picture
        image = decode_picture(picture.read_bytes(), str(picture), stated)
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
    stem = question.picture.stem
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
    """Return a mask of each object: shapes of one `group_id` are one object."""
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
            # Some of the published files are in the code page of Windows.
            content = json.loads(data.decode('cp1252'))
    except ValueError as error:
        raise DataError(f'{path} is no JSON: {error}') from error
    if not isinstance(content, dict):
        raise DataError(
            f'{path} cannot be read: it holds no object with shapes, as ReasonSeg and labelme '
            'write it.'
        )
    return content
