"""From a frame and a query to an answer: reasoning, the image's encoding beside it, then masks.

This is the one way through the house; the node, the replay and the evaluation all call it.
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
# What the segmenter makes of a frame, and the seconds that took.
_Encoding = Future[tuple[Any, float]]

# How long a cancel can go unnoticed while the encoder is waited for, in seconds.
CANCEL_POLL = 0.02

# What is kept of an answer: each object costs a mask, each label is published with it, and a model
# may write what it likes.
MOST_OBJECTS = 200
MOST_POINTS = 100
LONGEST_LABEL = 200
# All masks of an answer, cropped to their boxes, have no more pixels than this together, or than
# so many whole images where that is more; a result carries a byte for each.
MOST_MASK_PIXELS = 2**28
MOST_MASK_IMAGES = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listeners:
    """Who wants to hear how an answer comes about; all are called from the worker's thread."""

    on_stage: OnStage = ignore
    on_text: OnText = ignore
    on_object: OnObject = ignore


class Pipeline:
    """One reasoner and one segmenter, answering one query at a time from one thread.

    Args:
        reasoner: reads the query; keeps the time limit while it does.
        segmenter: makes the masks.
        time_limit: most seconds that an answer may take, its masks included; 0 for no limit.
    """

    def __init__(
        self, reasoner: Reasoner, segmenter: Segmenter[Any], time_limit: float = 0.0
    ) -> None:
        self.reasoner = reasoner
        self.segmenter = segmenter
        self.time_limit = time_limit
        # With two teams of threads that outnumber the processors OpenMP has their helpers sleep
        # between any two steps, for good, and a token takes 1.7 times as long (two cores, 92 M
        # parameters). SAM 2's own steps are long enough not to suffer, so beside a reasoner that
        # computes elsewhere it may have a team in either thread.
        self._beside = reasoner.leaves_processors_free or not segmenter.takes_all_processors
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

        Never raises for what a model or an input can do wrong: that is the answer's status.

        Args:
            frame: the picture asked about.
            query: the sentence.
            listeners: hear stages, reasoning and objects as they come.
            cancelled: asked throughout; the models stop when it becomes True.
            queued: seconds the query has waited already.
            frame_age: the frame's age at the query's acceptance, seconds.

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
            # A library that calls sys.exit() fails this query and ends nothing.
            _logger.exception('Query %r failed', query.id)
            answer = attempt.failed(Status.ERROR, in_words(error))
        return replace(answer, timing=attempt.timing(queued, frame_age))

    def begin_encoding(self, frame: Frame) -> _Encoding | None:
        """Have the frame encoded in the encoder's thread, unless it was before.

        Returns:
            What will hold the result; None where the caller's thread has to do it, see
            `encode_here`.
        """
        if self._encoded is not None and self._encoded[0] is frame:
            known = self._encoded[1]
            if not known.cancelled() and not (known.done() and known.exception()):
                return known
        self._encoded = None
        if not self._beside:
            return None
        future = self._encoder.do(partial(self._encode, frame))
        self._encoded = (frame, future)
        return future

    def encode_here(self, frame: Frame, check: Check) -> _Encoding:
        """Encode the frame in this thread; what `check` raises ends it."""
        future: _Encoding = Future()
        future.set_result(self._encode(frame, check))
        self._encoded = (frame, future)
        return future

    def _encode(self, frame: Frame, check: Check | None = None) -> tuple[Any, float]:
        started = time.perf_counter()
        encoding = self.segmenter.encode(frame, check)
        return encoding, time.perf_counter() - started

    def forget_frame(self) -> None:
        """Drop what is kept of the last frame."""
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
    """One query on its way; keeps what is known so far, for the answer that has to be given."""

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
        """Reason, segment and lift; raise what goes wrong."""
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
                grounding.note or 'Nothing in the image fits the query.',
                grounding,
            )
        # The reasoner has answered: what fails from here on is not its doing.
        self._stage = Stage.SEGMENTING
        usable, remarks = clean(grounding, self._frame.width, self._frame.height)
        if not usable.objects:
            raise MalformedAnswer(remarks, grounding.raw_answer)
        self._listeners.on_stage(Stage.SEGMENTING)
        segments, left_out = self._segment(encoding, usable)
        self._stop_if_cancelled(grounding.raw_answer)
        posed = any(segment.pose is not None for segment in segments)
        bent = spatial.rectification_warning(self._frame) if posed else ''
        missing = spatial.missing_pose_warning(self._frame, segments)
        texts = (grounding.note, remarks, left_out, bent, missing)
        message = ' '.join(text for text in texts if text)
        return replace(self._answer(Status.OK, message, grounding), segments=segments)

    def failed(self, status: Status, message: str, raw_answer: str = '') -> Answer:
        """Return the answer for a query that came to nothing."""
        grounding = Grounding(''.join(self._text), (), raw_answer)
        answer = self._answer(status, message, grounding)
        return replace(answer, failed_in=self._stage)

    def timing(self, queued: float, frame_age: float) -> Timing:
        """Return where the time went until now."""
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
        """Return the segments, and a sentence about masks that are left out, if any are."""
        started = time.perf_counter()
        check = partial(self._stop_if_over, grounding.raw_answer)
        if encoding is None:
            encoding = self._pipeline.encode_here(self._frame, check)
        while wait([encoding], timeout=CANCEL_POLL).not_done:
            check()
        encoded, self._encoding_time = encoding.result()
        masks = self._pipeline.segmenter.segment(encoded, grounding, check)
        room = mask_room(self._frame)
        segments: list[Segment] = []
        left_out: list[int] = []
        for number, (found, mask) in enumerate(
            zip(grounding.objects, masks, strict=True), start=1
        ):
            check()
            segment = make_segment(number, found, mask, self._frame, room)
            room -= segment.mask.size
            segments.append(segment)
            if segment.mask_roi != mask.roi:
                left_out.append(number)
        self._segmenting_time = time.perf_counter() - started
        return tuple(segments), _without_room(left_out, mask_room(self._frame))

    def _on_text(self, text: str) -> None:
        self._text.append(text)
        self._listeners.on_text(text)

    def _stop_if_cancelled(self, raw_answer: str = '') -> None:
        if self._cancelled():
            raise Cancelled(raw_answer)

    def _stop_if_over(self, raw_answer: str) -> None:
        self._stop_if_cancelled(raw_answer)
        limit = self._pipeline.time_limit
        if 0 < limit < time.perf_counter() - self._started:
            raise SegmenterTimeout(
                f'The masks were not made within the {limit:g} s that an answer may take. Raise '
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
    """Clip boxes to the image and drop what is no box or point in it.

    Args:
        grounding: as the reasoner gave it.
        width: columns of the image.
        height: rows of the image.

    Returns:
        The grounding with whole-pixel boxes of at least one pixel, and a sentence that counts what
        was dropped, empty when nothing was. Of objects, of their points and of their labels no
        more is kept than MOST_OBJECTS, MOST_POINTS and LONGEST_LABEL.
    """
    kept = []
    points_dropped = 0
    for found in grounding.objects[:MOST_OBJECTS]:
        box = clip_box(found, width, height)
        if box is None:
            continue
        given = found.points[:MOST_POINTS]
        points = tuple((x, y) for x, y in given if 0 <= x <= width and 0 <= y <= height)
        points_dropped += len(given) - len(points)
        kept.append(replace(found, box=box, points=points, label=_shortened(found.label)))
    remarks = []
    excess = max(0, len(grounding.objects) - MOST_OBJECTS)
    if excess:
        remarks.append(f'{excess} objects dropped: no more than {MOST_OBJECTS} are segmented.')
    boxes_dropped = len(grounding.objects) - excess - len(kept)
    if boxes_dropped:
        remarks.append(
            f'{boxes_dropped} of {len(grounding.objects)} boxes dropped: not a number, inverted, '
            'empty or outside the image.'
        )
    if points_dropped:
        remarks.append(f'{points_dropped} points dropped: outside the image.')
    return replace(grounding, objects=tuple(kept)), ' '.join(remarks)


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f'{label[: LONGEST_LABEL - 1]}…'


def clip_box(
    found: GroundedObject, width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Return the object's box clipped to the image, in whole pixels, or None if none is left."""
    x1, y1, x2, y2 = found.box
    if not all(map(math.isfinite, found.box)) or x2 <= x1 or y2 <= y1:
        return None
    left, right = (min(max(round(x), 0), width) for x in (x1, x2))
    top, bottom = (min(max(round(y), 0), height) for y in (y1, y2))
    if right <= left or bottom <= top:
        return None
    return float(left), float(top), float(right), float(bottom)


def in_words(error: BaseException) -> str:
    """Return what went wrong as one sentence for a person."""
    if isinstance(error, Exception):
        return f'{type(error).__name__}: {error}'
    return f'A model tried to end the program ({type(error).__name__}: {error}).'


def mask_room(frame: Frame) -> int:
    """Return how many pixels all masks of an answer about a frame may have together."""
    return max(MOST_MASK_PIXELS, MOST_MASK_IMAGES * frame.width * frame.height)


def _without_room(left_out: list[int], room: int) -> str:
    """Say which objects' masks are left out; empty when none is."""
    if not left_out:
        return ''
    return (
        f'The masks of objects {", ".join(map(str, left_out))} are left out, for all masks '
        f'together would have more than {room // 10**6} million pixels; their boxes and poses are '
        'here.'
    )


def make_segment(
    number: int, found: GroundedObject, made: SegmentedMask, frame: Frame, room: int
) -> Segment:
    """Put a grounded object and its mask together, with its pose where depth gives one.

    Args:
        number: the object's id.
        found: the object.
        made: its mask.
        frame: what it was found in.
        room: most pixels that its cropped mask may have; a larger one is left out.
    """
    x1, y1, x2, y2 = (int(value) for value in found.box)
    pose: Pose3D | None = None
    pose_status = PoseStatus.NO_DEPTH
    if frame.depth is not None:
        pose, pose_status = spatial.lift(made.mask, frame)
    fits = made.roi.width * made.roi.height <= room
    return Segment(
        id=number,
        label=found.label,
        score=made.score,
        box=Roi(x1, y1, x2 - x1, y2 - y1),
        points=found.points,
        mask_roi=made.roi if fits else Roi(0, 0, 0, 0),
        mask=made.cropped if fits else np.zeros((0, 0), np.bool_),
        pose=pose,
        pose_status=pose_status,
    )
