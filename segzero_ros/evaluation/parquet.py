"""The published layouts: parquet files with images, queries and their ground truth.

Columns are `image` (encoded bytes), the query (see `LAYOUTS`), `mask` (rows of booleans, or an
encoded image), `image_id`, `ann_id`, and in some sets `bbox`, `normalized_bbox`, `count`,
`cat_id`, `scene`, `step`, `img_height` and `img_width`. Rows are decoded a few at a time, to need
little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
import re
from typing import Any, NamedTuple

import numpy as np

from segzero_ros.evaluation.questions import bare_question
from segzero_ros.evaluation.samples import (
    DataError,
    decode_labelled_image,
    decode_mask,
    number_in,
    Sample,
    stated_size,
)
from segzero_ros.extras import lacking
from segzero_ros.types import Box, Mask, RgbImage, Task

# Rows decoded at once; the mask of a photograph has about 2 million entries.
BATCH_ROWS = 4
# Pixels that a box may exceed its image by, from rounding.
_ROUNDING = 1.0
_SIZE = ('img_width', 'img_height')
_TRUTH = ('mask', 'bbox', 'normalized_bbox', 'count')
_USED = ('image', *_TRUTH, 'image_id', 'ann_id', 'cat_id', 'scene', 'step', *_SIZE)
# A fraction of the image's side above this is no rounding error.
_MAX_FRACTION = 1.01
_SPLIT = re.compile(r'(\w+?)-\d{5}-of-\d{5}')


class Layout(NamedTuple):
    """How the sets of one kind are written.

    Attributes:
        text: column with the query.
        prompt: columns with what the paper asks point models, joined by spaces.
        name: column with the row's id.
        points: whether the sets ask for points.
    """

    text: str
    prompt: tuple[str, ...]
    name: str
    points: bool = True


# The first one whose query a file has is the file's.
LAYOUTS = (
    # Seg-Zero's and VisionReasoner's sets.
    Layout('text', ('text',), 'ann_id', points=False),
    # RefSpatial-Bench.
    Layout('object', ('prompt', 'suffix'), 'id'),
    # RoboRefIt.
    Layout('ref_exp', ('ref_exp',), 'id'),
    # Where2Place, RoboAfford-Eval.
    Layout('question', ('question',), 'question_id'),
    # VABench-Point, Part-Afford.
    Layout('problem', ('problem',), 'idx'),
)


class ParquetDataset:
    """Samples of parquet files, in the order of the files."""

    def __init__(
        self, files: Sequence[Path], name: str, *, published_prompt: bool = False
    ) -> None:
        """Read the numbers of rows.

        Args:
            files: in the order in which they are read.
            name: for reports.
            published_prompt: ask what the paper asks point models, with the form of the answer.

        Raises:
            DataError: a file cannot be read or lacks a column.
        """
        self.name = name
        self._published_prompt = published_prompt
        self._parts = [(path, *_read_layout(path, published_prompt)) for path in files]
        if not len(self):
            raise DataError(f'{name} has no samples.')

    def __len__(self) -> int:
        return sum(sum(groups) for *_, groups in self._parts)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        first = 0
        for path, layout, columns, groups in self._parts:
            for group, rows in enumerate(groups):
                inside = range(first, first + rows)
                if indices and indices[0] < inside.stop and indices[-1] >= first:
                    for number, row in zip(inside, _rows(path, group, columns), strict=True):
                        if number > indices[-1]:
                            return
                        if number in indices:
                            where = f'{path}, row {number - first} of group {group}'
                            text = self._text(row, layout, where)
                            yield number, _sample(row, layout, text, path, where)
                first += rows

    def _text(self, row: dict[str, Any], layout: Layout, where: str) -> str:
        if self._published_prompt:
            first, *more = layout.prompt
            parts = [_text(row[first].as_py(), first, where), *(row[one].as_py() for one in more)]
            return ' '.join(str(part) for part in parts if part)
        text = _text(row[layout.text].as_py(), layout.text, where)
        return bare_question(text) if layout.points else text


def _read_layout(path: Path, published_prompt: bool) -> tuple[Layout, list[str], list[int]]:
    """Return the layout, the columns to read, and the number of rows of each row group."""
    parquet = _pyarrow_parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            data = file.metadata
            groups = [data.row_group(number).num_rows for number in range(data.num_row_groups)]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f'{path} cannot be read as parquet: {error}') from error
    layout = next((one for one in LAYOUTS if one.text in names), LAYOUTS[0])
    required = ['image', layout.text, *(layout.prompt if published_prompt else ())]
    missing = [name for name in dict.fromkeys(required) if name not in names]
    if missing or not set(_TRUTH) & set(names):
        raise DataError(
            f'{path} has no column {", ".join(missing) or "mask, bbox or count"}: it is not in '
            'the layout of the published evaluation sets.'
        )
    used = dict.fromkeys((*required, layout.name, *_USED))
    return layout, [name for name in used if name in names], groups


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f'{lacking("Reading parquet files needs", error, "data")}.') from error
    return parquet


def _rows(path: Path, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        file = stack.enter_context(_pyarrow_parquet().ParquetFile(path, pre_buffer=False))
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            for number in range(batch.num_rows):
                yield {name: batch.column(name)[number] for name in columns}


def _sample(row: dict[str, Any], layout: Layout, text: str, path: Path, where: str) -> Sample:
    data = _encoded(row['image'])
    if data is None:
        raise DataError(f'{where}: the image is not in the file.')
    mask = _mask(row['mask'], where) if 'mask' in row else None
    boxes = _boxes(row['bbox'].as_py(), 'bbox', where) if 'bbox' in row else ()
    fractions = row['normalized_bbox'].as_py() if 'normalized_bbox' in row else None
    strict = layout.points or (mask is None and bool(boxes))
    image = _image(row, data, mask, where, strict=strict)
    if fractions:
        boxes = _scaled(_boxes(fractions, 'normalized_bbox', where), image, where)
    _check_inside(boxes, mask, image, where)
    if layout.points and not boxes and (mask is None or not mask.any()):
        raise DataError(f'{where} has no target: correct or remove the row.')
    if (
        mask is not None
        and not mask.any()
        and any(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes)
    ):
        # A box without a mask is not an image without a target.
        mask = None
    try:
        count, step = (
            number_in({name: row[name].as_py()} if name in row else {}, name)
            for name in ('count', 'step')
        )
    except ValueError as error:
        raise DataError(f'{where}: {error}.') from error
    return Sample(
        image=image,
        text=text,
        mask=mask,
        boxes=boxes,
        count=None if count is None else int(count),
        image_id=_name(row, 'image_id'),
        ann_id=_name(row, layout.name),
        group=_groups(row, path, step) if layout.points else (),
        task=_task(row, layout),
        category=_name(row, 'cat_id'),
    )


def _encoded(cell: Any) -> bytes | None:
    """Return the bytes of a cell with an encoded image; None for anything else."""
    value = cell.as_py()
    data = value.get('bytes') if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


def _task(row: dict[str, Any], layout: Layout) -> Task:
    """Return what a row's set asks for."""
    if layout.points:
        return Task.POINT
    if 'mask' in row:
        return Task.SEGMENT
    if 'cat_id' in row and 'bbox' in row:
        return Task.DETECT
    return Task.COUNT if 'bbox' not in row else Task.SEGMENT


