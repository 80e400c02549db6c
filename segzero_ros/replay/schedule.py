"""From a bag's messages to queries with the frames that they are about, in one pass.

A recorded camera is paired as the node pairs a live one, by `wire.frame_store`. A recorded query
is about the frame that the node took then: the newest image whose own depth was here. Where the
node had none, and where the image is given, a bag lets one wait: the image gets the depth and the
intrinsics that came after it, too. Only images that are asked about are kept, and only until they
are paired, so memory does not grow with the bag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from segzero_ros.conversions.image import MAX_PIXELS
from segzero_ros.conversions.text import MAX_QUERY_LENGTH, read_query
from segzero_ros.replay.bag import BagMessage
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.topics import Topics
from segzero_ros.rgbd.buffer import INFOS, pair, RgbdBuffer, RgbdMessages
from segzero_ros.rgbd.message_buffer import JUMP_NS, read_stamp, StoredMessage
from segzero_ros.types import Query, S_TO_NS

# How long depth and intrinsics may come after their image, by the recorder's clock.
PATIENCE_NS = S_TO_NS // 2
# How many depth images are kept at least.
DEPTHS = 4


class ScheduledQuery(NamedTuple):
    """One query, and what it is about.

    Attributes:
        query: the sentence and its id.
        time_ns: when it is asked, by the recorder's clock.
        rgbd: the image with its depth and intrinsics; None where there is none to ask about.
        complaint: why it cannot be asked; empty when it can.
        absence: why there is no image; empty when there is one.
    """

    query: Query
    time_ns: int
    rgbd: RgbdMessages | None
    complaint: str = ''
    absence: str = ''


@dataclass(frozen=True)
class ScheduleLimits:
    """Limits of the node: of depth offset and image age, nanoseconds, characters and pixels."""

    max_depth_offset_ns: int
    max_image_age_ns: int
    max_query_length: int = MAX_QUERY_LENGTH
    max_pixels: int = MAX_PIXELS


class _Asked(NamedTuple):
    """A job that waits for what belongs to its image; complete with its messages or no image."""

    job: ScheduledQuery
    image: StoredMessage | None


class QuerySchedule:
    """Walks over the messages of a bag and gives each query when its frame is complete.

    Args:
        topics: the camera's.
        plan: what is asked.
        limits: the node's.
        start_ns: the bag's start, from which `TimedQuery.at_ns` counts.
        text_of: reads a recorded query.
    """

    def __init__(
        self,
        topics: Topics,
        plan: QueryPlan,
        limits: ScheduleLimits,
        start_ns: int,
        text_of: Callable[[BagMessage], str],
    ) -> None:
        self._topics = topics
        self._plan = plan
        self._limits = limits
        self._start_ns = self._now_ns = start_ns
        self._text_of = text_of
        timed = [ask for ask in plan.asks if ask.at_ns is not None]
        self._timed = deque(sorted(timed, key=lambda ask: ask.at_ns or 0))
        self._stamped = [ask for ask in plan.asks if ask.stamp_ns is not None]
        # What the node would have had; used for recorded queries alone.
        self._store = RgbdBuffer(limits.max_depth_offset_ns)
        self._newest: StoredMessage | None = None
        self._depths: deque[StoredMessage] = deque()
        self._infos: deque[StoredMessage] = deque()
        self._waiting: deque[_Asked] = deque()
        self._count = 0
        self._first_ns: int | None = None
        self._last_turn = -1
        self.restarts = 0

    @property
    def topics(self) -> set[str]:
        """What has to be read."""
        recorded = {self._topics.queries} if self._plan.recorded else set()
        return self._topics.camera | recorded

    def run(self, messages: Iterable[BagMessage]) -> Iterator[ScheduledQuery]:
        """Give the jobs, in the order in which they are asked.

        Args:
            messages: of `topics`, in the order in which they were received.
        """
        for message in messages:
            self._now_ns = message.stamp_ns
            self._ask_timed(self._now_ns - 1)
            yield from self._take(message)
            yield from self._complete(self._is_paired)
        self._ask_timed(None)
        for ask in self._stamped:
            absence = (
                f'The bag has no image with the stamp {ask.stamp_ns} on {self._topics.image}.'
            )
            self._ask(ask.text, ask.id, self._now_ns, None, absence)
        yield from self._complete(lambda asked: True)

    def _take(self, message: BagMessage) -> Iterator[ScheduledQuery]:
        if self._plan.recorded and message.topic == self._topics.queries:
            absence = '' if self._newest else 'There is no image: none was recorded before.'
            text, rgbd = self._text_of(message), self._store.latest_paired()
            self._ask(text, '', message.stamp_ns, self._newest, absence, rgbd)
            return
        if self._plan.recorded:
            self._put(message)
        stored = StoredMessage(message.data, read_stamp(message.data), message.stamp_ns)
        if message.topic == self._topics.image:
            if self._newest is not None and _jumped(self._newest, stored):
                self.restarts += 1
            self._take_image(stored)
            return
        kept = self._depths if message.topic == self._topics.depth else self._infos
        if kept and _jumped(kept[-1], stored):
            # What still waits from before the jump is paired with what was there before.
            limit = stored.time_ns + JUMP_NS
            yield from self._complete(lambda a: a.image is None or a.image.time_ns > limit)
            kept.clear()
        kept.append(stored)
        self._prune(kept, DEPTHS if kept is self._depths else INFOS)

    def _put(self, message: BagMessage) -> None:
        """Store a message as the node would have."""
        put = {
            self._topics.image: self._store.put_image,
            self._topics.depth: self._store.put_depth,
        }.get(message.topic, self._store.put_info)
        put(message.data, message.stamp_ns)

    def _take_image(self, image: StoredMessage) -> None:
        self._newest = image
        if self._first_ns is None:
            self._first_ns = image.arrived_ns
            self._ask_timed(image.arrived_ns)
        for ask in [ask for ask in self._stamped if ask.stamp_ns == image.stamp_ns]:
            self._ask(ask.text, ask.id, image.arrived_ns, image)
            self._stamped.remove(ask)
        turn = self._turn(image.arrived_ns - self._first_ns)
        if turn > self._last_turn:
            self._last_turn = turn
            for text in self._plan.texts:
                self._ask(text, '', image.arrived_ns, image)

    def _turn(self, since_ns: int) -> int:
        """Return the how manieth frame that may be asked about comes after this much time."""
        return since_ns // self._plan.every_ns if self._plan.every_ns else self._last_turn + 1

    def _ask_timed(self, until_ns: int | None) -> None:
        """Ask what is due; before the first image, all waits for it."""
        while self._timed and self._newest is not None and self._is_due(self._timed[0], until_ns):
            ask = self._timed.popleft()
            time_ns = max(self._time_of(ask), self._first_ns or 0)
            age_ns = time_ns - self._newest.arrived_ns
            absence = ''
            if 0 < self._limits.max_image_age_ns < age_ns:
                absence = (
                    'There is no image newer than camera.max_image_age, '
                    f'{self._limits.max_image_age_ns / S_TO_NS:g} s: the newest on '
                    f'{self._topics.image} was received {age_ns / S_TO_NS:.1f} s before.'
                )
            self._ask(ask.text, ask.id, time_ns, None if absence else self._newest, absence)

    def _time_of(self, ask: TimedQuery) -> int:
        return self._start_ns + (ask.at_ns or 0)

    def _is_due(self, ask: TimedQuery, until_ns: int | None) -> bool:
        return until_ns is None or self._time_of(ask) <= until_ns

    def _ask(
        self,
        text: str,
        name: str,
        time_ns: int,
        image: StoredMessage | None,
        absence: str = '',
        rgbd: RgbdMessages | None = None,
    ) -> None:
        """Take in a query about an image, or about messages that is complete."""
        tidied, complaint = read_query(text, self._limits.max_query_length)
        self._count += 1
        query = Query(tidied, name or f'{self._count:06d}')
        if complaint or absence:
            image = rgbd = None
        job = ScheduledQuery(query, time_ns, rgbd, complaint, absence)
        self._waiting.append(_Asked(job, None if rgbd else image))

    def _is_paired(self, asked: _Asked) -> bool:
        """Return whether nothing that comes later could belong to the image any more."""
        if asked.image is None or self._now_ns > asked.image.arrived_ns + PATIENCE_NS:
            return True
        time_ns = asked.image.time_ns
        for topic, kept in (
            (self._topics.depth, self._depths),
            (self._topics.camera_info, self._infos),
        ):
            # Far behind the image is what came before a recording that starts anew.
            if topic and not (kept and 0 <= kept[-1].time_ns - time_ns <= JUMP_NS):
                return False
        return True

    def _complete(self, ready: Callable[[_Asked], bool]) -> Iterator[ScheduledQuery]:
        while self._waiting and ready(self._waiting[0]):
            job, image = self._waiting.popleft()
            if image is not None:
                offset_ns = self._limits.max_depth_offset_ns
                job = job._replace(rgbd=pair(image, self._depths, self._infos, offset_ns))
            yield job

    def _prune(self, kept: deque[StoredMessage], least: int) -> None:
        """Forget what lies before the oldest image that may still be asked about."""
        oldest = next((a.image for a in self._waiting if a.image is not None), self._newest)
        while len(kept) > least and oldest is not None and kept[1].time_ns <= oldest.time_ns:
            kept.popleft()


def _jumped(before: StoredMessage, after: StoredMessage) -> bool:
    return after.time_ns < before.time_ns - JUMP_NS
