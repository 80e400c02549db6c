"""The device, number format and stream of a segmenter, and the context of each call of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
import logging
import os
import re
from typing import Any

import torch

from segzero_ros import gpus, onednn
from segzero_ros.types import SegmenterUnavailable

DTYPES = ('auto', 'bfloat16', 'float16', 'float32')

_logger = logging.getLogger(__name__)


def takes_all_processors(device: torch.device) -> bool:
    """Return whether two OpenMP teams have more threads than this process has processors.

    Counted as OpenMP does: the process's first thread, and each team without its first thread.
    """
    processors = len(os.sched_getaffinity(0))
    return device.type == 'cpu' and 1 + 2 * (torch.get_num_threads() - 1) > processors


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context for every call of a model; without effect for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def choose_device(name: str, model: str = 'SAM 2') -> torch.device:
    """Return the device for a name; `auto` without a GPU is the CPU, with a warning.

    `auto` and `cuda` select the GPU with the most free memory.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1` …
        model: what runs there, for messages.

    Raises:
        SegmenterUnavailable: there is no such device.
    """
    if name in ('auto', 'cuda') and torch.cuda.is_available():
        return torch.device('cuda', gpus.find_gpu(name))
    if name == 'auto':
        _logger.warning(
            'torch finds no GPU: %s runs on the CPU and takes seconds per frame', model
        )
        return torch.device('cpu')
    if re.fullmatch(r'cpu|cuda(:\d+)?', name) is None:
        raise SegmenterUnavailable(f'There is no device {name!r}: use auto, cpu, cuda or cuda:1.')
    device = torch.device(name)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise SegmenterUnavailable(
            f'{model} cannot run on {name}: torch finds {torch.cuda.device_count()} GPUs. '
            'Check the driver, name an existing GPU, or set the device to cpu or auto.'
        )
    return device


def choose_dtype(name: str, device: torch.device, model: str = 'SAM 2') -> torch.dtype:
    """Return the dtype for a name in DTYPES: a 16-bit type for autocast, or float32.

    Args:
        name: one of DTYPES.
        device: of the model.
        model: what it is for, for messages.

    Raises:
        SegmenterUnavailable: the name is not in DTYPES.
    """
    if name not in DTYPES:
        raise SegmenterUnavailable(
            f'{model} has no dtype {name!r}: use one of {", ".join(DTYPES)}.'
        )
    if name != 'auto':
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type != 'cuda':
        return torch.float32
    if gpus.has_bfloat16(device.index or 0):
        return torch.bfloat16
    _logger.info('This GPU has no bfloat16: %s computes in float16', model)
    return torch.float16


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream of a GPU's own; None on a CPU."""
    if device.type != 'cuda':
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def model_context(action: str, device: torch.device, model: str = 'SAM 2') -> Iterator[None]:
    """Enable oneDNN and select the device; turn a full GPU into SegmenterUnavailable.

    The reasoner, which runs in parallel, disables oneDNN if it can, and may use another GPU.

    Args:
        action: a verb for the error message.
        device: of the model.
        model: its name for the error message.
    """
    try:
        with onednn.needed(), gpus.current(device):
            yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise SegmenterUnavailable(
            f'{device} has too little free memory to {action} with {model}. Use a smaller '
            'checkpoint (facebook/sam2-hiera-tiny), another device, or a remote reasoner. '
            f'({error})'
        ) from error
