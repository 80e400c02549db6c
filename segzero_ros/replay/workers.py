"""Processes with models of their own, which answer queries of a replay beside the replay's own.

For models that need no GPU, little memory and one processor each. A worker is given a decoded
frame and gives back what is kept of the answer, after writing its overlay. It ends with the
replay, however that ends: its pipe is closed then.
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

from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_pipeline
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record, record_of, with_frame
from segzero_ros.types import Answer, Frame, Query, SegZeroError, Timing

# Several copies of these fit a machine, and each computes with one processor.
_LIGHT = {'reasoner': 'attributes', 'segmenter': 'grabcut'}
# More processes than this wait for the bag to be read and written.
_MOST = 8
# One process keeps so many processors busy: it answers, draws overlays and writes the bag at once.
_BUSY_ALONE = 2
# Starting a process costs about as much as answering so many queries.
_WORTH_STARTING = 40


class WorkerError(SegZeroError):
    """Workers cannot be had, or one has ended; the text names the cause and what to do."""


class Task(NamedTuple):
    """A query about a frame.

    Attributes:
        number: the query's, from 0.
        time_ns: when it is asked, by the recorder's clock.
        query: what is asked.
        frame: what it is about.
        frame_age: the frame's age when it is asked, seconds.
        remark: for the answer's message: what the frame lacks.
    """

    number: int
    time_ns: int
    query: Query
    frame: Frame
    frame_age: float
    remark: str


class Kept(NamedTuple):
    """What is kept of an answer, and what it took."""

    record: Record
    timing: Timing


# Called with an answer's number from 0, and what is kept of it.
OnKept = Callable[[int, Record, Timing], None]


def answer_task(pipeline: Pipeline, task: Task) -> Answer:
    """Return the pipeline's answer to a query; what can go wrong is the answer's status."""
    answer = pipeline.answer(task.frame, task.query, frame_age=task.frame_age)
    return replace(answer, message=f'{answer.message} {task.remark}'.strip())


def keep_answer(overlays: OverlayFiles, number: int, time_ns: int, answer: Answer) -> Kept:
    """Write an answer's overlay and return what else is kept of it.

    Raises:
        OutputError: the overlay cannot be written.
    """
    record = record_of(answer, time_ns)
    # Drawn from the record, which holds nothing that depends on this machine's clock.
    overlays.write(number, with_frame(record, answer.frame))
    return Kept(record, answer.timing)


def count_workers(parameters: Mapping[str, Any], wanted: int, expected: int) -> int:
    """Return how many processes are to answer, this one among them.

    Args:
        parameters: the node's.
        wanted: as many as the user asked for; 0 for as many as pay.
        expected: how many queries there are.

    Raises:
        WorkerError: more than one are wanted of models of which there can be one only.
    """
    heavy = [
        f'{name} {parameters[name]!r}'
        for name, light in _LIGHT.items()
        if parameters[name] != light
    ]
    if wanted > 1 and heavy:
        raise WorkerError(
            f'The {" and the ".join(heavy)} cannot be loaded several times beside each other: '
            'leave out --workers.'
        )
    if wanted or heavy:
        return max(wanted, 1)
    idle = len(os.sched_getaffinity(0)) - _BUSY_ALONE
    return 1 + max(0, min(idle, _MOST - 1, expected // _WORTH_STARTING))


class WorkerPool:
    """Workers that are given tasks while they have few; a full pool gives them back.

    Args:
        count: how many processes; 0 for a pool that is always full.
        parameters: the node's, for their models.
        folder: where the overlays go.

    Attributes:
        started: for each worker, done when its models are loaded.
    """

    def __init__(self, count: int, parameters: Mapping[str, Any], folder: ReplayOutput) -> None:
        self._workers = [_Worker(parameters, folder.path) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(max(count, 1), 'worker')
        self.started = [self._threads.submit(self._start, worker) for worker in self._workers]
        self._free_places = threading.Semaphore(0)

    def offer(self, task: Task, on_kept: OnKept) -> Future[Record] | None:
        """Hand a task to a worker.

        Args:
            task: what is to be answered.
            on_kept: called from one of the pool's threads when it is.

        Returns:
            The answer's record; None where each worker has a task to do and another waiting.
        """
        if not self._free_places.acquire(blocking=False):
            return None
        return self._threads.submit(self._run, task, on_kept)

    def close(self) -> None:
        """End the workers after what they are doing; what waits is cancelled."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    @property
    def process_ids(self) -> list[int | None]:
        """The workers' process ids; None for one that is not started yet."""
        return [worker.process_id for worker in self._workers]

    @property
    def start_error(self) -> str:
        """Why a worker could not be started; empty when all could, or may still be."""
        errors = (start.exception() for start in self.started if start.done())
        return next((str(error) for error in errors if error is not None), '')

    def _start(self, worker: _Worker) -> None:
        worker.start()
        self._idle.put(worker)
        # One task to do and one that waits, so that it need not wait for the next.
        self._free_places.release(2)

    def _run(self, task: Task, on_kept: OnKept) -> Record:
        worker = self._idle.get()
        try:
            kept = worker.answer(task)
        finally:
            self._idle.put(worker)
            self._free_places.release()
        on_kept(task.number, *kept)
        return kept.record


class _Worker:
    """A process and this process's end of the pipe to it."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path) -> None:
        # A fork would inherit locks that threads of this process hold.
        context = multiprocessing.get_context('spawn')
        self._pipe, theirs = context.Pipe()
        self._theirs = theirs
        self._process = context.Process(
            target=_serve, args=(theirs, dict(parameters), folder), daemon=True
        )

    @property
    def process_id(self) -> int | None:
        """The process's id, None before it is started."""
        return self._process.pid

    def start(self) -> None:
        """Start the process; return when its models are loaded."""
        self._process.start()
        self._theirs.close()
        self._receive()

    def answer(self, task: Task) -> Kept:
        """Have a task done; raise what went wrong with it there."""
        try:
            self._pipe.send(task)
        except OSError as error:
            raise self._ended() from error
        kept: Kept = self._receive()
        return kept

    def close(self) -> None:
        """End the process."""
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
            f'A process that answered queries has ended (exit code {self._process.exitcode}); '
            'run the same command again with --workers 1, it goes on after what is answered.'
        )


def _serve(pipe: Connection, parameters: Mapping[str, Any], path: Path) -> None:
    """Answer tasks until the pipe is closed; what a worker process runs."""
    # Ctrl-C reaches all processes of a terminal: this one ends with its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    overlays = OverlayFiles(ReplayOutput(path))
    try:
        pipeline = load_pipeline(parameters)
    except SegZeroError as error:
        pipe.send(error)
        return
    pipe.send(None)
    with suppress(EOFError):
        while True:
            task: Task = pipe.recv()
            reply: Kept | SegZeroError
            try:
                answer = answer_task(pipeline, task)
                reply = keep_answer(overlays, task.number, task.time_ns, answer)
            except SegZeroError as error:
                reply = error
            pipe.send(reply)
    pipeline.close()
