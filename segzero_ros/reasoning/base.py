"""The interface of all reasoners."""

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
    """A model that is loaded after a reasoner and shares its memory: the segmenter.

    Attributes:
        device: as in `SegmenterOptions`.
        size: estimated bytes on that device.
    """

    device: str
    size: int


class FastPathError(Exception):
    """A part of a reasoner's fast path cannot be used; the message names it and the reason."""


def one_line_summary(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    first = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {first}' if first else type(error).__name__


def ignore(_: object) -> None:
    """Ignore a callback."""


def never() -> bool:
    """Return False: never cancelled."""
    return False


class Reasoner(Protocol):
    """A loaded model that answers one query at a time, from one thread.

    Attributes:
        name: the model, as published in SegmentationResult.reasoner.
        leaves_processors_free: whether this machine's CPU stays free for others meanwhile.
        reads_marks: whether it answers in words about numbers drawn into the image.
    """

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def leaves_processors_free(self) -> bool:
        """Whether it runs on a GPU or a server, not on this machine's CPU."""
        ...

    @property
    def reads_marks(self) -> bool:
        """Whether it can choose among numbered marks."""
        ...

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Find the objects in the frame that the query means, or answer it in words.

        Args:
            frame: the image, with depth where there is one.
            query: the text and the task.
            on_text: called with each further piece of the reasoning while it is generated; for
                the task ANSWER with that of the answer, too.
            cancelled: polled at least once per generated token; True stops the model.
            on_object: called with each object as soon as it is complete.

        Returns:
            The reasoning and the objects, in pixels of the source image; for the task ANSWER the
            words, for the task COUNT the number if the model wrote one.

        Raises:
            UnsupportedTask: it cannot do the query's task.
            MalformedAnswer: the answer cannot be parsed; the error carries its text.
            Cancelled: `cancelled` became True.
            ReasonerTimeout: the time limit was exceeded.
            ReasonerUnavailable: the model or its server is not available.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the reasoner is not used again."""
        ...
