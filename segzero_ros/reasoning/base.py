"""What every reasoner is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from segzero_ros.types import Frame, GroundedObject, Grounding, Query

OnText = Callable[[str], None]
OnObject = Callable[[GroundedObject], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class Companion:
    """A model that is loaded after a reasoner and needs room as well: the segmenter.

    Attributes:
        device: where it goes, as in `SegmenterOptions`.
        size: bytes that it takes there, estimated.
    """

    device: str
    size: int


class FastPathError(Exception):
    """A part of a reasoner's fast path cannot be taken; the text says which, and why."""


def one_line_summary(error: Exception) -> str:
    """Return what an error says, in a line."""
    first = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {first}' if first else type(error).__name__


def ignore(_: object) -> None:
    """Listen to nothing."""


def never() -> bool:
    """Return False: nobody cancels."""
    return False


class Reasoner(Protocol):
    """A loaded model that answers one question at a time, from one thread.

    Attributes:
        name: which model answers, as published in SegmentationResult.reasoner.
        leaves_processors_free: whether others may have this machine's processors meanwhile.
    """

    @property
    def name(self) -> str:
        """Which model answers."""
        ...

    @property
    def leaves_processors_free(self) -> bool:
        """Whether it computes elsewhere than on this machine's processors: on a GPU, a server."""
        ...

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Say what in the frame the query means.

        Args:
            frame: the image asked about.
            query: the sentence.
            on_text: called with each further piece of the reasoning, as it is written.
            cancelled: asked at least once per generated token; the model stops when it is True.
            on_object: called with each object as soon as the model has closed it.

        Returns:
            The reasoning and the objects, in pixels of the source image.

        Raises:
            MalformedAnswer: the text cannot be read; it carries the raw text.
            Cancelled: `cancelled` became True.
            ReasonerTimeout: the time given was not enough.
            ReasonerUnavailable: the model or its server cannot be had.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the reasoner is not used again."""
        ...
