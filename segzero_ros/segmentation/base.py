"""The segmenter interface."""

from __future__ import annotations

from typing import Protocol, TypeVar

from segzero_ros.cancellation import Check
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Frame, GroundedObject, Grounding

Encoding = TypeVar('Encoding')
# What a `PhraseFinder` takes, and does not give.
GivenEncoding = TypeVar('GivenEncoding', contravariant=True)


class Segmenter(Protocol[Encoding]):
    """A loaded segmentation model, used by one thread at a time."""

    @property
    def name(self) -> str:
        """Name of the model, as published in SegmentationResult.segmenter."""
        ...

    @property
    def takes_all_processors(self) -> bool:
        """Whether `encode` should not run in parallel to a reasoner on the same processors."""
        ...

    def encode(self, frame: Frame, check: Check | None = None) -> Encoding:
        """Do everything that depends on the frame but not on the query.

        The pipeline runs this in parallel to the reasoner, unless both use all processors, and
        passes the result to `segment` for every query about the frame.

        Args:
            frame: the frame.
            check: called repeatedly if possible; an exception it raises aborts the encoding.
        """
        ...

    def segment(
        self, encoding: Encoding, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Segment each grounded object.

        Temporary memory is limited to a few masks of the image's size, however many objects there
        are.

        Args:
            encoding: from `encode` for the frame.
            grounding: its boxes are clipped to the image, with integer corners, at least one pixel
                wide and high; its points are inside the image. An object has a box, points or
                both.
            check: called at least before each object, and before each layer of a model; an
                exception it raises, on a cancel or a timeout, aborts the segmentation.

        Returns:
            One mask per object, in order; a mask may be empty.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the segmenter is not used again."""
        ...


class PhraseFinder(Protocol[GivenEncoding]):
    """A segmenter that also finds what a plain noun phrase names: the fast lane."""

    def find(
        self, encoding: GivenEncoding, phrase: str, check: Check | None = None
    ) -> tuple[GroundedObject, ...] | None:
        """Return all objects that a phrase names, the best first.

        Args:
            encoding: from the segmenter's `encode` for the frame.
            phrase: from `noun_phrase`.
            check: called before each layer; an exception it raises aborts the search.

        Returns:
            Their boxes, which may reach beyond the image; None if it cannot read the phrase.
        """
        ...
