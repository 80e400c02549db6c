"""What the node notices about itself over time: usual rates, times of answers, memory.

Nothing here waits. Never imports a library of models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import ctypes
import gc
import math
import os
from pathlib import Path
import statistics
import time

from segzero_ros.gpus import gpu_memory as gpu_memory
from segzero_ros.gpus import GpuMemory as GpuMemory
from segzero_ros.gpus import on_gpu

# Rates that are remembered, how many make a usual one, and the share of it below which one fell.
REMEMBERED = 60
ENOUGH = 10
FELL_BELOW = 0.5
# Moments over which a rate is averaged, and the silence after which it is 0, in seconds.
MOMENTS = 30
SILENCE = 2.0
# malloc.h's names for the size from which blocks are mapped one by one, and for what a pool may
# hold unused at its end; and sizes in bytes: of a small picture, and the largest that glibc takes
# and comes to by itself.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_PICTURE = 2**17
_LARGEST = 2**25


class UsualRate:
    """Knows a rate that has been usual for the last minute, when it is told it once a second."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, rate_hz: float) -> float:
        """Take in the rate now; return the usual one, 0.0 while that is not known."""
        if rate_hz > 0:
            self._rates.append(rate_hz)
        return statistics.median(self._rates) if len(self._rates) >= ENOUGH else 0.0

    def forget(self) -> None:
        """Begin anew, as with another camera."""
        self._rates.clear()


class Pace:
    """How often something happens; noted in one thread, read in any."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque(maxlen=MOMENTS)

    def note(self) -> None:
        """Say that it happened."""
        self._moments.append(time.monotonic())

    def rate(self) -> float:
        """Return how often it happens per second; 0.0 when it does not."""
        moments = list(self._moments)
        if len(moments) < 2 or time.monotonic() - moments[-1] > SILENCE:
            return 0.0
        return (len(moments) - 1) / max(moments[-1] - moments[0], 1e-9)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that such a share of them does not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def process_memory() -> int:
    """Return the bytes of memory that the process holds; 0 where the system does not tell."""
    try:
        pages = Path('/proc/self/statm').read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def keep_pictures_apart() -> bool:
    """Have the C library take blocks of a picture's size from the system, one by one, for good.

    glibc begins so, but once a large block was freed it takes ever larger ones from its pools,
    where what is freed stays between what lives longer: the pools of a node that answers all day
    grow for hours. A block of its own goes back to the system when it is freed. To be called
    before there are threads; who sets MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ knows
    better.

    Returns:
        Whether it was done.
    """
    return _set_thresholds(_PICTURE, _PICTURE)


@contextmanager
def results_together() -> Iterator[None]:
    """Have the C library take blocks of up to 32 MB from its pools while torch computes on a CPU.

    There each operation's result is such a block, and every page of one that was mapped by itself
    has to come from the system: a model looks at an image in nearly twice the time. Afterwards
    it is as `keep_pictures_apart` has it, for its reasons. Does nothing without torch or with a
    GPU.
    """
    together = on_gpu() is False and _set_thresholds(_LARGEST, 2 * _LARGEST)
    try:
        yield
    finally:
        if together:
            _set_thresholds(_PICTURE, _PICTURE)


def _set_thresholds(mapped: int, unused: int) -> bool:
    option = getattr(ctypes.CDLL(None), 'mallopt', None)
    if option is None or {'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_'} & set(os.environ):
        return False
    return bool(option(_MMAP_THRESHOLD, mapped)) and bool(option(_TRIM_THRESHOLD, unused))


def pass_over_what_lasts() -> None:
    """Have Python's collector of cycles pass over all that is there now: libraries and models.

    They are half a million objects. With them a full collection stops every thread for a fifth of
    a second, and it comes only when a quarter as many new ones have gathered: what answers leave
    behind in cycles takes memory for half an hour. To be called again when others were loaded,
    and `unfreeze` before those are closed that are to be freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # From now on it counts the others alone.
    gc.collect()


def give_memory_back() -> bool:
    """Return to the system what was freed but is kept by the C library between what is used.

    After a burst of pictures glibc keeps what lies around the few that live longer; over days a
    process looks as if it leaked. Takes milliseconds.

    Returns:
        Whether the C library can do it; others than glibc give memory back by themselves, or
        never.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is None:
        return False
    trim(0)
    return True
