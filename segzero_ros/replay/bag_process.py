"""The bag of a replay, written while queries are answered: here, or in a process of its own.

Reading, copying and compressing a camera's bag takes about half as long as answering by the
embedded default does. In one process both would wait for Python's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
import signal
from typing import Any, NamedTuple

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.folder import Folder
from segzero_ros.replay.records import from_line
from segzero_ros.replay.results_bag import write_bag
from segzero_ros.types import SegZeroError


class BagProcessError(SegZeroError):
    """The process that wrote the bag has ended; the text says what to do."""


class BagJob(NamedTuple):
    """What is written.

    Attributes:
        source: the bag that is replayed.
        output: the replay's folder.
        namespace: of the results' topics.
        originals: whether the original's messages are in the new bag too.
        overlays: whether the overlays are.
    """

    source: Path
    output: Path
    namespace: str
    originals: bool
    overlays: bool


def write_here(job: BagJob, lines: Iterable[str]) -> list[str]:
    """Write the bag, with a reader of its own.

    Args:
        job: what is written.
        lines: of the answers, in order; an error that they raise leaves no bag.

    Returns:
        Remarks for a person: what is wrong with the source, and what was left out.
    """
    with BagReader(job.source, salvage=True) as source:
        remarks = write_bag(
            source,
            Folder(job.output),
            map(from_line, lines),
            job.namespace,
            originals=job.originals,
            overlays=job.overlays,
        )
        return [*filter(None, [source.damage]), *remarks]


def write_apart(job: BagJob, lines: Iterable[str]) -> list[str]:
    """Do as `write_here` does in a process of its own.

    Raises:
        BagProcessError: the process has ended, killed from outside for instance.
    """
    context = multiprocessing.get_context('spawn')
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()
    try:
        # Why it hears nothing any more is what it has sent.
        with suppress(OSError):
            for line in lines:
                pipe.send(line)
            pipe.send(None)
        try:
            received: list[str] | BaseException = pipe.recv()
        except (EOFError, OSError):
            process.join()
            raise BagProcessError(
                f'The process that wrote the bag has ended (exit code {process.exitcode}); run '
                'the same command again, the answers are kept.'
            ) from None
        if isinstance(received, BaseException):
            raise received
        return received
    finally:
        # Without the end of the lines it gives the bag up.
        pipe.close()
        process.join()


class _NoMoreLines(Exception):
    """The replay has ended before all its queries were answered."""


def _serve(pipe: Connection, job: BagJob) -> None:
    """Write a bag from the lines in a pipe; what the process runs."""
    # Ctrl-C reaches all processes of a terminal: this one ends with its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reply: Any
    try:
        reply = write_here(job, _lines_of(pipe))
    except _NoMoreLines:
        return
    except Exception as error:
        reply = error
    with suppress(OSError):
        pipe.send(reply)


def _lines_of(pipe: Connection) -> Iterator[str]:
    while True:
        try:
            line = pipe.recv()
        except (EOFError, OSError):
            raise _NoMoreLines from None
        if line is None:
            return
        yield line
