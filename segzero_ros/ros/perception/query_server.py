"""How a query gets its answer: accepted in the executor's thread, answered in the worker's."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
import logging
import math
import threading
import time
import uuid

from rclpy.clock import Clock
from sensor_msgs.msg import Image

from segzero_ros.conversions.text import read_query
from segzero_ros.msg import SegmentationResult
from segzero_ros.pipeline import describe_error, Listeners, Pipeline
from segzero_ros.rgbd.frames import frame_of
from segzero_ros.ros.camera.rgbd_subscriber import NoImage, RgbdSubscriber, TakenFrame
from segzero_ros.ros.health.process_memory import pool_large_blocks
from segzero_ros.ros.message_factory import to_result
from segzero_ros.ros.perception.live_tracking import LiveTracking
from segzero_ros.ros.perception.query_queue import describe, PendingQuery, QueryQueue, SILENT
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.types import Answer, BadImage, Query, S_TO_NS, Stage, Status, Timing

Deliver = Callable[[SegmentationResult], None]

SUCCESSES = (Status.OK, Status.NOT_FOUND)
FAILURES = (Status.ERROR, Status.MALFORMED_ANSWER, Status.TIMEOUT, Status.NO_IMAGE)
# Most seconds that publishing a piece of reasoning takes another thread, unless it hangs.
PUBLISHING = 0.1
# How many answers tell whether the models are slow.
RECENT = 20
_logger = logging.getLogger(__name__)


class QueryServer:
    """Takes queries in and sees that each gets exactly one result.

    Attributes:
        queue: where they wait.
        camera: what they are about; None while the node is not active.
        pipeline: who answers them; None while the node is not configured.
        following: what goes on after an answer, where that is wanted.
        max_image_age: how old a frame may be when a query is accepted, seconds; 0 for any age.
        max_pixels: most pixels of an image that comes with its query.
        counts: how many queries ended with each status.
        last_timing: of the last query that a model answered.
        recent: seconds that the models took for each of the last answers.
        last_error: the message of the last query if it failed; empty when it did not.
        failed_at: when that was, seconds of the monotonic clock.
    """

    def __init__(
        self, queue: QueryQueue, worker: Worker, publishers: ResultPublishers, clock: Clock
    ) -> None:
        self.queue = queue
        self.camera: RgbdSubscriber | None = None
        self.pipeline: Pipeline | None = None
        self.tracking = LiveTracking(lambda: self.camera, worker.wanted, publishers.tracked)
        self.max_image_age = 0.0
        self.max_pixels = 0
        self.counts: Counter[Status] = Counter()
        self.last_timing: Timing | None = None
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.last_error = ''
        self.failed_at = 0.0
        self._worker = worker
        self._publishers = publishers
        self._clock = clock
        self._open: set[PendingQuery] = set()
        self._open_lock = threading.Lock()
        self._relay: Relay | None = None

    @property
    def open(self) -> list[PendingQuery]:
        """The pending queries that have no answer yet."""
        with self._open_lock:
            return list(self._open)

    @property
    def idle(self) -> bool:
        """Whether there is a picture to ask about, and no query here."""
        return (
            self.pipeline is not None
            and self.camera is not None
            and not self.camera.absence(self.max_image_age)
            and self.queue.current is None
            and not self.queue.waiting
        )

    def ask(
        self,
        text: str,
        deliver: Deliver | None = None,
        *,
        query_id: str = '',
        image: Image | None = None,
        listeners: Listeners = SILENT,
        low_priority: bool = False,
    ) -> PendingQuery:
        """Take in a query; never waits and never decodes.

        Args:
            text: the sentence as it came.
            deliver: called once with the result, from this thread or the worker's.
            query_id: what the query is called; empty: a new id.
            image: the picture to ask about; None or an empty one: the newest camera frame.
            listeners: hear how the answer comes about, from the worker's thread.
            low_priority: make way for every query that does not.
        """
        tidied, complaint = read_query(text)
        pending = PendingQuery(
            Query(tidied, query_id or uuid.uuid4().hex),
            lambda answer: self._deliver(pending, answer, deliver),
            image=None if image is None or is_empty(image) else image,
            listeners=listeners,
            accepted_ns=self._clock.now().nanoseconds,
            low_priority=low_priority,
        )
        with self._open_lock:
            self._open.add(pending)
        try:
            if complaint:
                pending.refuse(Status.REJECTED, complaint)
            elif absence := self._absence(pending):
                pending.refuse(Status.NO_IMAGE, absence)
            elif self.queue.submit(pending):
                self._worker.do(self._serve_next, 'answering, or following objects')
        except Exception as error:
            _logger.exception('Query %s cannot be taken in', pending.query.id)
            pending.refuse(Status.ERROR, f'The query cannot be taken in: {describe_error(error)}')
        return pending

    def abandon(self, pending: PendingQuery, status: Status, message: str) -> None:
        """Answer a query whose models do not come to an end, and go on without them."""
        pending.abandoned = True
        if (relay := self._relay) is not None:
            relay.end()
        pending.cancel(message)
        self.queue.done(pending)
        self.go_on_without_models()
        pending.refuse(status, message)

    def go_on_without_models(self) -> None:
        """Leave the models behind, with what the worker does with them now.

        They are not closed, for they are still used; they are free when that ends.
        """
        self.pipeline = None
        self.tracking = self.tracking.abandon()
        self._worker.abandon()

    def _absence(self, pending: PendingQuery) -> str:
        """Say why there is nothing to ask about; the queue reports a node that is not active."""
        if self.camera is None or pending.image is not None:
            return ''
        return self.camera.absence(self.max_image_age)

    def _serve_next(self) -> None:
        """Answer the next query, if it still waits, then track; in the worker's thread."""
        tracking = self.tracking
        pending = self.queue.take()
        if pending is not None:
            self._serve(pending)
            if pending.abandoned:
                # Another thread does the worker's jobs by now, and follows by other means.
                return
        tracking.run()

    def _serve(self, pending: PendingQuery) -> None:
        try:
            answer = self._answer(pending)
        except BaseException as error:
            # Whatever a model raises: SystemExit would end this thread, and with it all queries.
            _logger.exception('Query %s failed', pending.query.id)
            answer = pending.failed(Status.ERROR, describe_error(error))
        # Its time counts no longer; what comes now has its own.
        self._worker.alive()
        self.queue.done(pending)
        if pending.answer(answer):
            self._show(answer)

    def _show(self, answer: Answer) -> None:
        try:
            self._publishers.show(answer)
        except Exception:
            _logger.exception('The answer to query %s cannot be drawn', answer.query.id)

    def _answer(self, pending: PendingQuery) -> Answer:
        assert self.pipeline is not None
        queued = pending.elapsed
        try:
            taken = self._take_frame(pending)
        except NoImage as error:
            return pending.failed(Status.NO_IMAGE, str(error))
        except BadImage as error:
            return pending.failed(Status.ERROR, str(error))
        self._relay = relay = Relay(pending.listeners, self._publishers)
        frame_age = (pending.accepted_ns - taken.time_ns) / S_TO_NS if taken.time_ns else math.nan
        try:
            with pool_large_blocks():
                answer = self.pipeline.answer(
                    taken.frame,
                    pending.query,
                    relay.listeners,
                    pending.cancelled,
                    queued=queued,
                    frame_age=frame_age,
                )
        finally:
            relay.end()
        if pending.abandoned:
            return answer
        if answer.status is Status.CANCELED and pending.cancel_reason:
            return replace(answer, message=pending.cancel_reason)
        self.last_timing = answer.timing
        self.recent.append(answer.timing.total - answer.timing.queued)
        if answer.status is Status.OK and pending.image is None:
            self.tracking.begin(answer, taken.time_ns)
        return replace(answer, message=f'{answer.message} {taken.remark}'.strip())

    def _take_frame(self, pending: PendingQuery) -> TakenFrame:
        if pending.image is not None:
            frame = frame_of(pending.image, self.max_pixels)
            return TakenFrame(frame, frame.stamp_ns, '')
        camera = self.camera
        if camera is None:
            raise NoImage('There is no image: the node was deactivated.')
        self.tracking.keep(camera)
        return camera.take()

    def _deliver(self, pending: PendingQuery, answer: Answer, deliver: Deliver | None) -> None:
        """Publish the result and hand it to who asked, whatever fails of the two."""
        try:
            message = self._published(answer)
            self._keep_count(message)
            if deliver is not None:
                deliver(message)
        except Exception:
            _logger.exception('The result of query %s cannot be delivered', answer.query.id)
        finally:
            with self._open_lock:
                self._open.discard(pending)

    def _published(self, answer: Answer) -> SegmentationResult:
        """Publish the result of an answer and return it; ERROR where it cannot be published."""
        message = result_of(answer)
        try:
            self._publishers.result(message)
        except RuntimeError:
            # The middleware is gone already when the process ends; who asked may still be reached.
            _logger.warning('The result of query %s is not published', answer.query.id)
        except Exception as error:
            _logger.exception('The result of query %s cannot be published', answer.query.id)
            message = to_result(unpublished(answer, error))
            with suppress(Exception):
                self._publishers.result(message)
        return message

    def _keep_count(self, result: SegmentationResult) -> None:
        status = Status(result.status)
        self.counts[status] += 1
        query = describe(Query(result.query, result.query_id))
        if status in FAILURES:
            self.last_error, self.failed_at = result.message, time.monotonic()
            _logger.warning('Query %s: %s, %s', query, status.name, result.message)
        else:
            self.last_error = '' if status in SUCCESSES else self.last_error
            _logger.info(
                'Query %s: %s, %d objects, %.3f s',
                query,
                status.name,
                len(result.objects),
                result.timing.total,
            )


