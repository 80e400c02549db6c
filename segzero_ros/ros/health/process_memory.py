"""Memory of the process: how much it holds, and what keeps it from growing for hours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import gc
import os
from pathlib import Path

from segzero_ros.gpus import on_gpu

# malloc.h's names for the size from which blocks are mapped one by one, and for what a pool may
# hold unused at its end; and sizes in bytes: of a small picture, and the largest that glibc takes
# and comes to by itself.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_PICTURE = 2**17
_LARGEST = 2**25


def process_memory() -> int:
    """Return the bytes of memory that the process holds; 0 where the system does not tell."""
    try:
        pages = Path('/proc/self/statm').read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def map_large_blocks() -> bool:
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
def pool_large_blocks() -> Iterator[None]:
    """Have the C library take blocks of up to 32 MB from its pools while torch computes on a CPU.

    There each operation's result is such a block, and every page of one that was mapped by itself
    has to come from the system: a model looks at an image in nearly twice the time. Afterwards
    it is as `map_large_blocks` has it, for its reasons. Does nothing without torch or with a
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


def freeze_long_lived_objects() -> None:
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


def trim_memory() -> bool:
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
