"""Answer the queries of a replay, in this process and in workers.

Answers are logged in the order of the queries, whichever process answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
import time

from segzero_ros.pipeline import Pipeline
from segzero_ros.replay.answer_log import AnswerLog
from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.records import Record
from segzero_ros.replay.schedule import QuerySchedule, ScheduledQuery
from segzero_ros.replay.workers import answer_task, AnswerFiles, record_answer, Task, WorkerPool
from segzero_ros.types import Answer, BadImage, S_TO_NS, Status

# Called after each answer, in order: its number from 0, and the answer without frame and objects,
# to save memory while answers wait for an earlier one.
OnAnswer = Callable[[int, Answer], None]
# Answers of this process that may wait to be drawn, and answers that may wait for an earlier one
# of a worker.
_MAX_UNDRAWN = 2
_MAX_UNORDERED = 64


class ReplayRunner:
    """Answers the queries of a bag.

    Args:
        bag: an open bag.
        frames: decodes the camera's frames.
        pipeline: answers in this process.
        files: writes the overlays, and clouds if they are wanted.
        log: writes the answers.
        workers: answer in other processes.
        rate: playback rate, 1 for real time; 0 for as fast as possible.
    """

    def __init__(
        self,
        bag: BagReader,
        frames: BagFrames,
        pipeline: Pipeline,
        files: AnswerFiles,
        log: AnswerLog,
        workers: WorkerPool,
        rate: float = 0.0,
    ) -> None:
        self._bag = bag
        self._frames = frames
        self._pipeline = pipeline
        self._files = files
        self._log = log
        self._workers = workers
        self._rate = rate
        self._start: tuple[int, float] | None = None

    def run(self, schedule: QuerySchedule, done: int, on_answer: OnAnswer) -> int:
        """Answer the queries from number `done` on; return the number of all queries.

        Args:
            schedule: the queries with their messages.
            done: number of queries that are answered already.
            on_answer: called after each answer, in order.

        Raises:
            SegZeroError: an answer cannot be written, or a worker has exited.
        """
        number = -1
        undrawn: deque[Future[Record]] = deque()
        reports = _Reports(on_answer)
        with ThreadPoolExecutor(1, 'overlays') as drawing:
            for number, scheduled in enumerate(schedule.run(self._bag.messages(schedule.topics))):
                if number < done:
                    continue
                self._wait_until(scheduled.time_ns)
                prepared = self._prepare(number, scheduled)
                if isinstance(prepared, Task):
                    future = self._workers.offer(prepared, self._log.add)
                    if future is not None:
                        reports.expect(number, _later(future))
                        continue
                    answer = answer_task(self._pipeline, prepared)
                else:
                    answer = prepared
                undrawn.append(drawing.submit(self._record, number, scheduled.time_ns, answer))
                while len(undrawn) > _MAX_UNDRAWN:
                    undrawn.popleft().result()
                reports.expect(number, _bare(answer))
            reports.finish()
            for future in undrawn:
                future.result()
        return number + 1

    def _prepare(self, number: int, scheduled: ScheduledQuery) -> Task | Answer:
        """Return a task for the models, or the answer to a query without a usable frame."""
        if scheduled.error:
            return Answer(scheduled.query, Status.REJECTED, scheduled.error)
        if scheduled.rgbd is None:
            return Answer(scheduled.query, Status.NO_IMAGE, scheduled.no_image)
        try:
            frame, warning = self._frames.frame(scheduled.rgbd)
        except BadImage as error:
            return Answer(scheduled.query, Status.ERROR, str(error))
        age = (scheduled.time_ns - scheduled.rgbd.image.time_ns) / S_TO_NS
        return Task(number, scheduled.time_ns, scheduled.query, frame, age, warning)

    def _record(self, number: int, time_ns: int, answer: Answer) -> Record:
        recorded = record_answer(self._files, number, time_ns, answer)
        self._log.add(number, *recorded)
        return recorded.record

    def _wait_until(self, time_ns: int) -> None:
        """Wait for the time of a query, if there is a playback rate."""
        if not self._rate:
            return
        if self._start is None:
            self._start = time_ns, time.monotonic()
        due = self._start[1] + (time_ns - self._start[0]) / S_TO_NS / self._rate
        time.sleep(max(0.0, due - time.monotonic()))


class _Reports:
    """Reports answers in the order of the queries, as soon as all earlier ones are done."""

    def __init__(self, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._expected: deque[tuple[int, Future[Answer] | Answer]] = deque()

    def expect(self, number: int, answer: Future[Answer] | Answer) -> None:
        """Add an answer, or a worker's future one; report all that can be reported."""
        self._expected.append((number, answer))
        while self._expected:
            first = self._expected[0][1]
            is_done = isinstance(first, Answer) or first.done()
            if not is_done and len(self._expected) <= _MAX_UNORDERED:
                return
            self._report()

    def finish(self) -> None:
        """Wait for the remaining answers, and report them."""
        while self._expected:
            self._report()

    def _report(self) -> None:
        number, answer = self._expected.popleft()
        self._on_answer(number, answer if isinstance(answer, Answer) else answer.result())


def _bare(answer: Answer) -> Answer:
    """Return an answer without its frame and objects, to save memory."""
    return replace(answer, frame=None, segments=())


def _later(recorded: Future[Record]) -> Future[Answer]:
    """Return a future of the record's answer without its frame and objects."""
    bare: Future[Answer] = Future()

    def settle(done: Future[Record]) -> None:
        if done.cancelled():
            bare.cancel()
        elif (error := done.exception()) is not None:
            bare.set_exception(error)
        else:
            bare.set_result(_bare(done.result().answer))

    recorded.add_done_callback(settle)
    return bare
