"""A question with its truth, and what a set of them offers. Imports `types`, NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Box, DepthImage, Frame, Intrinsics, Mask, RgbImage, SegZeroError


class DataError(SegZeroError):
    """A data set cannot be read; the text names the place, the cause and the cure."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One question about one picture, with the truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        text: the question, as the data set has it.
        mask: (H, W) bool, what is meant, the union of all objects; None in sets that only count.
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


def decode_picture(data: bytes, where: str) -> RgbImage:
    """Return the (H, W, 3) uint8 RGB picture of an encoded file, as the published scripts see it.

    They do not turn pictures by their EXIF orientation, and drop transparency.

    Raises:
        DataError: it is no picture.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if picture is None:
        raise DataError(f'{where} holds no picture that OpenCV can read.')
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
