"""Answer a query about a frame: reasoning and image encoding in parallel, then segmentation.

The node, the replay and the evaluation all use this pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
import logging
import math
import time
from typing import Any

import numpy as np

from segzero_ros import spatial
from segzero_ros.background_thread import BackgroundThread
from segzero_ros.cancellation import Check
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText, Reasoner
from segzero_ros.segmentation.base import Segmenter
from segzero_ros.types import (
    Answer,
    Cancelled,
    Frame,
    GroundedObject,
    Grounding,
    MalformedAnswer,
    Pose3D,
    PoseStatus,
    Query,
    ReasonerTimeout,
    Roi,
    Segment,
    SegmentedMask,
    SegmenterTimeout,
    SegZeroError,
    Stage,
    Status,
    Timing,
)

OnStage = Callable[[Stage], None]
# The segmenter's encoding of a frame, and the seconds it took.
_Encoding = Future[tuple[Any, float]]

# Interval for checking for a cancel while waiting for the encoder, in seconds.
CANCEL_POLL = 0.02

# Limits for an answer: a model may generate any number of objects, points and characters.
MAX_OBJECTS = 200
MAX_POINTS = 100
MAX_LABEL_LENGTH = 200
# Limit for the pixels of all cropped masks of an answer (the result contains a byte for each):
# this number or this many full images, whichever is larger.
MAX_MASK_PIXELS = 2**28
MAX_MASK_IMAGES = 4

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
    """

    def __init__(
        self, reasoner: Reasoner, segmenter: Segmenter[Any], time_limit: float = 0.0
    ) -> None:
        self.reasoner = reasoner
        self.segmenter = segmenter
        self.time_limit = time_limit
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

        Returns:
            The answer, with a message whenever its status is not OK.
        """
        attempt = _Attempt(self, frame, query, listeners, cancelled)
        try:
            answer = attempt.run()
        except Cancelled as error:
            answer = attempt.failed(Status.CANCELED, 'The query was cancelled.', error.raw_answer)
        except (ReasonerTimeout, SegmenterTimeout) as error:
            answer = attempt.failed(Status.TIMEOUT, str(error), error.raw_answer)
        except MalformedAnswer as error:
            answer = attempt.failed(Status.MALFORMED_ANSWER, str(error), error.raw_answer)
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


class _Attempt:
    """The processing of one query; keeps partial results for the answer if it fails."""

    def __init__(
        self,
        pipeline: Pipeline,
        frame: Frame,
        query: Query,
        listeners: Listeners,
        cancelled: IsCancelled,
    ) -> None:
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

    def run(self) -> Answer:
        """Reason, segment and lift to 3-D; errors are raised."""
        self._stop_if_cancelled()
        self._stage = Stage.REASONING
        self._listeners.on_stage(Stage.REASONING)
        encoding = self._pipeline.begin_encoding(self._frame)
        grounding = None
        try:
            grounding = self._reason()
        finally:
            if encoding is not None and not (grounding and grounding.objects):
                encoding.cancel()
        self._stop_if_cancelled(grounding.raw_answer)
        if not grounding.objects:
            return self._answer(
                Status.NOT_FOUND,
                grounding.note or 'Nothing in the image matches the query.',
                grounding,
            )
        # From here on, failures are not the reasoner's.
        self._stage = Stage.SEGMENTING
        usable, warning = clean(grounding, self._frame.width, self._frame.height)
        if not usable.objects:
            raise MalformedAnswer(warning, grounding.raw_answer)
        self._listeners.on_stage(Stage.SEGMENTING)
        segments, mask_warning = self._segment(encoding, usable)
        self._stop_if_cancelled(grounding.raw_answer)
        has_pose = any(segment.pose is not None for segment in segments)
        distortion = spatial.rectification_warning(self._frame) if has_pose else ''
        missing = spatial.missing_pose_warning(self._frame, segments)
        warnings = (grounding.note, warning, mask_warning, distortion, missing)
        message = ' '.join(text for text in warnings if text)
        return replace(self._answer(Status.OK, message, grounding), segments=segments)

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

    def _reason(self) -> Grounding:
        started = time.perf_counter()
        try:
            grounding = self._pipeline.reasoner.reason(
                self._frame, self._query, self._on_text, self._cancelled, self._listeners.on_object
            )
        finally:
            self._reasoning_time = time.perf_counter() - started
        self._tokens = grounding.generated_tokens
        return grounding

    def _segment(
        self, encoding: _Encoding | None, grounding: Grounding
    ) -> tuple[tuple[Segment, ...], str]:
        """Return the segments, and a warning about dropped masks, if any."""
        started = time.perf_counter()
        check = partial(self._stop_if_cancelled_or_late, grounding.raw_answer)
        if encoding is None:
            encoding = self._pipeline.encode_here(self._frame, check)
        while wait([encoding], timeout=CANCEL_POLL).not_done:
            check()
        encoded, self._encoding_time = encoding.result()
        masks = self._pipeline.segmenter.segment(encoded, grounding, check)
        max_pixels = max_mask_pixels(self._frame)
        remaining = max_pixels
        segments: list[Segment] = []
        dropped: list[int] = []
        for number, (grounded, mask) in enumerate(
            zip(grounding.objects, masks, strict=True), start=1
        ):
            check()
            segment = make_segment(number, grounded, mask, self._frame, remaining)
            remaining -= segment.mask.size
            segments.append(segment)
            if segment.mask_roi != mask.roi:
                dropped.append(number)
        self._segmenting_time = time.perf_counter() - started
        return tuple(segments), _dropped_masks_warning(dropped, max_pixels)

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
        return Answer(
            query=self._query,
            status=status,
            message=message,
            frame=self._frame,
            reasoning=grounding.reasoning,
            raw_answer=grounding.raw_answer,
            reasoner=self._pipeline.reasoner.name,
            segmenter=self._pipeline.segmenter.name,
        )


def clean(grounding: Grounding, width: int, height: int) -> tuple[Grounding, str]:
    """Clip boxes to the image, and drop invalid boxes and points.

    Args:
        grounding: from the reasoner.
        width: columns of the image.
        height: rows of the image.

    Returns:
        The grounding with integer boxes of at least one pixel, limited to MAX_OBJECTS, MAX_POINTS
        per object and MAX_LABEL_LENGTH; and a warning that counts what was dropped, or an empty
        text.
    """
    objects = []
    points_dropped = 0
    for grounded in grounding.objects[:MAX_OBJECTS]:
        box = clip_box(grounded, width, height)
        if box is None:
            continue
        given = grounded.points[:MAX_POINTS]
        points = tuple((x, y) for x, y in given if 0 <= x <= width and 0 <= y <= height)
        points_dropped += len(given) - len(points)
        label = _truncated(grounded.label)
        objects.append(replace(grounded, box=box, points=points, label=label))
    warnings = []
    excess = max(0, len(grounding.objects) - MAX_OBJECTS)
    if excess:
        warnings.append(f'{excess} objects dropped: at most {MAX_OBJECTS} are segmented.')
    boxes_dropped = len(grounding.objects) - excess - len(objects)
    if boxes_dropped:
        warnings.append(
            f'{boxes_dropped} of {len(grounding.objects)} boxes dropped: not a number, inverted, '
            'empty or outside the image.'
        )
    if points_dropped:
        warnings.append(f'{points_dropped} points dropped: outside the image.')
    return replace(grounding, objects=tuple(objects)), ' '.join(warnings)


def _truncated(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else f'{label[: MAX_LABEL_LENGTH - 1]}…'


def clip_box(
    grounded: GroundedObject, width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Clip an object's box to the image.

    Args:
        grounded: the object.
        width: columns of the image.
        height: rows of the image.

    Returns:
        The box in integer pixels; None if it is invalid or outside the image.
    """
    x1, y1, x2, y2 = grounded.box
    if not all(map(math.isfinite, grounded.box)) or x2 <= x1 or y2 <= y1:
        return None
    left, right = (min(max(round(x), 0), width) for x in (x1, x2))
    top, bottom = (min(max(round(y), 0), height) for y in (y1, y2))
    if right <= left or bottom <= top:
        return None
    return float(left), float(top), float(right), float(bottom)


