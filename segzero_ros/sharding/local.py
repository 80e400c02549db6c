"""Shards in processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
import multiprocessing
from multiprocessing.connection import Connection, wait
import signal

from segzero_ros.sharding.base import Died, Event, Progress, ShardTask
from segzero_ros.sharding.worker import run_shard, Stopped


class LocalProcesses:
    """Processes that each run one shard after the other.

    Args:
        count: number of processes; started when they are needed.
    """

    def __init__(self, count: int) -> None:
        self.slots = count
        self._idle: list[_Process] = []
        self._running: dict[Connection, tuple[int, _Process]] = {}

    def submit(self, number: int, shard: ShardTask) -> None:
        """Start a shard in an idle process, or in a new one."""
        process = self._idle.pop() if self._idle else _Process()
        with suppress(OSError):  # A process that was killed is noticed by `wait`.
            process.pipe.send(shard)
        self._running[process.pipe] = number, process

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait for events; a process that has exited is one."""
        events: list[tuple[int, Event]] = []
        for pipe in wait(self._running):
            assert isinstance(pipe, Connection)
            number, process = self._running[pipe]
            try:
                event: Event = pipe.recv()
            except (EOFError, OSError):
                event = Died(process.end())
            if not isinstance(event, Progress):
                del self._running[pipe]
                if not isinstance(event, Died):
                    self._idle.append(process)
            events.append((number, event))
        return events

    @property
    def process_ids(self) -> dict[int, int | None]:
        """The process IDs of the running shards, by their numbers."""
        return {number: process.id for number, process in self._running.values()}

    def close(self) -> None:
        """End all processes, also those at work: what is done stays done."""
        for process in (*self._idle, *(process for _, process in self._running.values())):
            process.end()
        self._idle.clear()
        self._running.clear()


class _Process:
    """A worker process and the pipe to it."""

    def __init__(self) -> None:
        # A fork would inherit locks held by other threads.
        context = multiprocessing.get_context('spawn')
        self.pipe, remote_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote_end,), daemon=True)
        self._process.start()
        remote_end.close()

    @property
    def id(self) -> int | None:
        return self._process.pid

    def end(self) -> str:
        """End the process, if it has not ended; return how it did, as the end of a sentence."""
        self.pipe.close()
        self._process.terminate()
        self._process.join()
        code = self._process.exitcode or 0
        return f'was killed by signal {-code}' if code < 0 else f'has exited with code {code}'


def _serve(pipe: Connection) -> None:
    """Run shards until the pipe is closed; the main function of a worker process."""
    # Ctrl-C reaches all processes of a terminal; this one ends with its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def report(progress: Progress) -> None:
        try:
            pipe.send(progress)
        except OSError as error:
            raise Stopped from error

    with suppress(EOFError, OSError, Stopped):
        while True:
            shard: ShardTask = pipe.recv()
            pipe.send(run_shard(shard, report))
