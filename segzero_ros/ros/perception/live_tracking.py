"""Following an answer's objects with the live camera, in the time that queries leave.

Frames are kept in the executor's thread; everything else happens in the worker's.
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

# Most memory that the frames take which are kept while a query is answered, in bytes.
MOST_KEPT = 256 * 2**20
_logger = logging.getLogger(__name__)


@dataclass
class _Objects:
    """An answer's objects; without a follow-up, they are not followed yet.

    Attributes:
        answer: whose objects they are.
        time_ns: when its frame was taken.
        follow_up: follows them.
    """

    answer: Answer
    time_ns: int
    catch_up: CatchUp[RgbdMessages] | None = None


class LiveTracking:
    """Keeps frames while a query is answered, and follows the answer's objects from its frame on.

    It gives way to every other job of the worker, and goes on afterwards with the objects of the
    newest answer that has any. The tracker is there only as long as it is used.

    Attributes:
        enabled: whether objects shall be followed; may be changed from any thread.
        make_tracker: makes the tracker that goes with the loaded segmenter.
        on_lost: hears of an answer whose objects have all been lost for long.
        pace: how often frames are followed.
        lag: seconds from the frame followed last to the newest one of the camera.

    Args:
        camera: returns the camera that the node listens to now; None for none.
        busy: returns whether the worker has something else to do.
        publish: takes the objects in each followed frame, as an answer about that frame.
    """

    def __init__(
        self,
        camera: Callable[[], RgbdSubscriber | None],
        busy: Callable[[], bool],
        publish: Callable[[Answer], None],
    ) -> None:
        self.enabled = False
        self.make_tracker: Callable[[], Tracker] | None = None
        self.on_lost: Callable[[Answer], None] = lambda _: None
        self.pace = Rate()
        self.lag = 0.0
        self._current_camera = camera
        self._busy = busy
        self._publish = publish
        self._camera: RgbdSubscriber | None = None
        self._frame_buffer: FrameBuffer[RgbdMessages] = FrameBuffer()
        self._tracker: Tracker | None = None
        self._objects: _Objects | None = None
        self._complaint = ''
        self._depth_is_bad = False
        self._abandoned = False

    @property
    def active(self) -> bool:
        """Whether there are objects that are followed, or about to be."""
        return self._objects is not None

    @property
    def tracked(self) -> int:
        """How many objects are followed."""
        objects = self._objects
        return 0 if objects is None else len(objects.answer.segments)

    def keep(self, camera: RgbdSubscriber) -> None:
        """Keep the camera's frames from now on, if objects are to be followed."""
        if not self.enabled or self._camera is camera:
            return
        self.end()
        if self._abandoned:
            return
        self._frame_buffer = frame_buffer = FrameBuffer[RgbdMessages](capacity(camera.store))
        frame_buffer.open()
        self._camera = camera
        camera.store.listen(lambda rgbd: frame_buffer.put(rgbd.image.time_ns, rgbd))

    def begin(self, answer: Answer, time_ns: int) -> None:
        """Let an answer's objects be followed, instead of those of an earlier one.

        Args:
            answer: about a frame of the camera whose frames are kept.
            time_ns: when that frame was taken.
        """
        if self._camera is not None:
            self._objects = _Objects(answer, time_ns)

    def abandon(self) -> LiveTracking:
        """Keep no frames and publish nothing any more; return what follows in its place.

        For a tracker that does not come to an end: it is free when it does.
        """
        self._abandoned = True
        self._keep_no_frames()
        successor = LiveTracking(self._current_camera, self._busy, self._publish)
        successor.enabled = self.enabled
        successor.make_tracker = self.make_tracker
        successor.on_lost = self.on_lost
        return successor

    def run(self) -> None:
        """Follow what there is to follow until something else is to be done."""
        objects = self._objects
        if objects is None or self._is_over():
            self.end()
            return
        if self._busy():
            return
        query_id = objects.answer.query.id
        lost = False
        try:
            end = self._follow(objects)
            if end is TrackingEnd.CANCELLED and not self._is_over():
                return
            lost = end is TrackingEnd.ALL_LOST and not self._abandoned
        except BadImage as error:
            _logger.warning('The objects of query %s are followed no more: %s', query_id, error)
        except BaseException:
            # SystemExit too: it would come again with every job of the worker.
            _logger.exception('Following the objects of query %s failed', query_id)
        self.end()
        if lost:
            self.on_lost(objects.answer)

    def end(self) -> None:
        """Follow nothing, keep no frames and close the tracker."""
        self._keep_no_frames()
        self._objects = None
        self.lag = 0.0
        self._complaint = ''
        self._depth_is_bad = False
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
            _logger.info('Following has ended')

    def _keep_no_frames(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.store.listen(None)
            self._frame_buffer.close()

    def _follow(self, objects: _Objects) -> TrackingEnd | None:
        """Follow until something else is to be done; None where there is nothing to follow."""
        query_id = objects.answer.query.id
        if objects.catch_up is None and not self._start(objects):
            _logger.info('The answer to query %s has no mask that could be followed', query_id)
            return None
        assert objects.catch_up is not None
        end = objects.catch_up.run(
            lambda tracked: self._show(tracked, objects.answer),
            lambda: self._busy() or self._is_over(),
        )
        if end is TrackingEnd.ALL_LOST:
            _logger.info('All objects of query %s have been lost for long', query_id)
        return end

    def _start(self, objects: _Objects) -> bool:
        """Show the tracker the objects; return whether it has anything to follow."""
        if self._tracker is None:
            assert self.make_tracker is not None
            self._tracker = self.make_tracker()
        objects.catch_up = CatchUp(self._tracker, self._frame_buffer, self._decode)
        answer = objects.answer
        _logger.info(
            'Following %d objects of query %s with %s',
            len(answer.segments),
            answer.query.id,
            self._tracker.name,
        )
        return objects.catch_up.start(answer, objects.time_ns)

    def _show(self, tracked: TrackedFrame, answer: Answer) -> None:
        if self._abandoned:
            return
        self.pace.note()
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

    def _is_over(self) -> bool:
        if self._abandoned or not self.enabled:
            return True
        return self._current_camera() is not self._camera

    def _decode(self, rgbd: RgbdMessages) -> Frame | None:
        assert self._camera is not None
        # Depth that cannot be used is complained about once, not for every frame.
        usable = rgbd._replace(depth=None) if self._depth_is_bad else rgbd
        try:
            taken = self._camera.decode(usable)
        except BadImage as error:
            if str(error) != self._complaint:
                _logger.warning('An image is left out in following: %s', error)
            self._complaint = str(error)
            return None
        refused = usable.depth is not None and taken.frame.depth is None
        self._depth_is_bad = self._depth_is_bad or refused
        return taken.frame


def capacity(store: RgbdBuffer) -> int:
    """Return how many frames as large as the newest one may be kept."""
    rgbd = store.latest()
    if rgbd is None:
        return CAPACITY
    size = len(rgbd.image.data) + (len(rgbd.depth.data) if rgbd.depth else 0)
    return min(CAPACITY, max(2, MOST_KEPT // size))
