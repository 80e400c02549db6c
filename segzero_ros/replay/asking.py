"""The first half of a replay: every query through the pipeline, every answer into a line.

An answer's line is written when its picture is there, so that an interrupted replay can go on
after its last line. Imports `pipeline`, `drawing`, `wire` and the rest of the room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
import json
import time

import cv2

from segzero_ros.drawing import draw_overlay
from segzero_ros.pipeline import Pipeline
from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.folder import Folder, FolderError
from segzero_ros.replay.jobs import Job, Jobs
from segzero_ros.replay.queries import NANO
from segzero_ros.replay.records import Record, record_of, to_line, with_frame
from segzero_ros.replay.topics import Topics
from segzero_ros.types import Answer, BadImage, Frame, RgbImage, Status, Timing

# Told after each answer: its number from 0, and the answer.
OnAnswer = Callable[[int, Answer], None]
# How many answers may wait to be drawn and written while the models go on.
_BEHIND = 2
# A picture of an answer is mostly a photograph, which a higher level makes hardly smaller.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class Asker:
    """Asks the pipeline what is asked of a bag.

    Args:
        bag: an open bag.
        topics: the camera's in it.
        pipeline: who answers.
        folder: where the answers go.
        rate: how many seconds of the bag may pass in one; 0 for as many as can be done.
    """

    def __init__(
        self,
        bag: BagReader,
        topics: Topics,
        pipeline: Pipeline,
        folder: Folder,
        rate: float = 0.0,
    ) -> None:
        self._bag = bag
        self._frames = BagFrames(bag, topics)
        self._pipeline = pipeline
        self._folder = folder
        self._rate = rate
        self._begun: tuple[int, float] | None = None

    def run(self, jobs: Jobs, done: int, on_answer: OnAnswer) -> int:
        """Ask everything from the job with the number `done` on; return how many jobs there are.

        Raises:
            FolderError: an answer cannot be written.
        """
        number = -1
        waiting: deque[Future[None]] = deque()
        with (
            self._folder.results.open('a', encoding='ascii') as results,
            self._folder.timings.open('a', encoding='ascii') as timings,
            ThreadPoolExecutor(1, 'keeper') as keeper,
        ):

            def keep(number: int, record: Record, frame: Frame | None, timing: Timing) -> None:
                self._write_picture(number, with_frame(record, frame))
                # The line of the results comes last: with it, everything of the answer is there.
                for file, line in (
                    (timings, _timing_line(record, timing)),
                    (results, to_line(record)),
                ):
                    file.write(line + '\n')
                    file.flush()

            messages = self._bag.messages(jobs.topics)
            for number, job in enumerate(jobs.run(messages)):
                if number < done:
                    continue
                self._wait_until(job.time_ns)
                answer = self.answer(job)
                record = record_of(answer, job.time_ns)
                waiting.append(keeper.submit(keep, number, record, answer.frame, answer.timing))
                while len(waiting) > _BEHIND:
                    waiting.popleft().result()
                on_answer(number, answer)
            for future in waiting:
                future.result()
        return number + 1

    def answer(self, job: Job) -> Answer:
        """Return what comes of a job; what can go wrong with it is the answer's status."""
        if job.complaint:
            return Answer(job.query, Status.REJECTED, job.complaint)
        if job.shot is None:
            return Answer(job.query, Status.NO_IMAGE, job.absence)
        try:
            frame, remark = self._frames.frame(job.shot)
        except BadImage as error:
            return Answer(job.query, Status.ERROR, str(error))
        age = (job.time_ns - job.shot.image.time_ns) / NANO
        answer = self._pipeline.answer(frame, job.query, frame_age=age)
        return replace(answer, message=f'{answer.message} {remark}'.strip())

    def _wait_until(self, time_ns: int) -> None:
        """Wait until a moment of the bag has come, where it is played at a rate."""
        if not self._rate:
            return
        if self._begun is None:
            self._begun = time_ns, time.monotonic()
        due = self._begun[1] + (time_ns - self._begun[0]) / NANO / self._rate
        time.sleep(max(0.0, due - time.monotonic()))

    def _write_picture(self, number: int, answer: Answer) -> None:
        write_picture(self._folder, number, draw_overlay(answer))


def write_picture(folder: Folder, number: int, picture: RgbImage) -> None:
    """Write the picture of an answer, by its number from 0."""
    path = folder.overlay(number)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), bgr, _PNG):
        raise FolderError(f'{path} cannot be written; is the disk full?')


def _timing_line(record: Record, timing: Timing) -> str:
    seconds = {
        name: round(getattr(timing, name), 6)
        for name in ('reasoning', 'encoding', 'segmenting', 'total')
    }
    return json.dumps({'query_id': record.answer.query.id, **seconds})
