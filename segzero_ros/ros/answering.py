"""How a ticket gets its answer: accepted in the executor's thread, answered in the worker's.

Imports the rest of the ROS room, `pipeline` and `types`.
"""

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

from segzero_ros.conversions.query_text import read_query
from segzero_ros.msg import SegmentationResult
from segzero_ros.pipeline import in_words, Listeners, Pipeline
from segzero_ros.rgbd.frames import frame_of
from segzero_ros.ros.camera import Camera, NANO, NoImage, TakenFrame
from segzero_ros.ros.desk import describe, Desk, SILENT, Ticket
from segzero_ros.ros.live_following import LiveFollowing
from segzero_ros.ros.messages import to_result
from segzero_ros.ros.outlets import Outlets
from segzero_ros.ros.vitals import results_together
from segzero_ros.ros.worker import Worker
from segzero_ros.types import Answer, BadImage, Query, Stage, Status, Timing

Deliver = Callable[[SegmentationResult], None]

SUCCESSES = (Status.OK, Status.NOT_FOUND)
FAILURES = (Status.ERROR, Status.MALFORMED_ANSWER, Status.TIMEOUT, Status.NO_IMAGE)
# Most seconds that publishing a piece of reasoning takes another thread, unless it hangs.
PUBLISHING = 0.1
# How many answers tell whether the models are slow.
RECENT = 20
_logger = logging.getLogger(__name__)


