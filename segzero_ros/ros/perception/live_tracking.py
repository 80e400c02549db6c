"""Tracking of an answer's objects in the live camera, while no query needs the worker.

Frames are buffered in the executor's thread; everything else runs in the worker's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging

from segzero_ros.rgbd.buffer import RgbdBuffer, RgbdMessages
from segzero_ros.ros.camera.rgbd_subscriber import RgbdSubscriber
from segzero_ros.ros.health.rates import Rate
from segzero_ros.tracking.base import Tracker
from segzero_ros.tracking.catch_up import CatchUp, TrackedFrame, TrackingEnd
from segzero_ros.tracking.frame_buffer import CAPACITY, FrameBuffer
from segzero_ros.types import Answer, BadImage, Frame, Status

# Maximum memory of the frames that are buffered while a query is answered, bytes.
MAX_BUFFER_BYTES = 256 * 2**20
_logger = logging.getLogger(__name__)


@dataclass
class _Objects:
    """The objects of an answer.

    Attributes:
        answer: the answer.
        time_ns: when its frame was taken.
        catch_up: tracks them from that frame on; None before tracking has started.
    """

    answer: Answer
    time_ns: int
    catch_up: CatchUp[RgbdMessages] | None = None


class LiveTracking:
    """Buffers frames while a query is answered, then tracks its objects from its frame on.

    It yields to every other job of the worker and continues afterwards, with the objects of the
    newest answer that has any. A tracker exists only while it is used.

    Attributes:
        enabled: whether to track; may be changed from any thread.
        make_tracker: makes the tracker that suits the loaded segmenter.
        on_lost: called with an answer whose objects have all been lost for long.
        accepts: whether to track an answer's objects; called in the worker's thread.
        rate: of tracked frames.
        lag: seconds between the last tracked frame and the camera's newest.

    Args:
        camera: returns the node's present camera; None if there is none.
        should_yield: returns whether another job waits for the worker.
        publish: called with the objects in each tracked frame, as an answer about that frame.
    """

    def __init__(
        self,
        camera: Callable[[], RgbdSubscriber | None],
        should_yield: Callable[[], bool],
        publish: Callable[[Answer], None],
    ) -> None:
        self.enabled = False
        self.make_tracker: Callable[[], Tracker] | None = None
        self.on_lost: Callable[[Answer], None] = lambda _: None
        self.accepts: Callable[[Answer], bool] = lambda _: True
        self.rate = Rate()
        self.lag = 0.0
        self._current_camera = camera
        self._should_yield = should_yield
        self._publish = publish
        self._camera: RgbdSubscriber | None = None
        self._frame_buffer: FrameBuffer[RgbdMessages] = FrameBuffer()
        self._tracker: Tracker | None = None
        self._objects: _Objects | None = None
        self._last_error = ''
        self._depth_unusable = False
        self._abandoned = False
        self._ended = False

    @property
    def active(self) -> bool:
        """Whether objects are tracked, or will be as soon as the worker is free."""
        return self._objects is not None and not self._ended

    @property
    def object_count(self) -> int:
        """Number of tracked objects."""
        objects = self._objects
        return 0 if objects is None else len(objects.answer.segments)

    def buffer_frames(self, camera: RgbdSubscriber) -> None:
        """Buffer the camera's frames from now on, if tracking is enabled."""
        if not self.enabled or self._camera is camera:
            return
        self.stop()
        if self._abandoned:
            return
        self._frame_buffer = frame_buffer = FrameBuffer[RgbdMessages](capacity(camera.buffer))
        frame_buffer.open()
        self._camera = camera
        camera.buffer.listen(lambda rgbd: frame_buffer.put(rgbd.image.time_ns, rgbd))

    def start(self, answer: Answer, time_ns: int) -> None:
        """Track an answer's objects instead of those of an earlier one, if it is accepted.

        Args:
            answer: about a frame of the camera whose frames are buffered.
            time_ns: when that frame was taken.
        """
        if self._camera is not None and self.accepts(answer):
            self._objects, self._ended = _Objects(answer, time_ns), False

    def end(self) -> None:
        """Track the present objects no longer; may be called from any thread."""
        self._ended = True

    def abandon(self) -> LiveTracking:
        """Buffer and publish nothing more; return a new instance that replaces this one.

        For a tracker that hangs; it is freed when its thread ends.
        """
        self._abandoned = True
        self._stop_buffering()
        successor = LiveTracking(self._current_camera, self._should_yield, self._publish)
        successor.enabled = self.enabled
        successor.make_tracker = self.make_tracker
        successor.on_lost = self.on_lost
        successor.accepts = self.accepts
        return successor

    def run(self) -> None:
        """Track until the worker has another job, or tracking ends."""
        objects = self._objects
        if objects is None or self._is_stopped():
            self.stop()
            return
        if self._should_yield():
            return
        query_id = objects.answer.query.id
        lost = False
        try:
            end = self._track(objects)
            if end is TrackingEnd.CANCELLED and not self._is_stopped():
                return
            lost = end is TrackingEnd.ALL_LOST and not self._abandoned
        except BadImage as error:
            _logger.warning('Tracking of the objects of query %s ended: %s', query_id, error)
        except BaseException:
            # SystemExit too: it would be raised again with every job of the worker.
            _logger.exception('Tracking of the objects of query %s failed', query_id)
        self.stop()
        if lost:
            self.on_lost(objects.answer)

    def stop(self) -> None:
        """Stop tracking and buffering, and close the tracker."""
        self._stop_buffering()
        self._objects = None
        self.lag = 0.0
        self._last_error = ''
        self._depth_unusable = False
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
            _logger.info('Tracking has ended')

    def _stop_buffering(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.buffer.listen(None)
            self._frame_buffer.close()

    def _track(self, objects: _Objects) -> TrackingEnd | None:
        """Track until the worker has another job; return None if no object can be tracked."""
        query_id = objects.answer.query.id
        if objects.catch_up is None and not self._start_tracker(objects):
            _logger.info('The answer to query %s has no mask that can be tracked', query_id)
            return None
        assert objects.catch_up is not None
        end = objects.catch_up.run(
            lambda tracked: self._on_tracked(tracked, objects.answer),
            lambda: self._should_yield() or self._is_stopped(),
        )
        if end is TrackingEnd.ALL_LOST:
            _logger.info('All objects of query %s have been lost for long', query_id)
        return end

    def _start_tracker(self, objects: _Objects) -> bool:
        """Give the objects to the tracker; return whether it can track any."""
        if self._tracker is None:
            assert self.make_tracker is not None
            self._tracker = self.make_tracker()
        objects.catch_up = CatchUp(self._tracker, self._frame_buffer, self._decode)
        answer = objects.answer
        _logger.info(
            'Tracking %d objects of query %s with %s',
            len(answer.segments),
            answer.query.id,
            self._tracker.name,
        )
        return objects.catch_up.start(answer, objects.time_ns)

    def _on_tracked(self, tracked: TrackedFrame, answer: Answer) -> None:
        # Also of a frame that was waited for meanwhile.
        if self._is_stopped():
            return
        self.rate.tick()
        self.lag = tracked.lag
        self._publish(self._answer_about(tracked, answer))

    def _answer_about(self, tracked: TrackedFrame, answer: Answer) -> Answer:
        assert self._tracker is not None
        return Answer(
            answer.query,
            Status.OK,
            tracked.message,
            tracked.frame,
            segments=tuple(track.segment for track in tracked.tracks),
            reasoner=answer.reasoner,
            segmenter=self._tracker.name,
        )

    def _is_stopped(self) -> bool:
        if self._abandoned or self._ended or not self.enabled:
            return True
        return self._current_camera() is not self._camera

    def _decode(self, rgbd: RgbdMessages) -> Frame | None:
        assert self._camera is not None
        # Unusable depth is warned about once, not for every frame.
        usable = rgbd._replace(depth=None) if self._depth_unusable else rgbd
        try:
            taken = self._camera.decode(usable)
        except BadImage as error:
            if str(error) != self._last_error:
                _logger.warning('Tracking skips an image: %s', error)
            self._last_error = str(error)
            return None
        refused = usable.depth is not None and taken.frame.depth is None
        self._depth_unusable = self._depth_unusable or refused
        return taken.frame


def capacity(buffer: RgbdBuffer) -> int:
    """Return how many frames as large as the newest one may be buffered."""
    rgbd = buffer.latest()
    if rgbd is None:
        return CAPACITY
    size = len(rgbd.image.data) + (len(rgbd.depth.data) if rgbd.depth else 0)
    return min(CAPACITY, max(2, MAX_BUFFER_BYTES // size))
