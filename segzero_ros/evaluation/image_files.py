"""Sets published as image files with an index: a JSON list or JSON lines.

RefSpatial-Bench's folders (`question.json`), Where2Place (`point_questions.jsonl`, with `images`
and `masks`), ConverSeg (`data/*.jsonl`) and HalluSegBench (`data.json`). The fields of the first
entry tell which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from segzero_ros.evaluation.questions import bare_question
from segzero_ros.evaluation.samples import DataError, decode_labelled_image, decode_mask, Sample
from segzero_ros.types import Mask, RgbImage, Task

# Names of index files in a folder, the first that is there; ConverSeg's are named by its splits.
_INDEXES = ('question.json', 'point_questions.jsonl', 'data.json')
_HINT = (
    'its entries must have the fields of RefSpatial-Bench (rgb_path, mask_path, object), '
    'Where2Place (image, text), ConverSeg (image, mask, prompt) or HalluSegBench '
    '(factual_image_path, factual_mask_path, counterfactual_image_path, counterfactual_mask_path)'
)
# Whose label is asked about whose image, as HalluSegBench's figures name the four.
FACTUAL, COUNTERFACTUAL = 'factual', 'counterfactual'


def pair_group(label: str, image: str) -> str:
    """Return the group of HalluSegBench's queries with one label about one image."""
    return f'{label} label, {image} image'


class _Entry(NamedTuple):
    """A query about an image file.

    Attributes:
        image: the file.
        text: the query.
        mask: file with the target; None if nothing is meant.
        distractor: file with what a model that hallucinates marks.
        name: id of the entry.
        groups: for the report.
        task: what the set asks for.
        fit: whether to resize the masks to the image, as the published script does.
    """

    image: Path
    text: str
    mask: Path | None
    name: str
    task: Task
    distractor: Path | None = None
    groups: tuple[str, ...] = ()
    fit: bool = False


class ImageFiles:
    """Samples of an index of image files, in its order."""

    def __init__(self, index: Path, *, name: str = '', published_prompt: bool = False) -> None:
        """Read the index.

        Args:
            index: the JSON or JSON lines file.
            name: for reports; default: the name of its folder.
            published_prompt: ask what the paper asks point models, with the form of the answer.

        Raises:
            DataError: it cannot be read, or is no index of a published set.
        """
        self.name = name or (index.parent.name if index.name in _INDEXES else index.stem)
        records = _records(index)
        entries = _reader(records[0], index)
        self._entries: list[_Entry] = []
        for number, record in enumerate(records):
            self._entries += entries(_Fields(record, index, number), published_prompt)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            yield index, _sample(self._entries[index])


def find_index(folder: Path) -> Path | None:
    """Return a folder's index file that is named as in a published set; None without one."""
    for name in _INDEXES:
        path = folder / name
        if path.is_file() and (path.suffix == '.jsonl' or is_index(path)):
            return path
    return None


def find_splits(folder: Path, split: str = '') -> list[Path]:
    """Return the JSON lines files of a folder, one for each split.

    Args:
        folder: the folder; they may be in its `data`.
        split: only the file of this split; empty: all.
    """
    name = f'{split or "*"}.jsonl'
    return [*sorted(folder.glob(name)), *sorted(folder.glob(f'data/{name}'))]


def is_index(path: Path) -> bool:
    """Return whether a JSON file is a list, as an index is; other layouts are objects."""
    try:
        with path.open('rb') as file:
            return file.read(64).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'[')
    except OSError:
        return False


def _records(index: Path) -> list[Any]:
    try:
        data = index.read_bytes()
        if index.suffix == '.jsonl':
            records = [json.loads(line) for line in data.splitlines() if line.strip()]
        else:
            records = json.loads(data)
    except OSError as error:
        raise DataError(f'{index} cannot be read: {error.strerror}.') from error
    except ValueError as error:
        raise DataError(f'{index} is not valid JSON: {error}') from error
    if not isinstance(records, list) or not records:
        raise DataError(f'{index} has no entries: {_HINT}.')
    return records


class _Fields:
    """The fields of an entry, with errors that name it."""

    def __init__(self, record: Any, index: Path, number: int) -> None:
        self.where = f'{index}, entry {number}'
        if not isinstance(record, dict):
            raise DataError(f'{self.where} is not an object: {_HINT}.')
        self.index = index
        self.number = number
        self._record = record

    def text(self, *names: str) -> str:
        """Return the first of several fields that the entry has, as text."""
        for name in names:
            value = self._record.get(name)
            if isinstance(value, (dict, list, bool)):
                raise DataError(f'{self.where}: {name} is {value!r}: write a text.')
            if value not in (None, ''):
                return str(value)
        raise DataError(f'{self.where} has no {" or ".join(names)}: add it, or remove the entry.')

    def optional(self, name: str) -> str:
        """Return a field as text; '' without it."""
        value = self._record.get(name)
        return '' if value is None else str(value)

    def file(self, *names: str) -> Path:
        """Return the file of a field, relative to the index or to the folder above it."""
        name = self.text(*names)
        folders = (self.index.parent, self.index.parent.parent)
        return next(
            (folder / name for folder in folders if (folder / name).is_file()),
            self.index.parent / name,
        )


