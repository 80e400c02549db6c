"""Samples (a query with its ground truth), and the interface of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.image_file import decode_file
from segzero_ros.types import (
    Box,
    DepthImage,
    Frame,
    Intrinsics,
    Mask,
    RgbImage,
    SegZeroError,
    Task,
)

# Begins the group of a sample of one of several bags, before the bag's name.
BAG = 'bag: '
# How a JPEG file begins.
_JPEG = b'\xff\xd8'


class DataError(SegZeroError):
    """A data set cannot be read; the message has the location, the reason and a hint."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One query about one image, with ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        text: the query.
        mask: (H, W) bool, union of all targets; all False without a target. None if unknown, as in
            sets with only counts or boxes.
        ignore: (H, W) bool, pixels that some conventions ignore; None without any.
        boxes: the true boxes (x1, y1, x2, y2); empty if the data set has none.
        count: number of targets; None if unknown.
        image_id: id of the image in the data set.
        ann_id: id of the annotation in the data set.
        group: names of the groups that it belongs to in reports, such as ('kind: colour',).
        labels: (H, W) ids of the visible objects, to detect wrong objects with `targets`.
        targets: ids of the targets.
        depth: (H, W) float32 metres; None if the data set has none.
        intrinsics: of the camera; None if the data set has none.
        masks: (H, W) bool for each target, if the data set has instance masks.
        task: what its data set asks for.
        category: id of the targets' category, for COCO's AP; empty if the set has none.
        crowds: boxes (x1, y1, x2, y2) of crowds, which COCO's AP ignores.
        distractor: (H, W) bool, what a model that hallucinates takes for the target; None if the
            data set marks none.
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
    task: Task = Task.SEGMENT
    category: str = ''
    crowds: tuple[Box, ...] = ()
    distractor: Mask | None = None

    @property
    def frame(self) -> Frame:
        """Return the image as a frame for the pipeline."""
        return Frame(self.image, depth=self.depth, intrinsics=self.intrinsics)


class Dataset(Protocol):
    """Samples in a fixed order, read sequentially."""

    @property
    def name(self) -> str:
        """Return the name for reports."""
        ...

    def __len__(self) -> int:
        """Return the number of indices."""
        ...

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield (index, sample) for ascending indices; an index may have no sample.

        Only a few samples are in memory at a time.
        """
        ...


@runtime_checkable
class Recordings(Dataset, Protocol):
    """A data set of several recordings, each read in one pass."""

    @property
    def starts(self) -> Sequence[int]:
        """Return the first index of each recording."""
        ...


def recording_starts(dataset: Dataset) -> Sequence[int] | None:
    """Return the first index of each recording; None for a data set that has none."""
    return dataset.starts if isinstance(dataset, Recordings) else None


def decode_labelled_image(
    data: bytes, where: str, stated: tuple[int, int] | None = None
) -> RgbImage:
    """Return an encoded image in the orientation that its labels were drawn in.

    Cameras store the orientation in EXIF. Labelling tools and `cv2.imread` apply it; some export
    scripts do not. The image size in the label file decides which was the case. If it fits both
    orientations (a square, a half turn, a mirror image) or is unknown, EXIF is applied. 16-bit
    channels are scaled as in the node; alpha is dropped.

    Args:
        data: the file's content.
        where: the file, for messages.
        stated: (width, height) in the label file; None if unknown.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: it is not an image, or has another size in both orientations.
    """
    upright = decode_file(data)
    if upright is None:
        raise DataError(f'{where} is not an image that OpenCV can read.')
    if stated is None or stated == _size(upright):
        return upright
    stored = decode_file(data, stored=True)
    if stored is None or stated != _size(stored):
        real, labelled = (f'{width}x{height}' for width, height in (_size(upright), stated))
        raise DataError(
            f'{where} has {real} pixels, but its labels were made for {labelled}: give the image '
            'that was labelled, or correct the size in the label file.'
        )
    return stored


def _size(image: RgbImage) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def decode_mask(data: bytes, where: str) -> Mask:
    """Return an encoded mask image; every pixel that is not 0 belongs to the target.

    A JPEG is cut at half of the range, because its compression blurs the edge.

    Args:
        data: the file's content.
        where: the file, for messages.

    Returns:
        (H, W) bool.

    Raises:
        DataError: it is not an image.
    """
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    values = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if values is None:
        raise DataError(f'{where}: the mask is not an image that OpenCV can read.')
    return np.asarray(values > (127 if data.startswith(_JPEG) else 0), np.bool_)


def stated_size(
    record: Mapping[str, Any], width: str = 'width', height: str = 'height'
) -> tuple[int, int] | None:
    """Return the (width, height) of a file's record; None if missing or 0.

    Args:
        record: the image's record.
        width: name of the field with the width.
        height: name of the field with the height.

    Raises:
        ValueError: a field is not a number; the message names it.
    """
    sides = [number_in(record, name) for name in (width, height)]
    if any(side is None or side <= 0 for side in sides):
        return None
    columns, rows = (int(side) for side in sides if side is not None)
    return columns, rows


def number_in(record: Mapping[str, Any], field: str) -> float | None:
    """Return a field's number, also if it is written as text; None if missing.

    Raises:
        ValueError: it is not a number; the message names the field.
    """
    value = record.get(field)
    if value is None or value == '' or value != value:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f'{field} is {value!r}, which is not a number: correct or remove it')
    return number
