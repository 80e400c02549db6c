"""What the shards of these tests do: functions that any worker can import."""

from __future__ import annotations

import os
from pathlib import Path
import signal

from segzero_ros.sharding.base import Progress, Report
from segzero_ros.types import SegZeroError


def square(number: int, report: Report) -> int:
    report(Progress(1, 2, f'half of {number}'))
    report(Progress(2, 2))
    return number * number


def refuse(number: int, report: Report) -> int:
    raise SegZeroError(f'{number} is not wanted: use another.')


def divide(number: int, report: Report) -> float:
    return number / 0


def die(folder: str, report: Report) -> str:
    """Be killed the first time, with one line written; go on after it the second time."""
    lines = Path(folder, 'lines')
    done = lines.read_text().splitlines() if lines.exists() else []
    with lines.open('a') as file:
        for number in range(len(done), 3):
            file.write(f'{number}\n')
            file.flush()
            report(Progress(number + 1, 3))
            if not done:
                os.kill(os.getpid(), signal.SIGKILL)
    return lines.read_text()


def always_die(folder: str, report: Report) -> None:
    with Path(folder, 'deaths').open('a') as file:
        file.write('x')
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: str, report: Report) -> str:
    """Report, and end when a file can be opened: a pipe, which blocks until then."""
    report(Progress(0, 1))
    with Path(path).open():
        return 'opened'


def process_id(_: object, report: Report) -> int:
    return os.getpid()


def visible_gpus(_: object, report: Report) -> str:
    return os.environ['CUDA_VISIBLE_DEVICES']