_Entries = Callable[[_Fields, bool], list[_Entry]]


def _reader(first: Any, index: Path) -> _Entries:
    """Return the function that reads the entries of an index, by the fields of the first."""
    names = set(first) if isinstance(first, dict) else set()
    for wanted, entries in _READERS:
        if wanted <= names:
            return entries
    raise DataError(f'{index} is not the index of a published set: {_HINT}.')


def _refspatial(fields: _Fields, published_prompt: bool) -> list[_Entry]:
    text = fields.text('object')
    if published_prompt:
        text = f'{fields.text("prompt")} {fields.optional("suffix")}'.strip()
    step = fields.optional('step')
    return [
        _Entry(
            image=fields.file('rgb_path'),
            text=text,
            mask=fields.file('mask_path'),
            name=fields.optional('id') or str(fields.number),
            task=Task.POINT,
            groups=(
                f'split: {fields.index.resolve().parent.name.lower()}',
                *([f'steps: {step}'] if step else []),
            ),
        )
    ]


def _where2place(fields: _Fields, published_prompt: bool) -> list[_Entry]:
    folder = fields.index.parent
    name = fields.text('image')
    # The masks are named by the images, or by the numbers of the questions.
    masks = [folder / 'masks' / name, folder / 'masks' / f'{fields.number:02d}.jpg']
    text = fields.text('text', 'question')
    return [
        _Entry(
            image=folder / 'images' / name,
            text=text if published_prompt else bare_question(text),
            mask=next((path for path in masks if path.is_file()), masks[0]),
            name=fields.optional('question_id') or str(fields.number),
            task=Task.POINT,
        )
    ]


def _converseg(fields: _Fields, published_prompt: bool) -> list[_Entry]:
    del published_prompt
    return [
        _Entry(
            image=fields.file('image'),
            text=fields.text('prompt'),
            mask=fields.file('mask'),
            name=fields.optional('id') or str(fields.number),
            task=Task.SEGMENT,
        )
    ]


def _hallusegbench(fields: _Fields, published_prompt: bool) -> list[_Entry]:
    """Return the four queries of a pair: each of both labels about each of both images."""
    del published_prompt
    images = {kind: fields.file(f'{kind}_image_path') for kind in (FACTUAL, COUNTERFACTUAL)}
    masks = {kind: fields.file(f'{kind}_mask_path') for kind in (FACTUAL, COUNTERFACTUAL)}
    labels = {
        FACTUAL: fields.text('factual_label', 'label'),
        COUNTERFACTUAL: fields.text('counterfactual_label'),
    }
    return [
        _Entry(
            image=images[image],
            text=labels[label],
            mask=masks[image] if label == image else None,
            distractor=None if label == image else masks[image],
            name=fields.optional('id') or str(fields.number),
            task=Task.SEGMENT,
            groups=(pair_group(label, image),),
            fit=True,
        )
        for image in (FACTUAL, COUNTERFACTUAL)
        for label in (FACTUAL, COUNTERFACTUAL)
    ]


_READERS: tuple[tuple[set[str], _Entries], ...] = (
    ({'rgb_path'}, _refspatial),
    ({'factual_image_path'}, _hallusegbench),
    ({'image', 'mask', 'prompt'}, _converseg),
    ({'image', 'text'}, _where2place),
    ({'image', 'question'}, _where2place),
)


def _sample(entry: _Entry) -> Sample:
    mask = None if entry.mask is None else decode_mask(_bytes(entry.mask), str(entry.mask))
    stated = None if mask is None or entry.fit else (mask.shape[1], mask.shape[0])
    image = decode_labelled_image(_bytes(entry.image), str(entry.image), stated)
    distractor = None
    if entry.distractor is not None:
        distractor = decode_mask(_bytes(entry.distractor), str(entry.distractor))
    if mask is None:
        mask = np.zeros(image.shape[:2], np.bool_)
    elif entry.task is Task.POINT and not mask.any():
        raise DataError(f'{entry.mask} has no target: correct or remove its entry.')
    return Sample(
        image=image,
        text=entry.text,
        mask=_fitted(mask, image),
        distractor=None if distractor is None else _fitted(distractor, image),
        image_id=entry.image.name,
        ann_id=entry.name,
        group=entry.groups,
        task=entry.task,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f'{path} cannot be read: {error.strerror}.') from error


def _fitted(mask: Mask, image: RgbImage) -> Mask:
    height, width = image.shape[:2]
    if mask.shape == (height, width):
        return mask
    size = (width, height)
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized != 0, np.bool_)
