"""Disable oneDNN on a CPU while torch's own kernels are faster: for products with a single row.

For a single row times a bfloat16 matrix, as in decoding a token, torch uses oneDNN on processors
with bfloat16 instructions, which reads the matrix at little more than half the speed of torch's
own kernel. The switch is global to the process, and convolutions need oneDNN, so it is disabled
only while a token is decoded and never while SAM 2 runs. The kernels round differently, in about
one of ten thousand results. Processors with AMX tiles keep oneDNN, and several rows are multiplied
differently there (`reasoning.fused_decode.linear_weight_stationary`). If torch has no such switch,
or locks it, oneDNN is always used.
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
    """Return whether torch has the switch and it is not locked.

    `torch.backends.disable_global_flags` locks it.
    """
    try:
        _switch.enabled = _switch.enabled
    except (AttributeError, RuntimeError):
        return False
    return True


_enabled_by_default = _can_switch() and bool(_switch.enabled)


def supports(instructions: str) -> bool:
    """Return whether this CPU supports an instruction set; False if torch cannot detect it.

    Args:
        instructions: `avx512_bf16` or `amx_tile`.
    """
    known = getattr(torch.cpu, f'_is_{instructions}_supported', None)
    return known is not None and bool(known())


def worth_avoiding(dtype: torch.dtype) -> bool:
    """Return whether a single row is multiplied faster without oneDNN on this CPU.

    Measured on x86-64 with AVX-512 (benchmarks/reasoner.py); False for AMX and other processors.
    """
    faster = supports('avx512_bf16') and not supports('amx_tile')
    return dtype == torch.bfloat16 and _enabled_by_default and faster


def several_rows_are_cheap(dtype: torch.dtype) -> bool:
    """Return whether a few rows are multiplied in little more time than one on this CPU.

    Measured with AVX512_BF16 (8 rows in the time of two) and with AMX. Without either, torch
    multiplies 16-bit types row by row.
    """
    bfloat16 = _enabled_by_default and supports('avx512_bf16')
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bfloat16)


def has_tiles_for(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies a dtype with AMX tiles, with oneDNN enabled."""
    return dtype == torch.bfloat16 and _enabled_by_default and supports('amx_tile')


def _switch_to(enabled: bool) -> None:
    # Leave it unchanged if it was disabled initially, or cannot be switched.
    if _enabled_by_default:
        _switch.enabled = enabled


@contextmanager
def needed() -> Iterator[None]:
    """Enable oneDNN in this process, regardless of other threads; never blocks."""
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
    """Disable oneDNN, unless another thread needs it."""
    with _lock:
        if not _needed_by:
            _switch_to(False)
    try:
        yield
    finally:
        _switch_to(True)
