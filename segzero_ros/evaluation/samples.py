"""A question with its truth, and what a set of them offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.image_file import decode_file
from segzero_ros.types import Box, DepthImage, Frame, Intrinsics, Mask, RgbImage, SegZeroError


class DataError(SegZeroError):
    """A data set cannot be read; the text names the place, the cause and the cure."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One question about one picture, with the truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        text: the question, as the data set has it.
        mask: (H, W) bool, what is meant, the union of all objects; all False where nothing is.
            None where it is not known: in sets that count or give boxes alone.
        ignore: (H, W) bool, pixels that some conventions leave out; None where there are none.
        boxes: the true boxes (x1, y1, x2, y2); empty where the data set gives none.
        count: how many objects are meant; None where the data set does not say.
        image_id: the data set's name for the picture.
        ann_id: the data set's name for the question.
        group: names by which figures are told apart, such as ('kind: colour',).
        labels: (H, W) integers, the visible object's id; with `targets`, for wrong objects.
        targets: the ids of the objects meant.
        depth: (H, W) float32 metres, where the data set has it.
        intrinsics: the camera's, where the data set has it.
        masks: (H, W) bool, of each object meant, where the data set tells them apart.
    """

    image: RgbImage
    text: str
    mask: Mask | None = None
    ignore: Mask | None = None
    boxes: tuple[Box, ...] = ()
    count: int | None = None
    image_id: str = ''
    ann_id: str = ''
    group: tuple[str, ...] = ()
    labels: NDArray[np.int16] | None = None
    targets: tuple[int, ...] = ()
    depth: DepthImage | None = None
    intrinsics: Intrinsics | None = None
    masks: tuple[Mask, ...] = ()

    @property
    def frame(self) -> Frame:
        """Return the picture as the pipeline takes it."""
        return Frame(self.image, depth=self.depth, intrinsics=self.intrinsics)


class Dataset(Protocol):
    """Samples in a fixed order, read one after the other."""

    @property
    def name(self) -> str:
        """Return what reports call it."""
        ...

    def __len__(self) -> int:
        """Return how many indices there are."""
        ...

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices, each with its own; some may have none.

        Only a bounded number of samples is in memory.
        """
        ...


def decode_picture(data: bytes, where: str, stated: tuple[int, int] | None = None) -> RgbImage:
    """Return the picture of an encoded file in the orientation that its labels are drawn in.

    Cameras store pictures lying on their side and write into EXIF how to turn them. Tools that
    people label with turn them, and so does `cv2.imread`; some programs that write the labels
    down do not. The size that was written down with the labels says which it was. Where it fits
    both ways (a square, a half turn, a mirror image) or is not known, the picture is turned as a
    person sees it. Channels of 16 bits are scaled as the node scales a camera's. Transparency is
    dropped.

    Args:
        data: the file's content.
        where: the file, for messages.
        stated: (width, height) that was written down with the labels; None where none was.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: it is no picture, or has the stated size in neither orientation.
    """
    shown = decode_file(data)
    if shown is None:
        raise DataError(f'{where} holds no picture that OpenCV can read.')
    if stated is None or stated == _size(shown):
        return shown
    stored = decode_file(data, stored=True)
    if stored is None or stated != _size(stored):
        real, said = (f'{width}x{height}' for width, height in (_size(shown), stated))
        raise DataError(
            f'{where} has {real} pixels, but its labels were made for {said}: name the picture '
            'that was labelled, or correct the size beside the labels.'
        )
    return stored


def _size(picture: RgbImage) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def stated_size(
    record: Mapping[str, Any], width: str = 'width', height: str = 'height'
) -> tuple[int, int] | None:
    """Return (width, height) as a file states it; None where it states none, or zeros.

    Args:
        record: what the file says about the picture.
        width: the name of the field with its columns.
        height: the name of the field with its rows.

    Raises:
        ValueError: a field holds no number; the text names it.
    """
    sides = [number_in(record, name) for name in (width, height)]
    if any(side is None or side <= 0 for side in sides):
        return None
    columns, rows = (int(side) for side in sides if side is not None)
    return columns, rows


def number_in(record: Mapping[str, Any], field: str) -> float | None:
    """Return a field's number, also where it is written as text; None where there is none.

    Raises:
        ValueError: it is something else; the text names the field.
    """
    value = record.get(field)
    if value is None or value == '' or value != value:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f'{field} is {value!r}, which is no number: correct it, or take it out')
    return number
