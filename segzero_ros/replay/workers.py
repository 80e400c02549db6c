"""Worker processes with their own models, which answer queries of a replay in parallel.

For models that need no GPU, little memory and one CPU each. A worker gets a decoded frame, writes
the overlay and returns the record. It exits with the replay, whose pipe is closed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
import multiprocessing
from multiprocessing.connection import Connection
import os
from pathlib import Path
import queue
import signal
import threading
from typing import Any, NamedTuple

from segzero_ros.config import load_pipeline
from segzero_ros.pipeline import Pipeline
from segzero_ros.replay.cloud_files import CloudFiles
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record, record_of, WITH_DISPLAYS, with_frame
from segzero_ros.sharding.needs import heavy_models
from segzero_ros.types import Answer, Frame, Query, SegZeroError, Timing

# With more processes, reading and writing the bag is the bottleneck.
_MAX_WORKERS = 8
# CPUs that the main process uses to answer, draw overlays and write the bag.
_MAIN_PROCESS_CPUS = 2
# Starting a process takes about as long as answering this many queries.
_MIN_QUERIES_PER_WORKER = 40


class WorkerError(SegZeroError):
    """Workers cannot be used, or one has exited; the message has the reason and a hint."""


class Task(NamedTuple):
    """A query about a frame.

    Attributes:
        number: of the query, from 0.
        time_ns: time of the query, by the recorder's clock.
        query: text and id.
        frame: the frame to query.
        frame_age: the frame's age at the time of the query, seconds.
        warning: about the frame, for the answer's message.
    """

    number: int
    time_ns: int
    query: Query
    frame: Frame
    frame_age: float
    warning: str


class TimedRecord(NamedTuple):
    """An answer's record and its durations."""

    record: Record
    timing: Timing


# Called with an answer's number from 0, its record and its durations.
OnRecord = Callable[[int, Record, Timing], None]


def answer_task(pipeline: Pipeline, task: Task) -> Answer:
    """Return the pipeline's answer to a query; its status reports failures."""
    answer = pipeline.answer(task.frame, task.query, frame_age=task.frame_age)
    return replace(answer, message=f'{answer.message} {task.warning}'.strip())


class AnswerFiles(NamedTuple):
    """The files that each answer gets.

    Attributes:
        overlays: writes the overlay.
        clouds: writes the points; None if none are wanted.
    """

    overlays: OverlayFiles
    clouds: CloudFiles | None


def record_answer(files: AnswerFiles, number: int, time_ns: int, answer: Answer) -> TimedRecord:
    """Write an answer's files and return its record.

    Args:
        files: writes them.
        number: of the answer, from 0.
        time_ns: time of the query, by the recorder's clock.
        answer: the answer.

    Raises:
        OutputError: a file cannot be written.
    """
    record = record_of(answer, time_ns)
    # Drawn from the record, which does not depend on this machine's clock.
    recorded = with_frame(record, answer.frame)
    files.overlays.write(number, recorded)
    if files.clouds is not None and answer.status in WITH_DISPLAYS:
        files.clouds.write(number, recorded)
    return TimedRecord(record, answer.timing)


