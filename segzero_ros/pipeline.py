"""Answer a query about a frame: reasoning and image encoding in parallel, then segmentation.

The node, the replay and the evaluation all use this pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
import logging
import math
import time
from typing import Any

from segzero_ros import candidates, spatial
from segzero_ros.background_thread import BackgroundThread
from segzero_ros.cancellation import Check
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText, Reasoner
from segzero_ros.reasoning.router import route_by_rules, Router
from segzero_ros.segmentation.base import PhraseFinder, Segmenter
from segzero_ros.segmentation.noun_phrase import noun_phrase
from segzero_ros.segments import (
    clean,
    count_up,
    dropped_masks_warning,
    make_segment,
    max_mask_pixels,
    without_mask,
)
from segzero_ros.types import (
    Answer,
    Cancelled,
    Frame,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    RouterFailed,
    Segment,
    SegmenterTimeout,
    SegZeroError,
    Stage,
    Status,
    Task,
    Timing,
    UnsupportedTask,
)

OnStage = Callable[[Stage], None]
# Gives ids to the objects of an answer, by their labels.
Number = Callable[[Sequence[str]], Sequence[int]]
# The segmenter's encoding of a frame, and the seconds it took.
_Encoding = Future[tuple[Any, float]]

# The tasks of the fast lane, and its name in results.
FAST_TASKS = (Task.SEGMENT, Task.DETECT, Task.COUNT)
FAST_LANE = 'sam3'
# Interval for checking for a cancel while waiting for the encoder, in seconds.
CANCEL_POLL = 0.02

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listeners:
    """Callbacks for an answer's progress, all called from the worker's thread."""

    on_stage: OnStage = ignore
    on_text: OnText = ignore
    on_object: OnObject = ignore


class Pipeline:
    """One reasoner and one segmenter, answering one query at a time from one thread.

    Args:
        reasoner: grounds the query; enforces its own time limit.
        segmenter: segments the grounded objects.
        time_limit: seconds that an answer may take, including its masks; 0 for no limit.
        router: chooses the task of a query that leaves it open.
        phrase_finder: the segmenter, if it shall answer plain noun phrases without the reasoner.
    """

    def __init__(
        self,
        reasoner: Reasoner,
        segmenter: Segmenter[Any],
        time_limit: float = 0.0,
        router: Router = route_by_rules,
        phrase_finder: PhraseFinder[Any] | None = None,
    ) -> None:
        self.reasoner = reasoner
        self.segmenter = segmenter
        self.phrase_finder = phrase_finder
        self.time_limit = time_limit
        self.router = router
        # If two OpenMP teams have more threads than there are processors, OpenMP makes waiting
        # threads sleep instead of spin, permanently, and a token takes 1.7 times as long (measured
        # on two cores with 92 M parameters). SAM 2's steps are long enough not to suffer, so it
        # may run in either thread if the reasoner computes elsewhere.
        self._in_parallel = reasoner.leaves_processors_free or not segmenter.takes_all_processors
        self._encoder = BackgroundThread('encoder')
        self._encoded: tuple[Frame, _Encoding] | None = None

    def answer(
        self,
        frame: Frame,
        query: Query,
        listeners: Listeners = Listeners(),
        cancelled: IsCancelled = never,
        *,
        queued: float = 0.0,
        frame_age: float = math.nan,
        number: Number = count_up,
    ) -> Answer:
        """Answer a query about a frame.

        Errors of models and inputs are not raised, but reported in the answer's status.

        Args:
            frame: the frame.
            query: the query.
            listeners: called with stages, reasoning and objects as they arrive.
            cancelled: polled throughout; the models stop when it returns True.
            queued: seconds that the query has waited in the queue.
            frame_age: age of the frame when the query was accepted, seconds.
            number: gives the objects their ids.

        Returns:
            The answer, with a message whenever its status is not OK.
        """
        attempt = _Attempt(self, frame, query, listeners, cancelled, number)
        try:
            answer = attempt.run()
        except Cancelled as error:
            answer = attempt.failed(Status.CANCELED, 'The query was cancelled.', error.raw_answer)
        except (ReasonerTimeout, SegmenterTimeout) as error:
            answer = attempt.failed(Status.TIMEOUT, str(error), error.raw_answer)
        except MalformedAnswer as error:
            answer = attempt.failed(Status.MALFORMED_ANSWER, str(error), error.raw_answer)
        except (UnsupportedTask, candidates.BadCandidates) as error:
            answer = attempt.failed(Status.REJECTED, str(error))
        except SegZeroError as error:
            answer = attempt.failed(Status.ERROR, str(error))
        except (Exception, SystemExit) as error:
            # A library that calls sys.exit() must fail only this query.
            _logger.exception('Query %r failed', query.id)
            answer = attempt.failed(Status.ERROR, describe_error(error))
        return replace(answer, timing=attempt.timing(queued, frame_age))

    def begin_encoding(self, frame: Frame) -> _Encoding | None:
        """Encode the frame in the encoder's thread, unless it is encoded already.

        Returns:
            The future of the encoding; None if the caller's thread must do it, see `encode_here`.
        """
        if self._encoded is not None and self._encoded[0] is frame:
            future = self._encoded[1]
            if not future.cancelled() and not (future.done() and future.exception()):
                return future
        self._encoded = None
        if not self._in_parallel:
            return None
        future = self._encoder.submit(partial(self._encode, frame))
        self._encoded = (frame, future)
        return future

    def encode_here(self, frame: Frame, check: Check) -> _Encoding:
        """Encode the frame in this thread; an exception raised by `check` aborts it."""
        future: _Encoding = Future()
        future.set_result(self._encode(frame, check))
        self._encoded = (frame, future)
        return future

    def _encode(self, frame: Frame, check: Check | None = None) -> tuple[Any, float]:
        started = time.perf_counter()
        encoding = self.segmenter.encode(frame, check)
        return encoding, time.perf_counter() - started

    def forget_frame(self) -> None:
        """Drop the encoding of the last frame."""
        self._encoded = None

    def close(self) -> None:
        """Wait for the encoder and free both models."""
        if self._encoded is not None:
            self._encoded[1].cancel()
            self._encoded = None
        self.reasoner.close()
        self._encoder.close()
        self.segmenter.close()
        # A text model may be behind it.
        self.router = route_by_rules


class _Attempt:
    """The processing of one query; keeps partial results for the answer if it fails."""

    def __init__(
        self,
        pipeline: Pipeline,
        frame: Frame,
        query: Query,
        listeners: Listeners,
        cancelled: IsCancelled,
        number: Number,
    ) -> None:
        self._number = number
        self._pipeline = pipeline
        self._frame = frame
        self._query = query
        self._listeners = listeners
        self._cancelled = cancelled
        self._started = time.perf_counter()
        self._reasoning_time = 0.0
        self._encoding_time = 0.0
        self._segmenting_time = 0.0
        self._tokens = 0
        self._text: list[str] = []
        self._stage = Stage.QUEUED
        self._task = query.task or Task.SEGMENT
        # Why the router did not choose the task; empty if it did.
        self._routing = ''
        self._encoding: _Encoding | None = None

    def run(self) -> Answer:
        """Reason, segment and lift to 3-D, as the task wants; errors are raised."""
        self._stop_if_cancelled()
        self._stage = Stage.REASONING
        self._listeners.on_stage(Stage.REASONING)
        self._choose_task()
        masks = self._task is Task.SEGMENT
        phrase = self._fast_phrase()
        if masks or phrase:
            self._encoding = self._pipeline.begin_encoding(self._frame)
        grounding = None
        try:
            grounding = self._reason(phrase)
        finally:
            if self._encoding is not None and not (grounding and grounding.objects):
                self._encoding.cancel()
        self._stop_if_cancelled(grounding.raw_answer)
        if self._task is Task.ANSWER:
            return self._in_words(grounding)
        if not grounding.objects and not grounding.count:
            note = grounding.note or 'Nothing in the image matches the query.'
            return self._answer(Status.NOT_FOUND, note, grounding)
        # From here on, failures are not the reasoner's.
        self._stage = Stage.SEGMENTING
        usable, warning = clean(grounding, self._frame.width, self._frame.height)
        if grounding.objects and not usable.objects:
            raise MalformedAnswer(warning, grounding.raw_answer)
        ids = self._number([found.label for found in usable.objects])
        mask_warning = ''
        if masks:
            self._listeners.on_stage(Stage.SEGMENTING)
            segments, mask_warning = self._segment(usable, ids)
            self._stop_if_cancelled(grounding.raw_answer)
        else:
            segments = tuple(
                without_mask(number, found, self._frame)
                for number, found in zip(ids, usable.objects, strict=True)
            )
        has_pose = any(segment.pose is not None for segment in segments)
        distortion = spatial.rectification_warning(self._frame) if has_pose else ''
        missing = spatial.missing_pose_warning(self._frame, segments)
        counted = count_warning(grounding) if self._task is Task.COUNT else ''
        warnings = (grounding.note, warning, counted, mask_warning, distortion, missing)
        message = ' '.join(text for text in warnings if text)
        return replace(self._answer(Status.OK, message, grounding), segments=segments)

    def _choose_task(self) -> None:
        if self._query.task is not None:
            self._task = self._query.task
            return
        try:
            self._task = self._pipeline.router(self._query.text, self._cancelled)
        except RouterFailed as error:
            self._task = route_by_rules(self._query.text)
            self._routing = f'{error} So the task {self._task.name.lower()} was chosen by rules.'
            _logger.warning('%s', self._routing)
        self._query = replace(self._query, task=self._task)

    def _in_words(self, grounding: Grounding) -> Answer:
        if grounding.unanswered or (not grounding.answer and grounding.note):
            # The reasoner says why it has no answer.
            return self._answer(Status.NOT_FOUND, grounding.note, grounding)
        if not grounding.answer:
            raise MalformedAnswer('it is empty', grounding.raw_answer)
        return self._answer(Status.OK, grounding.note, grounding)

    def failed(self, status: Status, message: str, raw_answer: str = '') -> Answer:
        """Return the answer for a failed query."""
        grounding = Grounding(''.join(self._text), (), raw_answer)
        answer = self._answer(status, message, grounding)
        return replace(answer, failed_in=self._stage)

    def timing(self, queued: float, frame_age: float) -> Timing:
        """Return the durations of the stages so far."""
        return Timing(
            queued=queued,
            reasoning=self._reasoning_time,
            encoding=self._encoding_time,
            segmenting=self._segmenting_time,
            total=queued + time.perf_counter() - self._started,
            frame_age=frame_age,
            generated_tokens=self._tokens,
        )

    def _fast_phrase(self) -> str:
        """Return the phrase for the fast lane; empty if the query is the reasoner's."""
        fast = self._pipeline.phrase_finder is not None and self._task in FAST_TASKS
        return noun_phrase(self._query.text) if fast and not self._query.candidates else ''

    def _reason(self, phrase: str) -> Grounding:
        started = time.perf_counter()
        try:
            found = self._find(phrase) if phrase else None
            if found is not None:
                grounding = found
            elif self._query.candidates:
                grounding = self._choose()
            else:
                grounding = self._ground()
        finally:
            self._reasoning_time = time.perf_counter() - started
        self._tokens = grounding.generated_tokens
        return grounding

    def _find(self, phrase: str) -> Grounding | None:
        """Answer in the fast lane; None if it finds nothing, so that the reasoner is asked."""
        assert self._pipeline.phrase_finder is not None
        check = partial(self._stop_if_cancelled_or_late, '')
        found = self._pipeline.phrase_finder.find(self._encoded(check), phrase, check)
        if not found:
            return None
        number = f'{len(found)} objects' if len(found) > 1 else 'one object'
        reasoning = f'SAM 3 finds {number} for "{phrase}"; the reasoner was not asked.'
        self._on_text(reasoning)
        for each in found:
            self._listeners.on_object(each)
        return Grounding(reasoning, found, reasoner=FAST_LANE)

    def _encoded(self, check: Check) -> Any:
        """Return the segmenter's encoding of the frame."""
        if self._encoding is None:
            # A reasoner that needs it, too, may have made it.
            known = self._pipeline.begin_encoding(self._frame)
            self._encoding = known or self._pipeline.encode_here(self._frame, check)
        while wait([self._encoding], timeout=CANCEL_POLL).not_done:
            check()
        encoded, self._encoding_time = self._encoding.result()
        return encoded

    def _ground(self) -> Grounding:
        return self._pipeline.reasoner.reason(
            self._frame, self._query, self._on_text, self._cancelled, self._listeners.on_object
        )

    def _choose(self) -> Grounding:
        """Choose among the query's candidates."""
        boxes = candidates.clipped(self._query.candidates, self._frame)
        if self._task is Task.ANSWER or not self._pipeline.reasoner.reads_marks:
            return candidates.matched(self._ground(), boxes)
        frame = candidates.marked(self._frame, boxes)
        question = candidates.question(self._query.text, len(boxes))
        query = replace(self._query, text=question, task=Task.ANSWER)
        reason = self._pipeline.reasoner.reason
        words = reason(frame, query, self._on_text, self._cancelled)
        grounding = candidates.chosen(words, boxes, self._query.text)
        for found in grounding.objects:
            self._listeners.on_object(found)
        return grounding

    def _segment(
        self, grounding: Grounding, ids: Sequence[int]
    ) -> tuple[tuple[Segment, ...], str]:
        """Return the segments with these ids, and a warning about dropped masks, if any."""
        started = time.perf_counter()
        check = partial(self._stop_if_cancelled_or_late, grounding.raw_answer)
        masks = self._pipeline.segmenter.segment(self._encoded(check), grounding, check)
        max_pixels = max_mask_pixels(self._frame)
        remaining = max_pixels
        segments: list[Segment] = []
        dropped: list[int] = []
        for number, grounded, mask in zip(ids, grounding.objects, masks, strict=True):
            check()
            segment = make_segment(number, grounded, mask, self._frame, remaining)
            remaining -= segment.mask.size
            segments.append(segment)
            if segment.mask_roi != mask.roi:
                dropped.append(number)
        self._segmenting_time = time.perf_counter() - started
        return tuple(segments), dropped_masks_warning(dropped, max_pixels)

    def _on_text(self, text: str) -> None:
        self._text.append(text)
        self._listeners.on_text(text)

    def _stop_if_cancelled(self, raw_answer: str = '') -> None:
        if self._cancelled():
            raise Cancelled(raw_answer)

    def _stop_if_cancelled_or_late(self, raw_answer: str) -> None:
        self._stop_if_cancelled(raw_answer)
        limit = self._pipeline.time_limit
        if 0 < limit < time.perf_counter() - self._started:
            raise SegmenterTimeout(
                f'The masks were not finished within the time limit of {limit:g} s. Raise '
                'limits.answer_time, or use a smaller segmenter or a GPU.',
                raw_answer,
            )

    def _answer(self, status: Status, message: str, grounding: Grounding) -> Answer:
        answered = status in (Status.OK, Status.NOT_FOUND)
        return Answer(
            query=self._query,
            status=status,
            message=' '.join(text for text in (message, self._routing) if text),
            frame=self._frame,
            reasoning=grounding.reasoning,
            raw_answer=grounding.raw_answer,
            reasoner=grounding.reasoner or self._pipeline.reasoner.name,
            segmenter=self._pipeline.segmenter.name,
            task=self._task,
            answer=grounding.answer,
            count=number_of(grounding) if answered and self._task is Task.COUNT else None,
        )


def number_of(grounding: Grounding) -> int:
    """Return the number that the model wrote, or of the objects that it gave."""
    return len(grounding.objects) if grounding.count is None else grounding.count


def count_warning(grounding: Grounding) -> str:
    """Return a warning if the model wrote another number than it gave objects; else nothing."""
    given = len(grounding.objects)
    if grounding.count in (None, given):
        return ''
    return f'The model wrote the number {grounding.count}, but gave {given} objects.'


def describe_error(error: BaseException) -> str:
    """Return an unexpected error as one sentence for the user."""
    if isinstance(error, Exception):
        return f'{type(error).__name__}: {error}'
    return f'A model tried to end the program ({type(error).__name__}: {error}).'
