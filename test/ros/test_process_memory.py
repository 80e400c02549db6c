"""The process gives freed memory back: settings of malloc and of the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from typing import Any
import weakref

import pytest

pytest.importorskip('rclpy')

from segzero_ros.ros.health.process_memory import (
    freeze_long_lived_objects,
    map_large_blocks,
    process_memory,
    trim_memory,
)


def test_process_memory_counts_what_this_process_holds() -> None:
    before = process_memory()
    held = b'1' * 2**27
    assert process_memory() - before > len(held) / 2


def test_what_lies_freed_between_what_is_used_goes_back_to_the_system() -> None:
    size, count = 2**16, 3000
    pieces = [bytearray(b'1') * size for _ in range(count)]
    kept = pieces[::30]
    before = process_memory()
    del pieces
    if not trim_memory():
        pytest.skip('not glibc')
    assert before - process_memory() > 0.8 * (count - len(kept)) * size
    assert all(piece[-1] == ord('1') for piece in kept)


class Knot:
    """Something that only the collector frees, since it holds itself."""

    def __init__(self) -> None:
        self.itself = self


def test_the_collector_passes_over_what_lasts_until_others_are_loaded() -> None:
    first, second = Knot(), Knot()
    gone = [weakref.ref(knot) for knot in (first, second)]
    try:
        freeze_long_lived_objects()
        assert gc.get_freeze_count() > 10_000
        third = Knot()
        gone.append(weakref.ref(third))
        del first, third
        gc.collect()
        assert [knot() is None for knot in gone] == [False, False, True]
        # Others are loaded: what was closed before is freed.
        freeze_long_lived_objects()
        assert [knot() is None for knot in gone] == [True, False, True]
        del second
    finally:
        gc.unfreeze()
    gc.collect()
    assert gone[1]() is None


# The C library's own account: blocks that are mapped one by one.
_MAPPED = """
import ctypes, sys, threading
from segzero_ros.ros.health.process_memory import map_large_blocks, pool_large_blocks

class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Account
if 'apart' in sys.argv:
    assert map_large_blocks()
if 'torch' in sys.argv:
    import torch
bytearray(2**20)  # Freed at once: from now on glibc takes such blocks from its pools.

def mapped():
    before = library.mallinfo2().hblks
    pictures = [bytearray(2**20 - 4096) for _ in range(20)]
    found.append(library.mallinfo2().hblks - before)

found = []
with pool_large_blocks():
    # The models' thread has pools of its own.
    thread = threading.Thread(target=mapped)
    thread.start()
    thread.join()
mapped()
print(*found)
"""


@pytest.mark.parametrize(
    ('arguments', 'mapped'),
    [((), '0 0'), (('apart',), '20 20'), (('apart', 'torch'), '0 20')],
)
def test_blocks_of_a_pictures_size_are_taken_from_pools_while_torch_computes_on_a_cpu_alone(
    arguments: Any, mapped: str
) -> None:
    if 'torch' in arguments:
        pytest.importorskip('torch')
    if not hasattr(ctypes.CDLL(None), 'mallinfo2'):
        pytest.skip('not glibc')
    environment = {k: v for k, v in os.environ.items() if k != 'MALLOC_MMAP_THRESHOLD_'}
    command = [sys.executable, '-c', _MAPPED, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == mapped


def test_who_sets_the_size_by_the_environment_knows_better(monkeypatch: Any) -> None:
    monkeypatch.setenv('MALLOC_MMAP_THRESHOLD_', '1000000')
    assert not map_large_blocks()
