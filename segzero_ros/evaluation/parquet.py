"""The published layout: parquet files with images, queries and masks as nested lists.

Columns are `image` (encoded bytes), `text`, `mask` (rows of booleans), `image_id`, `ann_id`, and
in some sets `bbox`, `count`, `img_height` and `img_width`. Rows are decoded a few at a time, to
need little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from segzero_ros.evaluation.samples import DataError, decode_labelled_image, Sample, stated_size
from segzero_ros.extras import lacking
from segzero_ros.types import Box, Mask, RgbImage

# Rows decoded at once; the mask of a photograph has about 2 million entries.
BATCH_ROWS = 4
# Pixels that a box may exceed its image by, from rounding.
_ROUNDING = 1.0
_REQUIRED = ('image', 'text')
_SIZE = ('img_width', 'img_height')
_USED = (*_REQUIRED, 'mask', 'image_id', 'ann_id', 'bbox', 'count', *_SIZE)


class ParquetDataset:
    """Samples of parquet files, in the order of the files."""

    def __init__(self, files: Sequence[Path], name: str) -> None:
        """Read the numbers of rows.

        Args:
            files: in the order in which they are read.
            name: for reports.

        Raises:
            DataError: a file cannot be read or lacks a column.
        """
        self.name = name
        self._parts = [(path, *_read_layout(path)) for path in files]
        if not len(self):
            raise DataError(f'{name} has no samples.')

    def __len__(self) -> int:
        return sum(sum(groups) for _, _, groups in self._parts)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        first = 0
        for path, columns, groups in self._parts:
            for group, rows in enumerate(groups):
                inside = range(first, first + rows)
                if indices and indices[0] < inside.stop and indices[-1] >= first:
                    for number, row in zip(inside, _rows(path, group, columns), strict=True):
                        if number > indices[-1]:
                            return
                        if number in indices:
                            where = f'{path}, row {number - first} of group {group}'
                            yield number, _sample(row, where)
                first += rows


def _read_layout(path: Path) -> tuple[list[str], list[int]]:
    """Return the columns to read, and the number of rows of each row group."""
    parquet = _pyarrow_parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in _USED if name in file.schema_arrow.names]
            data = file.metadata
            groups = [data.row_group(number).num_rows for number in range(data.num_row_groups)]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f'{path} cannot be read as parquet: {error}') from error
    missing = [name for name in _REQUIRED if name not in columns]
    if missing or not {'mask', 'count', 'bbox'} & set(columns):
        raise DataError(
            f'{path} has no column {", ".join(missing) or "mask, bbox or count"}: it is not in '
            'the layout of the published evaluation sets.'
        )
    return columns, groups


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


def _sample(row: dict[str, Any], where: str) -> Sample:
    cell = row['image'].as_py()
    data = cell.get('bytes') if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise DataError(f'{where}: the image is not in the file.')
    mask = _mask(row['mask'], where) if 'mask' in row else None
    boxes = _boxes(row['bbox'].as_py(), where) if 'bbox' in row else ()
    image = _image(row, data, mask, where, strict=mask is None and bool(boxes))
    _check_inside(boxes, mask, image, where)
    if (
        mask is not None
        and not mask.any()
        and any(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes)
    ):
        # A box without a mask is not an image without a target.
        mask = None
    count = row['count'].as_py() if 'count' in row else None
    return Sample(
        image=image,
        text=_text(row['text'].as_py(), where),
        mask=mask,
        boxes=boxes,
        count=None if count is None else int(count),
        image_id=_name(row, 'image_id'),
        ann_id=_name(row, 'ann_id'),
    )


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
    rows = cell.values
    if not len(rows):
        raise DataError(f'{where}: the mask has no rows.')
    lengths = rows.value_lengths().to_numpy(zero_copy_only=False)
    if not (lengths == lengths[0]).all():
        raise DataError(f'{where}: the rows of the mask have different lengths.')
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(rows), int(lengths[0])) != 0, np.bool_)


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
    if not value:
        return ()
    boxes = value if isinstance(value[0], (list, tuple)) else [value]
    try:
        return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)
    except (TypeError, ValueError) as error:
        raise DataError(f'{where}: a box must be four numbers, but bbox is {value!r}.') from error


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


def _text(value: Any, where: str) -> str:
    if value is None or value == '':
        raise DataError(f'{where} has no text: write the query, or remove the row.')
    if isinstance(value, (list, dict)):
        raise DataError(f'{where}: text is {value!r}: write one row for each query.')
    return str(value)
