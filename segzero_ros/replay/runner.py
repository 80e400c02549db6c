"""The first half of a replay: every query through a pipeline, every answer into a line.

Queries are answered in this process and, where there are workers, in theirs; the lines come in the
order of the queries whoever answered.
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
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record
from segzero_ros.replay.schedule import QuerySchedule, ScheduledQuery
from segzero_ros.replay.workers import answer_task, keep_answer, Task, WorkerPool
from segzero_ros.types import Answer, BadImage, S_TO_NS, Status

# Called after each answer, in order: its number from 0, and the answer without its frame and its
# objects, for many may wait for one before them.
OnAnswer = Callable[[int, Answer], None]
# How many of this process's answers may wait to be drawn and written, and how many may wait for a
# worker's answer before them.
_UNDRAWN = 2
_UNORDERED = 64


class ReplayRunner:
    """Asks what is asked of a bag.

    Args:
        bag: an open bag.
        frames: the camera's in it.
        pipeline: answers in this process.
        overlays: where the overlays go.
        log: where the answers go.
        workers: answer beside this process.
        rate: how many seconds of the bag may pass in one; 0 for as many as can be done.
    """

    def __init__(
        self,
        bag: BagReader,
        frames: BagFrames,
        pipeline: Pipeline,
        overlays: OverlayFiles,
        log: AnswerLog,
        workers: WorkerPool,
        rate: float = 0.0,
    ) -> None:
        self._bag = bag
        self._frames = frames
        self._pipeline = pipeline
        self._overlays = overlays
        self._log = log
        self._workers = workers
        self._rate = rate
        self._begun: tuple[int, float] | None = None

    def run(self, jobs: QuerySchedule, done: int, on_answer: OnAnswer) -> int:
        """Ask everything from the job with the number `done` on; return how many jobs there are.

        Raises:
            SegZeroError: an answer cannot be written, or a worker has ended.
        """
        number = -1
        undrawn: deque[Future[Record]] = deque()
        reports = _Reports(on_answer)
        with ThreadPoolExecutor(1, 'overlays') as drawer:
            for number, job in enumerate(jobs.run(self._bag.messages(jobs.topics))):
                if number < done:
                    continue
                self._wait_until(job.time_ns)
                prepared = self._prepare(number, job)
                if isinstance(prepared, Task):
                    future = self._workers.offer(prepared, self._log.add)
                    if future is not None:
                        reports.expect(number, _later(future))
                        continue
                    answer = answer_task(self._pipeline, prepared)
                else:
                    answer = prepared
                undrawn.append(drawer.submit(self._keep, number, job.time_ns, answer))
                while len(undrawn) > _UNDRAWN:
                    undrawn.popleft().result()
                reports.expect(number, _bare(answer))
            reports.finish()
            for future in undrawn:
                future.result()
        return number + 1

    def _prepare(self, number: int, job: ScheduledQuery) -> Task | Answer:
        """Return what is to be answered, or the answer of a query that no model can answer."""
        if job.complaint:
            return Answer(job.query, Status.REJECTED, job.complaint)
        if job.rgbd is None:
            return Answer(job.query, Status.NO_IMAGE, job.absence)
        try:
            frame, remark = self._frames.frame(job.rgbd)
        except BadImage as error:
            return Answer(job.query, Status.ERROR, str(error))
        age = (job.time_ns - job.rgbd.image.time_ns) / S_TO_NS
        return Task(number, job.time_ns, job.query, frame, age, remark)

    def _keep(self, number: int, time_ns: int, answer: Answer) -> Record:
        kept = keep_answer(self._overlays, number, time_ns, answer)
        self._log.add(number, *kept)
        return kept.record

    def _wait_until(self, time_ns: int) -> None:
        """Wait until a moment of the bag has come, where it is played at a rate."""
        if not self._rate:
            return
        if self._begun is None:
            self._begun = time_ns, time.monotonic()
        due = self._begun[1] + (time_ns - self._begun[0]) / S_TO_NS / self._rate
        time.sleep(max(0.0, due - time.monotonic()))


class _Reports:
    """Reports answers in the order of their queries, each as soon as those before it are there."""

    def __init__(self, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._expected: deque[tuple[int, Future[Answer] | Answer]] = deque()

    def expect(self, number: int, answer: Future[Answer] | Answer) -> None:
        """Add an answer, or one that a worker will give; report what can be reported."""
        self._expected.append((number, answer))
        while self._expected:
            first = self._expected[0][1]
            is_here = isinstance(first, Answer) or first.done()
            if not is_here and len(self._expected) <= _UNORDERED:
                return
            self._report()

    def finish(self) -> None:
        """Wait for the rest."""
        while self._expected:
            self._report()

    def _report(self) -> None:
        number, answer = self._expected.popleft()
        self._on_answer(number, answer if isinstance(answer, Answer) else answer.result())


def _bare(answer: Answer) -> Answer:
    """Return an answer without its pixels, for many may wait for one before them."""
    return replace(answer, frame=None, segments=())


def _later(kept: Future[Record]) -> Future[Answer]:
    """Return what will hold the answer of a record without its pixels."""
    bare: Future[Answer] = Future()

    def settle(done: Future[Record]) -> None:
        if done.cancelled():
            bare.cancel()
        elif (error := done.exception()) is not None:
            bare.set_exception(error)
        else:
            bare.set_result(_bare(done.result().answer))

    kept.add_done_callback(settle)
    return bare
