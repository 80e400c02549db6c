"""Queries that the node asks by itself: a standing one, and one whose objects were lost.

They are asked only while nobody else's query is here, and make way for one that comes. All of this
but the comparison of pictures happens in the executor's thread.
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

# How often `look` is to be called, and how often pictures are compared at most, in seconds.
PERIOD = 0.1
COMPARE_PERIOD = 0.5
# Lost objects are asked for again after so long, then after twice that, and so on, in seconds.
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
# Pictures are compared at this size (columns, rows), and a part has changed that got so much
# lighter or darker than the picture as a whole did, of 255: more than a camera's noise.
_THUMBNAIL = (32, 24)
_CHANGED = 20.0

_logger = logging.getLogger(__name__)


@dataclass
class _Lost:
    """A query whose objects were lost; asked again when it is due."""

    text: str
    due_ns: int
    delay: float = FIRST_DELAY


class StandingQuery:
    """Asks again what is to be asked again.

    Attributes:
        query: the standing query; empty for none.
        every: seconds after which it is asked again; 0: time does not matter.
        on_change: the share of the picture that has to change for it to be asked; 0: pictures do
            not matter.
        reask_when_lost: whether the query of followed objects is asked when all are lost.
        asked: how many queries were asked from here.

    Args:
        answering: who answers.
        worker: in whose thread pictures are compared.
        clock: the node's.
    """

    def __init__(self, query_server: QueryServer, worker: Worker, clock: Clock) -> None:
        self.query = ''
        self.every = 0.0
        self.on_change = 0.0
        self.reask_when_lost = False
        self.asked = 0
        self._query_server = query_server
        self._worker = worker
        self._clock = clock
        self._asked_ns: int | None = None
        self._compared_ns: int | None = None
        self._reference: NDArray[np.float32] | None = None
        self._comparing = False
        self._changed = False
        self._lost: _Lost | None = None
        query_server.tracking.on_lost = self._objects_lost

    def set(self, query: str, every: float, on_change: float, *, reask_when_lost: bool) -> None:
        """Take over parameters; a new query is asked at the next opportunity."""
        if query != self.query:
            self.forget()
        self.query, self.every, self.on_change = query, every, on_change
        self.reask_when_lost = reask_when_lost

    def forget(self) -> None:
        """Begin anew: the clock has jumped, or another query stands."""
        self._asked_ns = self._compared_ns = None
        self._reference = None
        self._changed = False
        self._lost = None

    def look(self) -> None:
        """Ask what is due, if nobody else has a query here."""
        if not self._query_server.idle:
            return
        now_ns = self._clock.now().nanoseconds
        if self._lost is not None and self._query_server.tracking.active:
            self._lost = None
        if self._lost is not None and self.reask_when_lost and now_ns >= self._lost.due_ns:
            self._lost.delay = min(2 * self._lost.delay, LONGEST_DELAY)
            self._lost.due_ns = now_ns + round(self._lost.delay * S_TO_NS)
            self._ask(self._lost.text)
        elif self.query and self._is_due(now_ns):
            if not self._changed:
                self._reference = None
            self._asked_ns, self._changed = now_ns, False
            self._ask(self.query)
        elif self.query and self.on_change:
            self._compare_soon(now_ns)

    def _is_due(self, now_ns: int) -> bool:
        if not (self.every or self.on_change):
            return False
        if self._asked_ns is None or self._changed:
            return True
        return 0 < self.every <= (now_ns - self._asked_ns) / S_TO_NS

    def _ask(self, text: str) -> None:
        self.asked += 1
        self._query_server.ask(text, low_priority=True)

    def _objects_lost(self, answer: Answer) -> None:
        due_ns = self._clock.now().nanoseconds + round(FIRST_DELAY * S_TO_NS)
        self._lost = _Lost(answer.query.text, due_ns)

    def _compare_soon(self, now_ns: int) -> None:
        since = None if self._compared_ns is None else (now_ns - self._compared_ns) / S_TO_NS
        if self._comparing or (since is not None and 0 <= since < COMPARE_PERIOD):
            return
        self._comparing, self._compared_ns = True, now_ns
        self._worker.do(self._compare, 'comparing pictures')

    def _compare(self) -> None:
        """Compare the newest picture with the one asked about last; in the worker's thread."""
        try:
            camera = self._query_server.camera
            if camera is not None:
                seen = thumbnail(camera.take().frame.image)
                if self._reference is None:
                    self._reference = seen
                elif change(self._reference, seen) >= self.on_change:
                    self._reference, self._changed = seen, True
        except (NoImage, BadImage) as error:
            _logger.debug('No picture to compare: %s', error)
        finally:
            self._comparing = False
        self._query_server.tracking.run()


def thumbnail(image: RgbImage) -> NDArray[np.float32]:
    """Return the (24, 32) float32 brightness of a picture's parts, 0 to 255."""
    small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the share of two thumbnails' parts that differ, whatever the exposure, 0 to 1."""
    difference = after - before
    difference -= np.median(difference)
    return float((np.abs(difference) > _CHANGED).mean())
