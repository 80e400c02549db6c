"""Server of queries: accepts them in the executor's thread, answers them in the worker's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
import logging
import math
import threading
import uuid

from rclpy.clock import Clock
from sensor_msgs.msg import Image, RegionOfInterest

from segzero_ros.conversions.text import MAX_ID_LENGTH, read_query
from segzero_ros.msg import SegmentationResult
from segzero_ros.pipeline import describe_error, Listeners, Pipeline
from segzero_ros.rgbd.frames import frame_of
from segzero_ros.ros.camera.rgbd_subscriber import CameraFrame, NoImage, RgbdSubscriber
from segzero_ros.ros.health.process_memory import pool_large_blocks
from segzero_ros.ros.message_factory import to_result
from segzero_ros.ros.perception.live_tracking import LiveTracking
from segzero_ros.ros.perception.progress_relay import ProgressRelay
from segzero_ros.ros.perception.query_queue import PendingQuery, QueryQueue, SILENT
from segzero_ros.ros.perception.query_stats import QueryStats
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.ros.perception.stable_ids import StableIds
from segzero_ros.ros.perception.target_frame import TargetFrame
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.spatial.placement import in_camera_frame, Placed
from segzero_ros.types import (
    Answer,
    BadImage,
    Box,
    Query,
    S_TO_NS,
    Status,
    Task,
    task_named,
    UnsupportedTask,
)

# Takes a result and the answer it was made from.
Deliver = Callable[[SegmentationResult, Placed], None]
# Seconds that a query waits for its image's depth, where depth usually comes.
_DEPTH_WAIT = 0.5

_logger = logging.getLogger(__name__)


class QueryServer:
    """Accepts queries and sends exactly one result for each.

    Attributes:
        queue: pending queries.
        stats: statistics of the answered ones.
        camera: source of frames; None while the node is not active.
        pipeline: the models; None while the node is not configured.
        tracking: tracks the objects of the last answer, if enabled.
        max_image_age: maximum age of a frame when a query is accepted, seconds; 0 for any age.
        max_pixels: maximum size of an image that a query brings.
        target_frame: places answers in the frame that they are published in.
        object_ids: gives objects their ids.

    Args:
        queue: pending queries.
        worker: its thread owns the models.
        publishers: of results and what is drawn of them.
        clock: the node's.
        target_frame: see above.
    """

    def __init__(
        self,
        queue: QueryQueue,
        worker: Worker,
        publishers: ResultPublishers,
        clock: Clock,
        target_frame: TargetFrame,
    ) -> None:
        self.queue = queue
        self.stats = QueryStats()
        self.camera: RgbdSubscriber | None = None
        self.pipeline: Pipeline | None = None
        self.tracking = LiveTracking(
            lambda: self.camera, worker.should_yield, self._publish_tracked
        )
        self.max_image_age = 0.0
        self.max_pixels = 0
        self.target_frame = target_frame
        self.object_ids = StableIds()
        self._worker = worker
        self._publishers = publishers
        self._clock = clock
        self._unanswered: set[PendingQuery] = set()
        self._unanswered_lock = threading.Lock()
        self._relay: ProgressRelay | None = None

    @property
    def unanswered(self) -> list[PendingQuery]:
        """The queries without an answer yet."""
        with self._unanswered_lock:
            return list(self._unanswered)

    @property
    def idle(self) -> bool:
        """Whether the node could answer a query about the camera, and has none."""
        return (
            self.pipeline is not None
            and self.camera is not None
            and not self.camera.no_image_reason(self.max_image_age)
            and self.queue.current is None
            and not self.queue.waiting
        )

    def submit(
        self,
        text: str,
        deliver: Deliver | None = None,
        *,
        query_id: str = '',
        task: str = '',
        candidates: Sequence[RegionOfInterest] = (),
        image: Image | None = None,
        stamp_ns: int = 0,
        listeners: Listeners = SILENT,
        low_priority: bool = False,
    ) -> PendingQuery:
        """Accept or refuse a query; never blocks and never decodes.

        Args:
            text: the query as received.
            deliver: called once with the result, from this thread or the worker's.
            query_id: id of the query; empty: a new one.
            task: its name; empty: segment.
            candidates: boxes to choose among, in pixels of the image; empty: any object.
            image: the image to query; None or an empty one: the newest camera frame.
            stamp_ns: stamp of the buffered camera frame to query; 0: the newest.
            listeners: called with the progress, from the worker's thread.
            low_priority: whether any query of a client cancels this one.
        """
        tidied, rejection = read_query(text)
        try:
            wanted = task_named(task)
        except UnsupportedTask as error:
            wanted, rejection = Task.SEGMENT, rejection or str(error)
        if len(query_id) > MAX_ID_LENGTH:
            rejection = rejection or (
                f'The id has {len(query_id)} characters, but at most {MAX_ID_LENGTH} are allowed.'
            )
            query_id = query_id[:MAX_ID_LENGTH]
        boxes = tuple(map(_box_of, candidates))
        pending = PendingQuery(
            Query(tidied, query_id or uuid.uuid4().hex, wanted, boxes),
            lambda answer: self._deliver(pending, answer, deliver),
            image=None if image is None or is_empty(image) else image,
            stamp_ns=stamp_ns,
            listeners=listeners,
            accepted_ns=self._clock.now().nanoseconds,
            low_priority=low_priority,
        )
        with self._unanswered_lock:
            self._unanswered.add(pending)
        try:
            self._enqueue(pending, rejection)
        except Exception as error:
            _logger.exception('Query %s cannot be accepted', pending.query.id)
            pending.refuse(Status.ERROR, f'The query cannot be accepted: {describe_error(error)}')
        return pending

    def abandon_query(self, pending: PendingQuery, status: Status, message: str) -> None:
        """Answer a query whose models hang, and abandon the models.

        Args:
            pending: the current query.
            status: of its answer.
            message: of its answer.
        """
        pending.abandoned = True
        if (relay := self._relay) is not None:
            relay.close()
        pending.cancel(message)
        self.queue.finish(pending)
        self.abandon_models()
        pending.refuse(status, message)

    def abandon_models(self) -> None:
        """Drop models that hang, with their tracker and the worker's running job.

        They are not closed, because the hung thread still uses them; their memory is freed when
        it ends.
        """
        self.pipeline = None
        self.tracking = self.tracking.abandon()
        self._worker.abandon_job()

    def _enqueue(self, pending: PendingQuery, rejection: str) -> None:
        if rejection:
            pending.refuse(Status.REJECTED, rejection)
        elif reason := self._no_image_reason(pending):
            pending.refuse(Status.NO_IMAGE, reason)
        elif self.queue.submit(pending):
            self._worker.submit(self._serve_next, 'answering or tracking')

    def _no_image_reason(self, pending: PendingQuery) -> str:
        """Return why there is no image to query; an inactive node is reported by the queue."""
        camera = self.camera
        if camera is None or pending.image is not None:
            return ''
        if not pending.stamp_ns:
            return camera.no_image_reason(self.max_image_age)
        # Now, because the buffer drops it soon.
        pending.rgbd = camera.buffer.at(pending.stamp_ns)
        return '' if pending.rgbd else camera.not_buffered_reason(pending.stamp_ns)

    def _serve_next(self) -> None:
        """Answer the next query, if one still waits, then track; in the worker's thread."""
        tracking = self.tracking
        pending = self.queue.pop()
        if pending is not None:
            self._serve(pending)
            if pending.abandoned:
                # Another thread runs the worker's jobs by now, with its own tracking.
                return
        tracking.run()

    def _serve(self, pending: PendingQuery) -> None:
        try:
            placed = self._answer(pending)
        except BaseException as error:
            # SystemExit too: a model that raises it must not end this thread.
            _logger.exception('Query %s failed', pending.query.id)
            placed = in_camera_frame(pending.failed(Status.ERROR, describe_error(error)))
        # Publishing and tracking have their own time limit, beginning now.
        self._worker.heartbeat()
        self.queue.finish(pending)
        pending.placed = placed
        if pending.answer(placed.answer):
            self._publish_displays(placed)

    def _publish_displays(self, placed: Placed) -> None:
        try:
            self._publishers.publish_displays(placed)
        except Exception:
            _logger.exception('The answer to query %s cannot be drawn', placed.answer.query.id)

    def _publish_tracked(self, answer: Answer) -> None:
        self._publishers.publish_tracked(self.target_frame.place(answer))

    def _answer(self, pending: PendingQuery) -> Placed:
        pipeline = self.pipeline
        assert pipeline is not None
        queued = pending.elapsed
        try:
            taken = self._take_frame(pending)
        except NoImage as error:
            return in_camera_frame(pending.failed(Status.NO_IMAGE, str(error)))
        except BadImage as error:
            return in_camera_frame(pending.failed(Status.ERROR, str(error)))
        request = self.target_frame.request(taken.frame)
        answer = self._run_pipeline(pipeline, pending, taken, queued)
        if pending.abandoned:
            return in_camera_frame(answer)
        if answer.status is Status.CANCELED and pending.cancel_reason:
            return in_camera_frame(replace(answer, message=pending.cancel_reason))
        self.stats.record_timing(answer.timing)
        has_masks = answer.task is Task.SEGMENT
        if answer.status is Status.OK and has_masks and pending.image is None:
            self.tracking.start(answer, taken.time_ns)
        message = f'{answer.message} {taken.warning}'.strip()
        return self.target_frame.place(replace(answer, message=message), request)

    def _run_pipeline(
        self, pipeline: Pipeline, pending: PendingQuery, taken: CameraFrame, queued: float
    ) -> Answer:
        self._relay = relay = ProgressRelay(pending.query.id, pending.listeners, self._publishers)
        frame_age = (pending.accepted_ns - taken.time_ns) / S_TO_NS if taken.time_ns else math.nan
        try:
            with pool_large_blocks():
                return pipeline.answer(
                    taken.frame,
                    pending.query,
                    relay.listeners,
                    pending.cancelled,
                    queued=queued,
                    frame_age=frame_age,
                    number=self.object_ids.number,
                )
        finally:
            relay.close()

    def _take_frame(self, pending: PendingQuery) -> CameraFrame:
        if pending.image is not None:
            frame = frame_of(pending.image, self.max_pixels)
            return CameraFrame(frame, frame.stamp_ns, '')
        camera = self.camera
        if camera is None:
            raise NoImage('There is no image: the node was deactivated.')
        self.tracking.buffer_frames(camera)
        if pending.rgbd is not None:
            return camera.decode(pending.rgbd)
        return camera.take(_DEPTH_WAIT)

    def _deliver(self, pending: PendingQuery, answer: Answer, deliver: Deliver | None) -> None:
        """Publish the result and send it to the client, even if one of the two fails."""
        placed = pending.placed
        if placed is None or placed.answer is not answer:
            # The models have not answered, or another thread does so for them.
            placed = in_camera_frame(answer)
        try:
            message = self._publish_result(answer)
            self.stats.record_result(message)
            if deliver is not None:
                deliver(message, placed)
        except Exception:
            _logger.exception('The result of query %s cannot be delivered', answer.query.id)
        finally:
            with self._unanswered_lock:
                self._unanswered.discard(pending)

    def _publish_result(self, answer: Answer) -> SegmentationResult:
        """Publish an answer and return its message; status ERROR if it cannot be published."""
        message = result_message(answer)
        try:
            self._publishers.publish_result(message)
        except RuntimeError:
            # At shutdown the middleware may be gone; the client may still be reachable.
            _logger.warning('The result of query %s is not published', answer.query.id)
        except Exception as error:
            _logger.exception('The result of query %s cannot be published', answer.query.id)
            message = to_result(unpublishable(answer, error))
            with suppress(Exception):
                self._publishers.publish_result(message)
        return message


def _box_of(region: RegionOfInterest) -> Box:
    left, top = float(region.x_offset), float(region.y_offset)
    return left, top, left + region.width, top + region.height


def is_empty(image: Image) -> bool:
    """Return whether an image field was left at its defaults."""
    return not (image.width or image.height or len(image.data))


def result_message(answer: Answer) -> SegmentationResult:
    """Return the message of an answer; status ERROR if the answer cannot be converted."""
    try:
        return to_result(answer)
    except Exception as error:
        _logger.exception('The answer to query %s cannot be published', answer.query.id)
        return to_result(unpublishable(answer, error))


def unpublishable(answer: Answer, error: Exception) -> Answer:
    """Return the answer that replaces one which cannot be published.

    Args:
        answer: the one that cannot be published.
        error: why.
    """
    return Answer(
        answer.query,
        Status.ERROR,
        f'The answer cannot be published: {describe_error(error)}',
        frame=answer.frame,
        timing=answer.timing,
    )
