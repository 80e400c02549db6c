"""The GPUs that torch sees: which one a name means, what is free on it, what it computes in.

Reasoner, segmenter, `/diagnostics` and `segzero doctor` ask here, so that `cuda:1` is the same GPU
for all of them. torch is imported by the functions only: asking about memory must not be what
brings it into a process.
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

# GPUs on the CPU's memory, for drivers that do not report it. GB102 and GB100 are others.
_INTEGRATED = re.compile(r'\b(Orin|Thor|Xavier|Tegra|GB10|N1X)\b', re.IGNORECASE)
_NAMED = re.compile(r'cuda:(\d+)')
# Compute capabilities: from Ampere on with bfloat16, from Volta on compiled by triton.
AMPERE, VOLTA = (8, 0), (7, 0)
_MEMINFO = Path('/proc/meminfo')


class NoSuchGpu(SegZeroError):
    """A device that is not here; the text says which ones there are."""


class GpuMemory(NamedTuple):
    """Memory of one GPU, in bytes: what models can still have, and all of it.

    `device` is its name, `cuda:N`.
    """

    free: int
    total: int
    device: str = ''


def find_gpu(device: str) -> int:
    """Return the index of the GPU that a device's name means.

    Args:
        device: `cuda:N`; `auto` and `cuda` mean the GPU with the most free memory.

    Raises:
        NoSuchGpu: torch sees no GPU, or none of that index.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise NoSuchGpu(
            f'There is no {device}: torch sees no GPU. Check the driver (nvidia-smi) and that '
            'torch was built for it.'
        )
    named = _NAMED.fullmatch(device)
    if named is None:
        if count == 1:
            return 0
        return max(range(count), key=lambda index: memory_of(index).free)
    index = int(named[1])
    if index >= count:
        seen = 'one GPU, cuda:0' if count == 1 else f'{count} GPUs, cuda:0 to cuda:{count - 1}'
        limited = os.environ.get('CUDA_VISIBLE_DEVICES')
        why = f' (CUDA_VISIBLE_DEVICES is {limited})' if limited is not None else ''
        raise NoSuchGpu(f'There is no {device}: torch sees {seen}{why}.')
    return index


def memory_of(index: int) -> GpuMemory:
    """Return the memory of one GPU.

    Of a GPU that shares the CPU's memory (Jetson, GB10) CUDA counts the kernel's page cache as
    used, such as the checkpoint that was just read; the kernel gives it back to whoever needs it,
    so there it counts as free.
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
        # A GPU that does not answer is found out by whoever uses it.
        return False
    integrated = bool(getattr(properties, 'is_integrated', False))
    return integrated or _INTEGRATED.search(str(properties.name)) is not None


def free_memory() -> int:
    """Return how many bytes of this machine's memory programs can still have."""
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'{_MEMINFO} does not say how much memory is available')


def has_bfloat16(index: int) -> bool:
    """Return whether a GPU computes in bfloat16 by itself: Ampere and later, and all of AMD's."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(index) >= AMPERE


def gpu_memory() -> GpuMemory | None:
    """Return the memory of the GPU that this process's models use; None while they use none.

    Of several the one with the smallest share left. Other GPUs are not asked: asking makes CUDA
    take some 100 MB on them. What torch holds without using it counts as free.
    """
    if not on_gpu():
        return None
    cuda = sys.modules['torch'].cuda
    used = [index for index in range(cuda.device_count()) if cuda.memory_reserved(index)]
    fullest: GpuMemory | None = None
    for index in used:
        memory = memory_of(index)
        kept = cuda.memory_reserved(index) - cuda.memory_allocated(index)
        memory = memory._replace(free=min(memory.free + kept, memory.total))
        if fullest is None or memory.free * fullest.total < fullest.free * memory.total:
            fullest = memory
    return fullest


def on_gpu() -> bool | None:
    """Return whether torch uses a GPU in this process; None while there is no torch."""
    # While the models' thread imports torch, the module is there with hardly anything in it.
    cuda = getattr(sys.modules.get('torch'), 'cuda', None)
    initialized = getattr(cuda, 'is_initialized', None)
    return None if initialized is None else bool(initialized())


@contextmanager
def current(device: Any) -> Iterator[None]:
    """Have a torch.device, if it is a GPU, be what `cuda` means in this thread.

    What a library puts on `cuda` goes to the model's GPU then, and no other is touched.
    """
    if device.type != 'cuda':
        yield
        return
    import torch

    with torch.cuda.device(device):
        yield
