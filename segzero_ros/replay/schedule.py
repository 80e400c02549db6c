"""Schedule of a replay: queries with their RGB-D messages, in one pass over the bag.

Messages are paired as in the node, by `rgbd.buffer`. A recorded query gets the frame that the node
used: the latest image whose depth had arrived. If there was none, and for queries about a given
image, later depth and intrinsics are used too. Images are buffered only while a query waits for
their depth, so memory does not grow with the bag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.conversions.text import MAX_QUERY_LENGTH, read_query
from segzero_ros.replay.bag import BagMessage
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.topics import Topics
from segzero_ros.rgbd.buffer import INFOS, pair, RgbdBuffer, RgbdMessages
from segzero_ros.rgbd.message_buffer import JUMP_NS, read_stamp, StoredMessage
from segzero_ros.types import Query, S_TO_NS, Task, task_named, UnsupportedTask

# Maximum delay of depth and intrinsics after their image, by the recorder's clock.
MAX_WAIT_NS = S_TO_NS // 2
# Minimum number of buffered depth images.
MIN_DEPTHS = 4


class ScheduledQuery(NamedTuple):
    """One query and its messages.

    Attributes:
        query: text and id.
        time_ns: time of the query, by the recorder's clock.
        rgbd: the image with its depth and intrinsics; None without an image.
        error: why the query is invalid; empty if it is valid.
        no_image: why there is no image; empty if there is one.
    """

    query: Query
    time_ns: int
    rgbd: RgbdMessages | None
    error: str = ''
    no_image: str = ''


@dataclass(frozen=True)
class ScheduleLimits:
    """Limits of the node: of depth offset and image age, nanoseconds, characters and pixels."""

    max_depth_offset_ns: int
    max_image_age_ns: int
    max_query_length: int = MAX_QUERY_LENGTH
    max_pixels: int = MAX_PIXELS


class _PendingQuery(NamedTuple):
    """A query that waits for the depth and intrinsics of its image; ready if `image` is None."""

    scheduled: ScheduledQuery
    image: StoredMessage | None


class QuerySchedule:
    """Yields each query of a bag when its messages are complete.

    Args:
        topics: of the camera.
        plan: the queries.
        limits: of the node.
        start_ns: the bag's start time, for `TimedQuery.at_ns`.
        query_of: returns a recorded query; only its text, id and task count.
    """

    def __init__(
        self,
        topics: Topics,
        plan: QueryPlan,
        limits: ScheduleLimits,
        start_ns: int,
        query_of: Callable[[BagMessage], TimedQuery],
    ) -> None:
        self._topics = topics
        self._plan = plan
        self._limits = limits
        self._start_ns = self._now_ns = start_ns
        self._query_of = query_of
        timed = [ask for ask in plan.asks if ask.at_ns is not None]
        self._timed = deque(sorted(timed, key=lambda ask: ask.at_ns or 0))
        self._stamped = [ask for ask in plan.asks if ask.stamp_ns is not None]
        # The node's buffer; used only for recorded queries.
        self._buffer = RgbdBuffer(limits.max_depth_offset_ns)
        self._newest: StoredMessage | None = None
        self._depths: deque[StoredMessage] = deque()
        self._infos: deque[StoredMessage] = deque()
        self._waiting: deque[_PendingQuery] = deque()
        self._count = 0
        self._first_ns: int | None = None
        self._last_period = -1
        self.restarts = 0

    @property
    def topics(self) -> set[str]:
        """The topics to read."""
        recorded = {self._topics.queries} if self._plan.recorded else set()
        return self._topics.camera | recorded

    def run(self, messages: Iterable[BagMessage]) -> Iterator[ScheduledQuery]:
        """Yield the queries in the order of their times.

        Args:
            messages: of `topics`, in the order of their receive times.
        """
        for message in messages:
            self._now_ns = message.stamp_ns
            self._add_timed(self._now_ns - 1)
            yield from self._receive(message)
            yield from self._complete(self._is_paired)
        self._add_timed(None)
        for ask in self._stamped:
            no_image = (
                f'The bag has no image with the stamp {ask.stamp_ns} on {self._topics.image}.'
            )
            self._add(ask, self._now_ns, None, no_image)
        yield from self._complete(lambda pending: True)

    def _receive(self, message: BagMessage) -> Iterator[ScheduledQuery]:
        if self._plan.recorded and message.topic == self._topics.queries:
            no_image = '' if self._newest else 'There is no image: none was recorded before.'
            ask, rgbd = self._query_of(message), self._buffer.latest_paired()
            self._add(ask, message.stamp_ns, self._newest, no_image, rgbd)
            return
        if self._plan.recorded:
            self._store(message)
        stored = StoredMessage(message.data, read_stamp(message.data), message.stamp_ns)
        if message.topic == self._topics.image:
            if self._newest is not None and _jumped(self._newest, stored):
                self.restarts += 1
            self._take_image(stored)
            return
        buffered = self._depths if message.topic == self._topics.depth else self._infos
        if buffered and _jumped(buffered[-1], stored):
            # Queries from before the jump are paired with messages from before it.
            limit = stored.time_ns + JUMP_NS
            yield from self._complete(lambda a: a.image is None or a.image.time_ns > limit)
            buffered.clear()
        buffered.append(stored)
        self._prune(buffered, MIN_DEPTHS if buffered is self._depths else INFOS)

    def _store(self, message: BagMessage) -> None:
        """Store a message in the node's buffer."""
        put = {
            self._topics.image: self._buffer.put_image,
            self._topics.depth: self._buffer.put_depth,
        }.get(message.topic, self._buffer.put_info)
        put(message.data, message.stamp_ns)

    def _take_image(self, image: StoredMessage) -> None:
        self._newest = image
        if self._first_ns is None:
            self._first_ns = image.arrived_ns
            self._add_timed(image.arrived_ns)
        for ask in [ask for ask in self._stamped if ask.stamp_ns == image.stamp_ns]:
            self._add(ask, image.arrived_ns, image)
            self._stamped.remove(ask)
        period = self._period_of(image.arrived_ns - self._first_ns)
        if period > self._last_period:
            self._last_period = period
            for text in self._plan.texts:
                ask = TimedQuery(text, task=self._plan.task)
                self._add(ask, image.arrived_ns, image)

    def _period_of(self, since_ns: int) -> int:
        """Return the index of the query period at a time since the first image."""
        return since_ns // self._plan.every_ns if self._plan.every_ns else self._last_period + 1

    def _add_timed(self, until_ns: int | None) -> None:
        """Add the timed queries that are due; before the first image they wait for it."""
        while self._timed and self._newest is not None and self._is_due(self._timed[0], until_ns):
            ask = self._timed.popleft()
            time_ns = max(self._time_of(ask), self._first_ns or 0)
            age_ns = time_ns - self._newest.arrived_ns
            no_image = ''
            if 0 < self._limits.max_image_age_ns < age_ns:
                no_image = (
                    'There is no image newer than camera.max_image_age, '
                    f'{self._limits.max_image_age_ns / S_TO_NS:g} s: the newest on '
                    f'{self._topics.image} was received {age_ns / S_TO_NS:.1f} s before.'
                )
            self._add(ask, time_ns, None if no_image else self._newest, no_image)

    def _time_of(self, ask: TimedQuery) -> int:
        return self._start_ns + (ask.at_ns or 0)

    def _is_due(self, ask: TimedQuery, until_ns: int | None) -> bool:
        return until_ns is None or self._time_of(ask) <= until_ns

    def _add(
        self,
        ask: TimedQuery,
        time_ns: int,
        image: StoredMessage | None,
        no_image: str = '',
        rgbd: RgbdMessages | None = None,
    ) -> None:
        """Add a query about an image, or about complete messages."""
        tidied, error = read_query(ask.text, self._limits.max_query_length)
        self._count += 1
        task: Task | None = Task.SEGMENT
        try:
            task = task_named(ask.task)
        except UnsupportedTask as unsupported:
            error = error or str(unsupported)
        query = Query(tidied, ask.id or f'{self._count:06d}', task)
        if error or no_image:
            image = rgbd = None
        scheduled = ScheduledQuery(query, time_ns, rgbd, error, no_image)
        self._waiting.append(_PendingQuery(scheduled, None if rgbd else image))

    def _is_paired(self, pending: _PendingQuery) -> bool:
        """Return whether no later message can belong to the image."""
        if pending.image is None or self._now_ns > pending.image.arrived_ns + MAX_WAIT_NS:
            return True
        time_ns = pending.image.time_ns
        for topic, buffered in (
            (self._topics.depth, self._depths),
            (self._topics.camera_info, self._infos),
        ):
            # Stamps far after the image's are from before a restart of the recording.
            if topic and not (buffered and 0 <= buffered[-1].time_ns - time_ns <= JUMP_NS):
                return False
        return True

    def _complete(self, ready: Callable[[_PendingQuery], bool]) -> Iterator[ScheduledQuery]:
        while self._waiting and ready(self._waiting[0]):
            scheduled, image = self._waiting.popleft()
            if image is not None:
                offset_ns = self._limits.max_depth_offset_ns
                scheduled = scheduled._replace(
                    rgbd=pair(image, self._depths, self._infos, offset_ns)
                )
            yield scheduled

    def _prune(self, buffered: deque[StoredMessage], minimum: int) -> None:
        """Remove messages from before the oldest image that is still needed."""
        oldest = next((a.image for a in self._waiting if a.image is not None), self._newest)
        while (
            len(buffered) > minimum
            and oldest is not None
            and buffered[1].time_ns <= oldest.time_ns
        ):
            buffered.popleft()


def _jumped(before: StoredMessage, after: StoredMessage) -> bool:
    return after.time_ns < before.time_ns - JUMP_NS
