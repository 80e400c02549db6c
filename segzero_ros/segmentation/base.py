"""What every segmenter is."""

from __future__ import annotations

from typing import Protocol, TypeVar

from segzero_ros.cancellation import Check
from segzero_ros.types import Frame, Grounding, SegmentedMask

Encoding = TypeVar('Encoding')


class Segmenter(Protocol[Encoding]):
    """A loaded model that makes masks, used by one thread at a time.

    Attributes:
        name: which model it is, as published in SegmentationResult.segmenter.
        takes_all_processors: whether `encode` has no room beside a reasoner that computes here.
    """

    @property
    def name(self) -> str:
        """Which model makes the masks."""
        ...

    @property
    def takes_all_processors(self) -> bool:
        """Whether it has no room beside a reasoner that computes on the same processors."""
        ...

    def encode(self, frame: Frame, check: Check | None = None) -> Encoding:
        """Do everything that needs the frame but not the query.

        The pipeline runs this beside the reasoner, in a thread of its own, unless both want all
        of the processors, and hands the result to `segment` for every query about the frame.

        Args:
            frame: the picture.
            check: called now and then, where it can be; what it raises ends the encoding.
        """
        ...

    def segment(
        self, encoding: Encoding, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Make one mask per grounded object.

        Beside what is returned it takes memory for a few masks of the image's size, however many
        objects there are.

        Args:
            encoding: what `encode` returned for the frame.
            grounding: its boxes are already clipped to the image, with whole-pixel corners, at
                least one pixel wide and high; its points lie in the image.
            check: called at least before each object and, where a model makes the masks, before
                each of its layers; what it raises on a cancel or past a time limit ends the work.

        Returns:
            As many masks as objects, in their order; a mask may be empty.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the segmenter is not used again."""
        ...
