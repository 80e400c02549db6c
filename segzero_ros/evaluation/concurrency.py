"""Several questions at a time to one server, so that it batches them and its GPU stays busy.

Each question in flight has a client of its own; they share one segmenter, which works on one
picture after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, ExitStack
import threading
from typing import Any

from segzero_ros.cancellation import Check
from segzero_ros.loading import load_reasoner
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_pipeline, reasoner_options
from segzero_ros.segmentation.base import Segmenter
from segzero_ros.types import Frame, Grounding, SegmentedMask, SegZeroError

_SERVED = 'openai'


class ConcurrencyError(SegZeroError):
    """The models cannot answer so many questions at a time; the text says what can."""


class SharedSegmenter:
    """A segmenter for several pipelines, one call at a time; who made it closes it."""

    def __init__(self, segmenter: Segmenter[Any]) -> None:
        self.name = segmenter.name
        self.takes_all_processors = segmenter.takes_all_processors
        self._segmenter = segmenter
        self._lock = threading.Lock()

    def encode(self, frame: Frame, check: Check | None = None) -> Any:
        """Encode a picture when it is its turn."""
        with self._lock:
            return self._segmenter.encode(frame, check)

    def segment(
        self, encoding: Any, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Mark the objects when it is their turn."""
        with self._lock:
            return self._segmenter.segment(encoding, grounding, check)

    def close(self) -> None:
        """Do nothing: other pipelines may still use it."""


@contextmanager
def load_pipelines(parameters: Mapping[str, Any], count: int) -> Iterator[list[Pipeline]]:
    """Load models that answer so many questions at a time; close them at the end.

    Args:
        parameters: the node's.
        count: of the pipelines.

    Raises:
        ConcurrencyError: the models run in this process, where they take one at a time.
        SegZeroError: the models cannot be had.
    """
    if count < 1:
        raise ConcurrencyError('--concurrency must be 1 or more.')
    if count > 1 and parameters['reasoner'] != _SERVED:
        raise ConcurrencyError(
            f'The reasoner {parameters["reasoner"]!r} answers one question at a time: for '
            '--concurrency take one behind a server (--profile remote), or run several --shard.'
        )
    with ExitStack() as stack:
        first = load_pipeline(parameters)
        stack.callback(first.close)
        if count == 1:
            yield [first]
            return
        shared = SharedSegmenter(first.segmenter)
        limit = first.time_limit
        pipelines = [Pipeline(first.reasoner, shared, limit)]
        for _ in range(count - 1):
            pipelines.append(
                Pipeline(load_reasoner(reasoner_options(parameters.__getitem__)), shared, limit)
            )
            stack.callback(pipelines[-1].close)
        yield pipelines
