"""Which kernels a CPU multiplies few rows with: doing without oneDNN where torch's own are faster.

With a single row against a bfloat16 matrix, one new token's case, torch hands the product to
oneDNN on processors that have instructions for it, which reads the matrix at little more than half
the speed of torch's own kernel. There is one switch for the whole process, and convolutions need
oneDNN, so it is turned off for no longer than a token takes and never while SAM 2 works. The two
kernels round differently, in one of some ten thousand results. Processors with tiles (AMX) keep
oneDNN, and several rows are multiplied otherwise there (`reasoning.one_token.across`). Where torch
has no such switch, or holds it fast, oneDNN is used throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading
from typing import Any

import torch

_switch: Any = torch.backends.mkldnn
_lock = threading.Lock()
_needed_by = 0


def _can_switch() -> bool:
    """Return whether torch lets oneDNN be switched: it has the switch, and is not told to keep it.

    `torch.backends.disable_global_flags` is what tells it.
    """
    try:
        _switch.enabled = _switch.enabled
    except (AttributeError, RuntimeError):
        return False
    return True


_usual = _can_switch() and bool(_switch.enabled)


def supports(instructions: str) -> bool:
    """Return whether this CPU has instructions that torch knows by this name.

    Args:
        instructions: `avx512_bf16` or `amx_tile`. Where torch cannot tell, there are none.
    """
    known = getattr(torch.cpu, f'_is_{instructions}_supported', None)
    return known is not None and bool(known())


def worth_avoiding(dtype: torch.dtype) -> bool:
    """Return whether a single row is multiplied faster without oneDNN on this CPU.

    Measured on x86-64 with AVX-512; processors with tiles (AMX) and of other kinds are left as
    they are.
    """
    known = supports('avx512_bf16') and not supports('amx_tile')
    return dtype == torch.bfloat16 and _usual and known


def several_rows_are_cheap(dtype: torch.dtype) -> bool:
    """Return whether a few rows are multiplied in little more time than one on this CPU.

    So it was measured with AVX512_BF16 (8 rows in the time of two) and with tiles. Without either,
    torch multiplies 16 bits row by row.
    """
    bfloat16 = _usual and supports('avx512_bf16')
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bfloat16)


def has_tiles_for(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies such numbers in tiles (AMX), and torch lets it."""
    return dtype == torch.bfloat16 and _usual and supports('amx_tile')


def _switch_to(enabled: bool) -> None:
    # Where it was off from the start, or cannot be switched, it is left alone.
    if _usual:
        _switch.enabled = enabled


@contextmanager
def needed() -> Iterator[None]:
    """Have oneDNN in this process, whatever another thread does; never waits."""
    global _needed_by
    with _lock:
        _needed_by += 1
        _switch_to(True)
    try:
        yield
    finally:
        with _lock:
            _needed_by -= 1


@contextmanager
def avoided() -> Iterator[None]:
    """Do without oneDNN, unless another thread needs it."""
    with _lock:
        if not _needed_by:
            _switch_to(False)
    try:
        yield
    finally:
        _switch_to(True)