class Relay:
    """Passes on what is heard of one answer, until its end: to `reasoning`, and to who asked."""

    def __init__(self, client: Listeners, publishers: ResultPublishers) -> None:
        self._client = client
        self._publishers = publishers
        self._wrote = self._ended = False
        self._lock = threading.Lock()
        self.listeners = Listeners(self._stage, self._text, client.on_object)

    def end(self) -> None:
        """Pass on nothing more; close the reasoning on its topic, if there was any, by a line end.

        From whatever thread, and without waiting for one that hangs: models that are left behind
        may go on writing.
        """
        self._ended = True
        if not self._lock.acquire(timeout=PUBLISHING):
            return
        try:
            if self._wrote:
                self._wrote = False
                self._publishers.reasoning('\n')
        finally:
            self._lock.release()

    def _stage(self, stage: Stage) -> None:
        if not self._ended:
            self._client.on_stage(stage)

    def _text(self, piece: str) -> None:
        with self._lock:
            if self._ended:
                return
            self._wrote = True
            self._publishers.reasoning(piece)
        self._client.on_text(piece)


def is_empty(image: Image) -> bool:
    """Return whether an image field was left as it was."""
    return not (image.width or image.height or len(image.data))


def result_of(answer: Answer) -> SegmentationResult:
    """Return the message of an answer; an answer that cannot be put into one becomes ERROR."""
    try:
        return to_result(answer)
    except Exception as error:
        _logger.exception('The answer to query %s cannot be published', answer.query.id)
        return to_result(unpublished(answer, error))


def unpublished(answer: Answer, error: Exception) -> Answer:
    """Return what is said instead of an answer that cannot be published."""
    return Answer(
        answer.query,
        Status.ERROR,
        f'The answer cannot be published: {describe_error(error)}',
        frame=answer.frame,
        timing=answer.timing,
    )