def count_workers(parameters: Mapping[str, Any], requested: int, expected: int) -> int:
    """Return the number of processes that answer, including this one.

    Args:
        parameters: of the node.
        requested: number that the user requested; 0 for automatic.
        expected: number of queries.

    Raises:
        WorkerError: several were requested for models that can be loaded only once.
    """
    heavy = heavy_models(parameters['reasoner.backend'], parameters['segmenter.backend'])
    if requested > 1 and heavy:
        raise WorkerError(
            f'The {" and the ".join(heavy)} cannot be loaded several times: do not use --workers.'
        )
    if requested or heavy:
        return max(requested, 1)
    idle = len(os.sched_getaffinity(0)) - _MAIN_PROCESS_CPUS
    return 1 + max(0, min(idle, _MAX_WORKERS - 1, expected // _MIN_QUERIES_PER_WORKER))


class WorkerPool:
    """Workers with short queues; a full pool rejects tasks.

    Args:
        count: number of processes; 0 for a pool that is always full.
        parameters: of the node, for the models.
        folder: of the replay.
        clouds: whether the points of each answer are written.

    Attributes:
        started: for each worker, done when its models are loaded.
    """

    def __init__(
        self,
        count: int,
        parameters: Mapping[str, Any],
        folder: ReplayOutput,
        *,
        clouds: bool = False,
    ) -> None:
        self._workers = [_Worker(parameters, folder.path, clouds) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(max(count, 1), 'worker')
        self.started = [self._threads.submit(self._start, worker) for worker in self._workers]
        self._free_slots = threading.Semaphore(0)

    def offer(self, task: Task, on_record: OnRecord) -> Future[Record] | None:
        """Submit a task to a worker.

        Args:
            task: the query and its frame.
            on_record: called from one of the pool's threads with the result.

        Returns:
            The answer's record; None if all workers have a running and a waiting task.
        """
        if not self._free_slots.acquire(blocking=False):
            return None
        return self._threads.submit(self._run, task, on_record)

    def close(self) -> None:
        """Stop the workers after their running tasks; cancel the waiting ones."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    @property
    def process_ids(self) -> list[int | None]:
        """The workers' process IDs; None for a worker that has not been started yet."""
        return [worker.process_id for worker in self._workers]

    @property
    def start_error(self) -> str:
        """Why a worker could not be started; empty without an error so far."""
        errors = (start.exception() for start in self.started if start.done())
        return next((str(error) for error in errors if error is not None), '')

    def _start(self, worker: _Worker) -> None:
        worker.start()
        self._idle.put(worker)
        # One running and one waiting task, to keep the worker busy.
        self._free_slots.release(2)

    def _run(self, task: Task, on_record: OnRecord) -> Record:
        worker = self._idle.get()
        try:
            timed = worker.answer(task)
        finally:
            self._idle.put(worker)
            self._free_slots.release()
        on_record(task.number, *timed)
        return timed.record


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path, clouds: bool) -> None:
        # A fork would inherit locks held by other threads.
        context = multiprocessing.get_context('spawn')
        self._pipe, remote_end = context.Pipe()
        self._remote_end = remote_end
        self._process = context.Process(
            target=_serve, args=(remote_end, dict(parameters), folder, clouds), daemon=True
        )

    @property
    def process_id(self) -> int | None:
        """The process ID; None before the start."""
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until its models are loaded."""
        self._process.start()
        self._remote_end.close()
        self._receive()

    def answer(self, task: Task) -> TimedRecord:
        """Run a task; raise the worker's exception, if any."""
        try:
            self._pipe.send(task)
        except OSError as error:
            raise self._ended() from error
        timed: TimedRecord = self._receive()
        return timed

    def close(self) -> None:
        """Stop the process."""
        self._pipe.close()
        if self._process.pid is not None:
            self._process.join()

    def _receive(self) -> Any:
        try:
            received = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(received, SegZeroError):
            raise received
        return received

    def _ended(self) -> WorkerError:
        self._process.join()
        return WorkerError(
            f'A worker process has exited (code {self._process.exitcode}); run the same command '
            'again with --workers 1 to resume the replay.'
        )


def _serve(pipe: Connection, parameters: Mapping[str, Any], path: Path, clouds: bool) -> None:
    """Answer tasks until the pipe is closed; the main function of a worker process."""
    # Ctrl-C reaches all processes of a terminal; this one exits when its pipe is closed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = ReplayOutput(path)
    files = AnswerFiles(OverlayFiles(folder), CloudFiles(folder) if clouds else None)
    try:
        pipeline = load_pipeline(parameters)
    except SegZeroError as error:
        pipe.send(error)
        return
    pipe.send(None)
    with suppress(EOFError):
        while True:
            task: Task = pipe.recv()
            reply: TimedRecord | SegZeroError
            try:
                answer = answer_task(pipeline, task)
                reply = record_answer(files, task.number, task.time_ns, answer)
            except SegZeroError as error:
                reply = error
            pipe.send(reply)
    pipeline.close()
