"""Queries that the node submits by itself: the standing query, and one whose objects were lost.

They are submitted only while no client's query is pending, with low priority. Everything but the
comparison of images runs in the executor's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
import logging

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock

from segzero_ros.ros.camera.rgbd_subscriber import NoImage
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.types import Answer, BadImage, RgbImage, S_TO_NS

# Seconds between two calls of `update`, and at least between two comparisons of images.
UPDATE_PERIOD = 0.1
COMPARE_PERIOD = 0.5
# Delay before lost objects are queried for again, seconds; doubled each time up to the maximum.
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 60.0
# Images are compared at this size (columns, rows). A pixel has changed if its brightness differs
# by more than this, of 255, after subtracting the median difference: more than a camera's noise.
_THUMBNAIL = (32, 24)
_CHANGED = 20.0

_logger = logging.getLogger(__name__)


@dataclass
class _LostObjects:
    """A query whose objects were lost, and when to submit it again."""

    text: str
    due_ns: int
    delay: float = MIN_RETRY_DELAY


class StandingQuery:
    """Submits queries again: periodically, when the image changes, or when objects are lost.

    Attributes:
        query: the standing query; empty for none.
        period: seconds after which it is submitted again; 0: not by time.
        min_change: share of the image that has to change for it to be submitted; 0: not by change.
        reask_when_lost: whether to submit the query of tracked objects again when all are lost.
        submitted: number of queries submitted from here.

    Args:
        query_server: answers the queries.
        worker: its thread compares images.
        clock: the node's.
    """

    def __init__(self, query_server: QueryServer, worker: Worker, clock: Clock) -> None:
        self.query = ''
        self.period = 0.0
        self.min_change = 0.0
        self.reask_when_lost = False
        self.submitted = 0
        self._query_server = query_server
        self._worker = worker
        self._clock = clock
        self._submitted_ns: int | None = None
        self._compared_ns: int | None = None
        self._reference: NDArray[np.float32] | None = None
        self._comparing = False
        self._changed = False
        self._lost: _LostObjects | None = None
        query_server.tracking.on_lost = self._on_lost

    def configure(
        self, query: str, period: float, min_change: float, *, reask_when_lost: bool
    ) -> None:
        """Apply parameters; a new query is submitted at the next opportunity.

        Args:
            query: see the attribute.
            period: see the attribute.
            min_change: see the attribute.
            reask_when_lost: see the attribute.
        """
        if query != self.query:
            self.reset()
        self.query, self.period, self.min_change = query, period, min_change
        self.reask_when_lost = reask_when_lost

    def reset(self) -> None:
        """Forget the past, because the clock has jumped or the standing query is another one."""
        self._submitted_ns = self._compared_ns = None
        self._reference = None
        self._changed = False
        self._lost = None

    def update(self) -> None:
        """Submit the query that is due, if no other query is pending."""
        if not self._query_server.idle:
            return
        now_ns = self._clock.now().nanoseconds
        if self._lost is not None and self._query_server.tracking.active:
            self._lost = None
        if self._lost is not None and self.reask_when_lost and now_ns >= self._lost.due_ns:
            self._lost.delay = min(2 * self._lost.delay, MAX_RETRY_DELAY)
            self._lost.due_ns = now_ns + round(self._lost.delay * S_TO_NS)
            self._submit(self._lost.text)
        elif self.query and self._is_due(now_ns):
            if not self._changed:
                self._reference = None
            self._submitted_ns, self._changed = now_ns, False
            self._submit(self.query)
        elif self.query and self.min_change:
            self._schedule_comparison(now_ns)

    def _is_due(self, now_ns: int) -> bool:
        if not (self.period or self.min_change):
            return False
        if self._submitted_ns is None or self._changed:
            return True
        return 0 < self.period <= (now_ns - self._submitted_ns) / S_TO_NS

    def _submit(self, text: str) -> None:
        self.submitted += 1
        self._query_server.submit(text, low_priority=True)

    def _on_lost(self, answer: Answer) -> None:
        due_ns = self._clock.now().nanoseconds + round(MIN_RETRY_DELAY * S_TO_NS)
        self._lost = _LostObjects(answer.query.text, due_ns)

    def _schedule_comparison(self, now_ns: int) -> None:
        since = None if self._compared_ns is None else (now_ns - self._compared_ns) / S_TO_NS
        if self._comparing or (since is not None and 0 <= since < COMPARE_PERIOD):
            return
        self._comparing, self._compared_ns = True, now_ns
        self._worker.submit(self._compare, 'comparing images')

    def _compare(self) -> None:
        """Compare the newest image with the last one queried; in the worker's thread."""
        try:
            camera = self._query_server.camera
            if camera is not None:
                current = thumbnail(camera.take().frame.image)
                if self._reference is None:
                    self._reference = current
                elif changed_share(self._reference, current) >= self.min_change:
                    self._reference, self._changed = current, True
        except (NoImage, BadImage) as error:
            _logger.debug('No image to compare: %s', error)
        finally:
            self._comparing = False
        self._query_server.tracking.run()


def thumbnail(image: RgbImage) -> NDArray[np.float32]:
    """Return an image's brightness, 0 to 255, downscaled to (24, 32) float32."""
    small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def changed_share(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the share of pixels that differ between two thumbnails, 0 to 1.

    A change of the exposure, which all pixels have in common, does not count.

    Args:
        before: (24, 32) float32.
        after: likewise.
    """
    difference = after - before
    difference -= np.median(difference)
    return float((np.abs(difference) > _CHANGED).mean())
