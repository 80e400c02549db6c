"""Child processes of long tests, with their resources from /proc."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf('SC_CLK_TCK')
# A node ends by itself within two seconds of SIGINT; the machine may be busy.
END_LIMIT = 10.0


class Sample(NamedTuple):
    """The resources of a process at a time.

    Attributes:
        at: monotonic time, seconds.
        rss_mb: resident memory, MB (1e6 bytes).
        threads: number of threads.
        files: number of open file descriptors, including sockets.
        cpu_s: CPU time since its start, user and system, seconds.
        load: 1-minute load average of the machine.
    """

    at: float
    rss_mb: float
    threads: int
    files: int
    cpu_s: float
    load: float


class Watched:
    """A child process with its output in a file.

    Args:
        arguments: of Python, such as a script and its arguments.
        log: file for its output.
        environment: additional variables.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.arguments = arguments
        self.log = log
        paths = f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'
        with log.open('a') as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONPATH': paths, **(environment or {})},
            )

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    def sample(self) -> Sample:
        """Return its current resources."""
        folder = Path(f'/proc/{self._process.pid}')
        status = (folder / 'status').read_text()
        # The name, in brackets, may hold spaces; utime and stime are fields 14 and 15 of the line.
        fields = (folder / 'stat').read_text().rpartition(')')[2].split()
        return Sample(
            time.monotonic(),
            _number(status, 'VmRSS') * 1024 / 1e6,
            _number(status, 'Threads'),
            sum(1 for _ in (folder / 'fd').iterdir()),
            (int(fields[11]) + int(fields[12])) / TICKS,
            os.getloadavg()[0],
        )

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Stop it with a signal, then SIGKILL if needed; return exit code and seconds."""
        started = time.monotonic()
        if self.running:
            self.send(number)
        try:
            self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._process.returncode, time.monotonic() - started


def _number(status: str, name: str) -> int:
    found = re.search(rf'^{name}:\s+(\d+)', status, re.MULTILINE)
    return int(found[1]) if found else 0