def _groups(row: dict[str, Any], path: Path, step: float | None) -> tuple[str, ...]:
    """Return the names of a row's groups: its split, its scene, its number of steps."""
    split = _SPLIT.match(path.name)
    named = {
        'split': split[1] if split else None,
        'scene': row['scene'].as_py() if 'scene' in row else None,
        'steps': None if step is None else f'{step:g}',
    }
    return tuple(f'{name}: {value}' for name, value in named.items() if value not in (None, ''))


def _scaled(boxes: tuple[Box, ...], image: RgbImage, where: str) -> tuple[Box, ...]:
    """Return boxes in fractions of the image's sides in pixels."""
    if not all(-0.01 <= value <= _MAX_FRACTION for box in boxes for value in box):
        raise DataError(
            f'{where}: normalized_bbox is {[list(box) for box in boxes]}: write it as '
            "[x1, y1, x2, y2] in fractions of the image's width and height."
        )
    height, width = image.shape[:2]
    return tuple((x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in boxes)


def _image(
    row: dict[str, Any], data: bytes, mask: Mask | None, where: str, *, strict: bool
) -> RgbImage:
    """Return the image in the orientation of its labels: of the mask, else of the size columns.

    Conventions define how a mask of another size counts. Boxes without a mask are useless in an
    image of another size (`strict`).
    """
    if mask is not None:
        stated: tuple[int, int] | None = (mask.shape[1], mask.shape[0])
    else:
        try:
            stated = stated_size(
                {name: row[name].as_py() for name in _SIZE if name in row}, *_SIZE
            )
        except ValueError as error:
            raise DataError(f'{where}: {error}.') from error
    try:
        return decode_labelled_image(data, where, stated)
    except DataError:
        if strict:
            raise
        return decode_labelled_image(data, where)


def _name(row: dict[str, Any], column: str) -> str:
    return str(row[column].as_py()) if column in row else ''


def _mask(cell: Any, where: str) -> Mask | None:
    """Return a cell's (H, W) mask, without a Python object for each pixel."""
    if not cell.is_valid:
        return None
    from pyarrow import types

    if not (types.is_list(cell.type) or types.is_large_list(cell.type)):
        data = _encoded(cell)
        if data is None:
            raise DataError(f'{where}: the mask is not in the file.')
        return decode_mask(data, f'{where}, its mask')
    rows = cell.values
    if not len(rows):
        raise DataError(f'{where}: the mask has no rows.')
    lengths = rows.value_lengths().to_numpy(zero_copy_only=False)
    if not (lengths == lengths[0]).all():
        raise DataError(f'{where}: the rows of the mask have different lengths.')
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(rows), int(lengths[0])) != 0, np.bool_)


def _boxes(value: Any, name: str, where: str) -> tuple[Box, ...]:
    if not value:
        return ()
    boxes = value if isinstance(value[0], (list, tuple)) else [value]
    try:
        return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)
    except (TypeError, ValueError) as error:
        raise DataError(
            f'{where}: a box must be four numbers, but {name} is {value!r}.'
        ) from error


def _check_inside(boxes: tuple[Box, ...], mask: Mask | None, image: RgbImage, where: str) -> None:
    """Raise DataError for boxes that fit neither the image nor its mask.

    The two may differ in size, as in rows with a resized image.
    """
    sizes = {labelled.shape[:2] for labelled in (image, mask) if labelled is not None}
    fits = [
        all(
            -_ROUNDING <= value <= side + _ROUNDING
            for box in boxes
            for value, side in zip(box, (width, height) * 2, strict=True)
        )
        for height, width in sizes
    ]
    if not any(fits):
        height, width = image.shape[:2]
        raise DataError(
            f'{where}: the bbox {[list(box) for box in boxes]} lies outside its image of '
            f'{width}x{height} pixels: write it as [x1, y1, x2, y2] in pixels of the image.'
        )


def _text(value: Any, name: str, where: str) -> str:
    if value is None or value == '':
        raise DataError(f'{where} has no {name}: write the query, or remove the row.')
    if isinstance(value, (list, dict)):
        raise DataError(f'{where}: {name} is {value!r}: write one row for each query.')
    return str(value)
