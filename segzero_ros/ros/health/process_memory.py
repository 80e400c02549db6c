"""Memory of the process: its size, and settings of malloc and gc that keep it from growing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import gc
import os
from pathlib import Path

from segzero_ros.gpus import on_gpu

# mallopt parameters, from malloc.h: the block size from which malloc uses mmap, and how much free
# memory the heap may hold at its top.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
# Thresholds in bytes: glibc's initial one, about a small image, and the largest that its dynamic
# threshold reaches (mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX on 64 bits).
_MIN_THRESHOLD = 2**17
_MAX_THRESHOLD = 2**25


def process_memory() -> int:
    """Return the resident set size in bytes; 0 where the system does not report it."""
    try:
        pages = Path('/proc/self/statm').read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def map_large_blocks() -> bool:
    """Set glibc's mmap threshold to its initial value and keep it there.

    By default glibc raises the threshold when a large block is freed, and then serves images from
    the heap, where a freed block stays between longer-lived ones: the heap of a node that answers
    all day grows for hours. A mapped block is returned to the system when it is freed. Call this
    before there are threads. Does nothing if MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ is
    set.

    Returns:
        Whether the threshold was set.
    """
    return _set_thresholds(_MIN_THRESHOLD, _MIN_THRESHOLD)


@contextmanager
def pool_large_blocks() -> Iterator[None]:
    """Serve blocks of up to 32 MiB from glibc's heap while torch computes on a CPU.

    There each operation's result is such a block, and a mapped one costs a page fault for every
    page: encoding an image takes nearly twice as long. Afterwards the thresholds are those of
    `map_large_blocks` again. Does nothing without torch or with a GPU.
    """
    pooled = on_gpu() is False and _set_thresholds(_MAX_THRESHOLD, 2 * _MAX_THRESHOLD)
    try:
        yield
    finally:
        if pooled:
            _set_thresholds(_MIN_THRESHOLD, _MIN_THRESHOLD)


def _set_thresholds(mmap: int, trim: int) -> bool:
    option = getattr(ctypes.CDLL(None), 'mallopt', None)
    if option is None or {'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_'} & set(os.environ):
        return False
    return bool(option(_M_MMAP_THRESHOLD, mmap)) and bool(option(_M_TRIM_THRESHOLD, trim))


def freeze_long_lived_objects() -> None:
    """Exclude all present objects, libraries and models, from garbage collection.

    They are half a million objects. With them, a full collection stops every thread for 0.2 s, and
    starts only when a quarter as many new objects exist, so garbage of answers in reference cycles
    stays for half an hour. Call it again after loading other models, and `gc.unfreeze` before
    closing those that are to be freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # A full collection with nothing unfrozen sets the count that the next one is measured by.
    gc.collect()


def trim_memory() -> bool:
    """Return freed memory in glibc's heap to the system; takes milliseconds.

    After a burst of images glibc keeps freed blocks between the few that live longer; over days
    that looks like a leak.

    Returns:
        Whether the C library can do it; other C libraries than glibc cannot.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is None:
        return False
    trim(0)
    return True
