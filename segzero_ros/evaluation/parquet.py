"""The published layout: parquet files with pictures, questions and masks as nested lists.

Columns `image` (encoded bytes), `text`, `mask` (rows of booleans), `image_id`, `ann_id`, and in
some sets `bbox`, `count`, `img_height` and `img_width`. Rows are decoded a few at a time, so a set
of any size needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from segzero_ros.evaluation.samples import DataError, decode_picture, Sample, stated_size
from segzero_ros.extras import lacking
from segzero_ros.types import Box, Mask, RgbImage

# Rows decoded at once: a mask of a photograph has some 2 million entries.
ROWS = 4
# A box may reach this many pixels beyond its picture by rounding.
_ROUNDING = 1.0
_NEEDED = ('image', 'text')
_SIZE = ('img_width', 'img_height')
_USED = (*_NEEDED, 'mask', 'image_id', 'ann_id', 'bbox', 'count', *_SIZE)


class ParquetDataset:
    """Samples of parquet files, in the files' order."""

    def __init__(self, files: Sequence[Path], name: str) -> None:
        """Read the files' lengths.

        Args:
            files: in the order in which they are read.
            name: for reports.

        Raises:
            DataError: a file cannot be read or lacks a column.
        """
        self.name = name
        self._parts = [(path, *_look(path)) for path in files]
        if not len(self):
            raise DataError(f'{name} holds no samples.')

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


def _look(path: Path) -> tuple[list[str], list[int]]:
    """Return the columns that are used and the rows of each row group."""
    parquet = _pyarrow_parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in _USED if name in file.schema_arrow.names]
            data = file.metadata
            groups = [data.row_group(number).num_rows for number in range(data.num_row_groups)]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f'{path} cannot be read as parquet: {error}') from error
    missing = [name for name in _NEEDED if name not in columns]
    if missing or not {'mask', 'count', 'bbox'} & set(columns):
        raise DataError(
            f'{path} has no column {", ".join(missing) or "mask, bbox or count"}: it is not laid '
            'out as the published evaluation sets.'
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
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
            for number in range(batch.num_rows):
                yield {name: batch.column(name)[number] for name in columns}


def _sample(row: dict[str, Any], where: str) -> Sample:
    image = row['image'].as_py()
    data = image.get('bytes') if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise DataError(f'{where}: the picture is not in the file.')
    mask = _mask(row['mask'], where) if 'mask' in row else None
    boxes = _boxes(row['bbox'].as_py(), where) if 'bbox' in row else ()
    picture = _picture(row, data, mask, where, strict=mask is None and bool(boxes))
    _check_inside(boxes, mask, picture, where)
    if (
        mask is not None
        and not mask.any()
        and any(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes)
    ):
        # A box without its mask is no empty picture.
        mask = None
    count = row['count'].as_py() if 'count' in row else None
    return Sample(
        image=picture,
        text=_text(row['text'].as_py(), where),
        mask=mask,
        boxes=boxes,
        count=None if count is None else int(count),
        image_id=_name(row, 'image_id'),
        ann_id=_name(row, 'ann_id'),
    )


def _picture(
    row: dict[str, Any], data: bytes, mask: Mask | None, where: str, *, strict: bool
) -> RgbImage:
    """Return the picture in the orientation of its labels: the mask's, else the columns'.

    What a mask of another size is worth is for the conventions to say, as published; boxes alone
    mean nothing in a picture of another size.
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
        return decode_picture(data, where, stated)
    except DataError:
        if strict:
            raise
        return decode_picture(data, where)


def _name(row: dict[str, Any], column: str) -> str:
    return str(row[column].as_py()) if column in row else ''


def _mask(cell: Any, where: str) -> Mask | None:
    """Return a cell's (H, W) mask without making a Python object of each pixel."""
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
        raise DataError(f'{where}: a box is four numbers, but bbox is {value!r}.') from error


def _check_inside(
    boxes: tuple[Box, ...], mask: Mask | None, picture: RgbImage, where: str
) -> None:
    """Raise DataError for boxes in other pixels than those of the picture or of its mask.

    Where the two differ in size, as in rows whose picture was squashed, either may be meant.
    """
    sizes = {labelled.shape[:2] for labelled in (picture, mask) if labelled is not None}
    fits = [
        all(
            -_ROUNDING <= value <= side + _ROUNDING
            for box in boxes
            for value, side in zip(box, (width, height) * 2, strict=True)
        )
        for height, width in sizes
    ]
    if not any(fits):
        height, width = picture.shape[:2]
        raise DataError(
            f'{where}: the bbox {[list(box) for box in boxes]} lies outside its picture of '
            f"{width}x{height} pixels: write it as [x1, y1, x2, y2] in the picture's own pixels."
        )


def _text(value: Any, where: str) -> str:
    if value is None or value == '':
        raise DataError(f'{where} has no text: write there what is asked, or take the row out.')
    if isinstance(value, (list, dict)):
        raise DataError(f'{where}: text is {value!r}: make a row of each question.')
    return str(value)
