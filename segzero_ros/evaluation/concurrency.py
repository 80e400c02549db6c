"""Concurrent queries to one server, so that it batches them and its GPU stays busy.

Each query in flight has its own client; they share one segmenter, which processes one image at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import replace
import threading
from typing import Any

from segzero_ros.cancellation import Check
from segzero_ros.evaluation.agent import add_agent
from segzero_ros.loading import (
    load_pipeline,
    load_reasoner,
    load_router,
    ReasonerOptions,
    SegmenterOptions,
)
from segzero_ros.pipeline import Pipeline
from segzero_ros.segmentation.base import PhraseFinder, Segmenter
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Frame, GroundedObject, Grounding, SegZeroError

_REMOTE = 'openai'


class ConcurrencyError(SegZeroError):
    """The models cannot answer queries concurrently; the message says which can."""


class SharedSegmenter:
    """A segmenter for several pipelines, one call at a time; its creator closes it.

    Args:
        segmenter: the segmenter.
        finder: the same, if it answers plain noun phrases.
    """

    def __init__(self, segmenter: Segmenter[Any], finder: PhraseFinder[Any] | None = None) -> None:
        self.name = segmenter.name
        self.takes_all_processors = segmenter.takes_all_processors
        self._segmenter = segmenter
        self._finder = finder
        self._lock = threading.Lock()

    def encode(self, frame: Frame, check: Check | None = None) -> Any:
        """Encode an image, after waiting for other calls."""
        with self._lock:
            return self._segmenter.encode(frame, check)

    def segment(
        self, encoding: Any, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Segment the objects, after waiting for other calls."""
        with self._lock:
            return self._segmenter.segment(encoding, grounding, check)

    def find(
        self, encoding: Any, phrase: str, check: Check | None = None
    ) -> tuple[GroundedObject, ...] | None:
        """Find what a phrase names, after waiting for other calls."""
        assert self._finder is not None
        with self._lock:
            return self._finder.find(encoding, phrase, check)

    def close(self) -> None:
        """Do nothing: other pipelines may still use it."""


@contextmanager
def load_pipelines(
    reasoner: ReasonerOptions, segmenter: SegmenterOptions, count: int, *, agent: bool = False
) -> Iterator[list[Pipeline]]:
    """Load pipelines for concurrent queries; close them at the end.

    Args:
        reasoner: options of the reasoner.
        segmenter: options of the segmenter.
        count: number of pipelines.
        agent: whether they search with SAM 3, see `agent.check_models`.

    Raises:
        ConcurrencyError: the models run in this process, which answers one query at a time.
        SegZeroError: the models cannot be loaded.
    """
    if count < 1:
        raise ConcurrencyError('--concurrency must be 1 or more.')
    if count > 1 and reasoner.backend != _REMOTE:
        raise ConcurrencyError(
            f'The reasoner {reasoner.backend!r} answers one query at a time: for '
            '--concurrency use one behind a server (--profile remote), or run several --shard.'
        )
    if agent:
        # The same SAM 3, with what finds phrases.
        segmenter = replace(segmenter, backend='sam3_fast_lane')
    with ExitStack() as stack:
        first = load_pipeline(reasoner, segmenter)
        stack.callback(first.close)
        if count == 1:
            if agent:
                add_agent(first)
            yield [first]
            return
        shared = SharedSegmenter(first.segmenter, first.phrase_finder)
        finder = shared if first.phrase_finder is not None else None
        limit = first.time_limit
        pipelines = [Pipeline(first.reasoner, shared, limit, first.router, finder)]
        for _ in range(count - 1):
            loaded = load_reasoner(reasoner)
            stack.callback(loaded.close)
            router = load_router(reasoner, loaded)
            pipelines.append(Pipeline(loaded, shared, limit, router, finder))
            stack.callback(pipelines[-1].close)
        if agent:
            for pipeline in pipelines:
                add_agent(pipeline)
        yield pipelines