class Answering:
    """Takes queries in and sees that each gets exactly one result.

    Attributes:
        desk: where they wait.
        camera: what they are about; None while the node is not active.
        pipeline: who answers them; None while the node is not configured.
        following: what goes on after an answer, where that is wanted.
        max_query_length: most characters of a query.
        image_max_age: how old a frame may be when a query is accepted, seconds; 0 for any age.
        max_image_pixels: most pixels of an image that comes with its query.
        counts: how many queries ended with each status.
        last_timing: of the last query that a model answered.
        recent: seconds that the models took for each of the last answers.
        last_error: the message of the last query if it failed; empty when it did not.
        failed_at: when that was, seconds of the monotonic clock.
    """

    def __init__(self, desk: Desk, worker: Worker, outlets: Outlets, clock: Clock) -> None:
        self.desk = desk
        self.camera: Camera | None = None
        self.pipeline: Pipeline | None = None
        self.following = LiveFollowing(lambda: self.camera, worker.wanted, outlets.tracked)
        self.max_query_length = 0
        self.image_max_age = 0.0
        self.max_image_pixels = 0
        self.counts: Counter[Status] = Counter()
        self.last_timing: Timing | None = None
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.last_error = ''
        self.failed_at = 0.0
        self._worker = worker
        self._outlets = outlets
        self._clock = clock
        self._open: set[Ticket] = set()
        self._open_lock = threading.Lock()
        self._relay: Relay | None = None

    @property
    def open(self) -> list[Ticket]:
        """The tickets that have no answer yet."""
        with self._open_lock:
            return list(self._open)

    @property
    def idle(self) -> bool:
        """Whether there is a picture to ask about, and no query here."""
        return (
            self.pipeline is not None
            and self.camera is not None
            and not self.camera.absence(self.image_max_age)
            and self.desk.current is None
            and not self.desk.waiting
        )

    def ask(
        self,
        text: str,
        deliver: Deliver | None = None,
        *,
        query_id: str = '',
        image: Image | None = None,
        listeners: Listeners = SILENT,
        yields: bool = False,
    ) -> Ticket:
        """Take in a query; never waits and never decodes.

        Args:
            text: the sentence as it came.
            deliver: called once with the result, from this thread or the worker's.
            query_id: what the query is called; empty: a new id.
            image: the picture to ask about; None or an empty one: the newest camera frame.
            listeners: hear how the answer comes about, from the worker's thread.
            yields: make way for every query that does not.
        """
        tidied, complaint = read_query(text, self.max_query_length)
        ticket = Ticket(
            Query(tidied, query_id or uuid.uuid4().hex),
            lambda answer: self._deliver(ticket, answer, deliver),
            image=None if image is None or is_empty(image) else image,
            listeners=listeners,
            accepted_ns=self._clock.now().nanoseconds,
            yields=yields,
        )
        with self._open_lock:
            self._open.add(ticket)
        try:
            if complaint:
                ticket.refuse(Status.REJECTED, complaint)
            elif absence := self._absence(ticket):
                ticket.refuse(Status.NO_IMAGE, absence)
            elif self.desk.hand_in(ticket):
                self._worker.do(self._serve_next, 'answering, or following objects')
        except Exception as error:
            _logger.exception('Query %s cannot be taken in', ticket.query.id)
            ticket.refuse(Status.ERROR, f'The query cannot be taken in: {in_words(error)}')
        return ticket

    def leave_behind(self, ticket: Ticket, status: Status, message: str) -> None:
        """Answer a query whose models do not come to an end, and go on without them."""
        ticket.left_behind = True
        if (relay := self._relay) is not None:
            relay.end()
        ticket.cancel(message)
        self.desk.done(ticket)
        self.go_on_without_models()
        ticket.refuse(status, message)

    def go_on_without_models(self) -> None:
        """Leave the models behind, with what the worker does with them now.

        They are not closed, for they are still used; they are free when that ends.
        """
        self.pipeline = None
        self.following = self.following.leave_behind()
        self._worker.leave_behind()

    def _absence(self, ticket: Ticket) -> str:
        """Say why there is nothing to ask about; the desk says it of a node that is not active."""
        if self.camera is None or ticket.image is not None:
            return ''
        return self.camera.absence(self.image_max_age)

    def _serve_next(self) -> None:
        """Answer the next ticket, if it still waits, then follow; in the worker's thread."""
        following = self.following
        ticket = self.desk.take()
        if ticket is not None:
            self._serve(ticket)
            if ticket.left_behind:
                # Another thread does the worker's jobs by now, and follows by other means.
                return
        following.run()

    def _serve(self, ticket: Ticket) -> None:
        try:
            answer = self._answer(ticket)
        except BaseException as error:
            # Whatever a model raises: SystemExit would end this thread, and with it all queries.
            _logger.exception('Query %s failed', ticket.query.id)
            answer = ticket.failed(Status.ERROR, in_words(error))
        # Its time counts no longer; what comes now has its own.
        self._worker.alive()
        self.desk.done(ticket)
        if ticket.answer(answer):
            self._show(answer)

    def _show(self, answer: Answer) -> None:
        try:
            self._outlets.show(answer)
        except Exception:
            _logger.exception('The answer to query %s cannot be drawn', answer.query.id)

    def _answer(self, ticket: Ticket) -> Answer:
        assert self.pipeline is not None
        queued = ticket.elapsed
        try:
            taken = self._take_frame(ticket)
        except NoImage as error:
            return ticket.failed(Status.NO_IMAGE, str(error))
        except BadImage as error:
            return ticket.failed(Status.ERROR, str(error))
        self._relay = relay = Relay(ticket.listeners, self._outlets)
        frame_age = (ticket.accepted_ns - taken.time_ns) / NANO if taken.time_ns else math.nan
        try:
            with results_together():
                answer = self.pipeline.answer(
                    taken.frame,
                    ticket.query,
                    relay.listeners,
                    ticket.cancelled,
                    queued=queued,
                    frame_age=frame_age,
                )
        finally:
            relay.end()
        if ticket.left_behind:
            return answer
        if answer.status is Status.CANCELED and ticket.cancel_reason:
            return replace(answer, message=ticket.cancel_reason)
        self.last_timing = answer.timing
        self.recent.append(answer.timing.total - answer.timing.queued)
        if answer.status is Status.OK and ticket.image is None:
            self.following.begin(answer, taken.time_ns)
        return replace(answer, message=f'{answer.message} {taken.remark}'.strip())

    def _take_frame(self, ticket: Ticket) -> TakenFrame:
        if ticket.image is not None:
            frame = frame_of(ticket.image, self.max_image_pixels)
            return TakenFrame(frame, frame.stamp_ns, '')
        camera = self.camera
        if camera is None:
            raise NoImage('There is no image: the node was deactivated.')
        self.following.keep(camera)
        return camera.take()

    def _deliver(self, ticket: Ticket, answer: Answer, deliver: Deliver | None) -> None:
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
                self._open.discard(ticket)

    def _published(self, answer: Answer) -> SegmentationResult:
        """Publish the result of an answer and return it; ERROR where it cannot be published."""
        message = result_of(answer)
        try:
            self._outlets.result(message)
        except RuntimeError:
            # The middleware is gone already when the process ends; who asked may still be reached.
            _logger.warning('The result of query %s is not published', answer.query.id)
        except Exception as error:
            _logger.exception('The result of query %s cannot be published', answer.query.id)
            message = to_result(unpublished(answer, error))
            with suppress(Exception):
                self._outlets.result(message)
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

    def __init__(self, asker: Listeners, outlets: Outlets) -> None:
        self._asker = asker
        self._outlets = outlets
        self._wrote = self._ended = False
        self._lock = threading.Lock()
        self.listeners = Listeners(self._stage, self._text, asker.on_object)

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
                self._outlets.reasoning('\n')
        finally:
            self._lock.release()

    def _stage(self, stage: Stage) -> None:
        if not self._ended:
            self._asker.on_stage(stage)

    def _text(self, piece: str) -> None:
        with self._lock:
            if self._ended:
                return
            self._wrote = True
            self._outlets.reasoning(piece)
        self._asker.on_text(piece)


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
        f'The answer cannot be published: {in_words(error)}',
        frame=answer.frame,
        timing=answer.timing,
    )
