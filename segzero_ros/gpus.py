"""GPUs visible to torch: device names, free memory, supported dtypes.

Reasoner, segmenter, `/diagnostics` and `segzero doctor` share this module, so that `cuda:1` is the
same GPU for all of them. torch is imported only in functions, so that querying memory does not
load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import re
import sys
from typing import Any, NamedTuple

from segzero_ros.types import SegZeroError

# GPUs that share the CPU's memory, for drivers that do not report it; not GB102 and GB100.
_INTEGRATED = re.compile(r'\b(Orin|Thor|Xavier|Tegra|GB10|N1X)\b', re.IGNORECASE)
_NAMED = re.compile(r'cuda:(\d+)')
# Minimum compute capabilities: Ampere for bfloat16, Volta for triton.
AMPERE, VOLTA = (8, 0), (7, 0)
_MEMINFO = Path('/proc/meminfo')


class NoSuchGpu(SegZeroError):
    """A device that does not exist; the text lists the available ones."""


class GpuMemory(NamedTuple):
    """Memory of one GPU.

    Attributes:
        free: bytes available to models.
        total: bytes.
        device: `cuda:N`.
    """

    free: int
    total: int
    device: str = ''


def find_gpu(device: str) -> int:
    """Return the index of a GPU by its device name.

    Args:
        device: `cuda:N`; `auto` and `cuda` select the GPU with the most free memory.

    Raises:
        NoSuchGpu: torch finds no GPU, or none with that index.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise NoSuchGpu(
            f'There is no {device}: torch finds no GPU. Check the driver (nvidia-smi), and that '
            'torch was built for it.'
        )
    named = _NAMED.fullmatch(device)
    if named is None:
        if count == 1:
            return 0
        return max(range(count), key=lambda index: memory_of(index).free)
    index = int(named[1])
    if index >= count:
        available = (
            'one GPU, cuda:0' if count == 1 else f'{count} GPUs, cuda:0 to cuda:{count - 1}'
        )
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        reason = f' (CUDA_VISIBLE_DEVICES is {visible})' if visible is not None else ''
        raise NoSuchGpu(f'There is no {device}: torch finds {available}{reason}.')
    return index


def memory_of(index: int) -> GpuMemory:
    """Return the memory of one GPU.

    For a GPU that shares the CPU's memory (Jetson, GB10) CUDA counts the kernel's page cache as
    used, such as a checkpoint that was just read. The kernel frees it on demand, so here it counts
    as free.
    """
    import torch

    free, total = torch.cuda.mem_get_info(index)
    if shares_memory(index):
        free = min(max(free, free_memory()), total)
    return GpuMemory(free, total, f'cuda:{index}')


def shares_memory(index: int) -> bool:
    """Return whether a GPU uses the CPU's memory."""
    import torch

    try:
        properties: Any = torch.cuda.get_device_properties(index)
    except (RuntimeError, AssertionError):
        # A broken GPU is reported when it is used.
        return False
    integrated = bool(getattr(properties, 'is_integrated', False))
    return integrated or _INTEGRATED.search(str(properties.name)) is not None


def free_memory() -> int:
    """Return the available main memory in bytes."""
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'{_MEMINFO} does not contain MemAvailable')


def has_bfloat16(index: int) -> bool:
    """Return whether a GPU supports bfloat16 natively: Ampere and later, and all of AMD's."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(index) >= AMPERE


def gpu_memory() -> GpuMemory | None:
    """Return the memory of the GPU that this process's models use; None if they use none.

    Of several GPUs, the one with the smallest free share. Unused GPUs are not queried, because
    CUDA would allocate some 100 MB on them. Memory that torch caches counts as free.
    """
    if not on_gpu():
        return None
    cuda = sys.modules['torch'].cuda
    used = [index for index in range(cuda.device_count()) if cuda.memory_reserved(index)]
    fullest: GpuMemory | None = None
    for index in used:
        memory = memory_of(index)
        cached = cuda.memory_reserved(index) - cuda.memory_allocated(index)
        memory = memory._replace(free=min(memory.free + cached, memory.total))
        if fullest is None or memory.free * fullest.total < fullest.free * memory.total:
            fullest = memory
    return fullest


def on_gpu() -> bool | None:
    """Return whether torch uses a GPU in this process; None if torch is not loaded."""
    # While another thread imports torch, the module exists but is incomplete.
    cuda = getattr(sys.modules.get('torch'), 'cuda', None)
    initialized = getattr(cuda, 'is_initialized', None)
    return None if initialized is None else bool(initialized())


@contextmanager
def current(device: Any) -> Iterator[None]:
    """Make a torch.device the current CUDA device of this thread, if it is a GPU.

    Libraries that allocate on `cuda` then use the model's GPU.
    """
    if device.type != 'cuda':
        yield
        return
    import torch

    with torch.cuda.device(device):
        yield