def describe_error(error: BaseException) -> str:
    """Return an unexpected error as one sentence for the user."""
    if isinstance(error, Exception):
        return f'{type(error).__name__}: {error}'
    return f'A model tried to end the program ({type(error).__name__}: {error}).'


def max_mask_pixels(frame: Frame) -> int:
    """Return the limit for the pixels of all masks of an answer about a frame."""
    return max(MAX_MASK_PIXELS, MAX_MASK_IMAGES * frame.width * frame.height)


def _dropped_masks_warning(dropped: list[int], max_pixels: int) -> str:
    if not dropped:
        return ''
    return (
        f'The masks of objects {", ".join(map(str, dropped))} were dropped, because all masks '
        f'together would have more than {max_pixels // 10**6} million pixels; their boxes and '
        'poses are included.'
    )


def make_segment(
    number: int, grounded: GroundedObject, mask: SegmentedMask, frame: Frame, max_pixels: int
) -> Segment:
    """Combine a grounded object and its mask, and lift it to 3-D if there is depth.

    Args:
        number: the object's id.
        grounded: the object.
        mask: its mask.
        frame: the frame.
        max_pixels: limit for its cropped mask; a larger one is dropped.
    """
    x1, y1, x2, y2 = (int(value) for value in grounded.box)
    pose: Pose3D | None = None
    pose_status = PoseStatus.NO_DEPTH
    if frame.depth is not None:
        pose, pose_status = spatial.lift(mask.mask, frame)
    fits = mask.roi.width * mask.roi.height <= max_pixels
    return Segment(
        id=number,
        label=grounded.label,
        score=mask.score,
        box=Roi(x1, y1, x2 - x1, y2 - y1),
        points=grounded.points,
        mask_roi=mask.roi if fits else Roi(0, 0, 0, 0),
        mask=mask.cropped if fits else np.zeros((0, 0), np.bool_),
        pose=pose,
        pose_status=pose_status,
    )
