"""Choose a model's device, dtype and quantisation, and check that they work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
import logging
import os
from pathlib import Path
import re
import shutil
import sysconfig
from typing import Any

import torch

from segzero_ros import gpus, onednn
from segzero_ros.extras import install_command
from segzero_ros.gpus import free_memory
from segzero_ros.reasoning.base import Companion
from segzero_ros.reasoning.checkpoints import Checkpoint, ELSEWHERE
from segzero_ros.reasoning.memory import Needs, QUANTIZED, refuse_if_too_small
from segzero_ros.types import ReasonerUnavailable

_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}
# Parameters above which a model runs on the CPU only with device:=cpu.
MAX_CPU_PARAMETERS = 1_000_000_000
_PACKAGES = {'bnb4': 'bitsandbytes', 'bnb8': 'bitsandbytes', 'int8': 'torchao', 'fp8': 'torchao'}
# The vision tower and the head are not quantised, because boxes suffer first.
_NOT_QUANTIZED = ['model.visual', 'lm_head']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """A model's device.

    Attributes:
        device_map: for transformers' `from_pretrained`.
        compile: whether decoding is compiled.
    """

    device_map: str | dict[str, str]
    compile: bool


def choose_dtype(dtype: str, device: str, checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype to compute in.

    Args:
        dtype: `auto`, `bfloat16`, `float16` or `float32`. `auto` takes the checkpoint's own, but
            float32 on a CPU that is slow at 16 bits, and float16 for bfloat16 on a GPU before
            Ampere, which has none.
        device: as in `ReasonerOptions`.
        checkpoint: what would be loaded.
    """
    if dtype != 'auto':
        if dtype not in _DTYPES:
            raise ReasonerUnavailable(f'dtype is auto, {", ".join(_DTYPES)}; not {dtype!r}')
        return _DTYPES[dtype]
    named = checkpoint.config.get('dtype') or checkpoint.config.get('torch_dtype')
    own = _DTYPES.get(str(named), torch.bfloat16)
    if device == 'cpu' or not torch.cuda.is_available():
        return own if _fast_at_16_bits() else torch.float32
    if own == torch.bfloat16 and not gpus.has_bfloat16(_find(device)):
        _logger.info('This GPU has no bfloat16: the reasoner computes in float16')
        return torch.float16
    return own


def _fast_at_16_bits() -> bool:
    return onednn.supports('avx512_bf16') or onednn.supports('amx_tile')


def _find(device: str) -> int:
    """Return the index of a GPU; raise ReasonerUnavailable if it does not exist."""
    if re.fullmatch(r'auto|cpu|cuda(:\d+)?', device) is None:
        raise ReasonerUnavailable(f'device is auto, cpu, cuda or cuda:N; not {device!r}')
    try:
        return gpus.find_gpu(device)
    except gpus.NoSuchGpu as error:
        raise ReasonerUnavailable(f'{error} Or: {ELSEWHERE}.') from error


def place(
    device: str,
    model: str,
    checkpoint: Checkpoint,
    needs: Needs,
    quantization: str,
    beside: Companion | None = None,
) -> Placement:
    """Choose a model's device.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` …; `auto` and `cuda` use several GPUs where one is
            too small.
        model: its name, for errors.
        checkpoint: what would be loaded.
        needs: its memory.
        quantization: as in `ReasonerOptions`.
        beside: what is loaded after it.

    Raises:
        ReasonerUnavailable: there is no such device, or its memory is too small.
    """
    if re.fullmatch(r'auto|cpu|cuda(:\d+)?', device) is None:
        raise ReasonerUnavailable(f'device is auto, cpu, cuda or cuda:N; not {device!r}')
    if device == 'cpu' or not torch.cuda.is_available():
        return _on_cpu(device, model, checkpoint, needs, quantization, beside)
    index = _find(device)
    free = [gpus.memory_of(number).free for number in range(torch.cuda.device_count())]
    together = replace(needs, segmenter=_beside(index, needs.total, free, beside))
    if ':' not in device and together.total > free[index] and len(free) > 1:
        whole = replace(needs, segmenter=beside.size if beside else 0)
        where = f'{len(free)} GPUs together'
        refuse_if_too_small(model, checkpoint, whole, sum(free), where, quantization)
        return Placement('auto', compile=False)
    name = f'cuda:{index} ({torch.cuda.get_device_name(index)})'
    refuse_if_too_small(model, checkpoint, together, free[index], name, quantization)
    return Placement({'': f'cuda:{index}'}, compile=_compiles(checkpoint, quantization, index))


def _beside(index: int, needed: int, free: list[int], beside: Companion | None) -> int:
    """Return the memory of a GPU that the model loaded afterwards will take, bytes.

    Args:
        index: the GPU.
        needed: bytes that the model itself takes there.
        free: bytes of each GPU.
        beside: what is loaded afterwards; on `auto` it takes the GPU with most free memory.
    """
    if beside is None:
        return 0
    if beside.device == 'cpu':
        return beside.size if gpus.shares_memory(index) else 0
    left = [size - needed if number == index else size for number, size in enumerate(free)]
    named = beside.device.partition(':')[2]
    its = int(named) if named else max(range(len(left)), key=lambda number: left[number])
    return beside.size if its == index else 0


def _on_cpu(
    device: str,
    model: str,
    checkpoint: Checkpoint,
    needs: Needs,
    quantization: str,
    beside: Companion | None,
) -> Placement:
    if device not in ('auto', 'cpu'):
        _find(device)
    if device == 'auto' and checkpoint.parameters > MAX_CPU_PARAMETERS:
        billions = checkpoint.parameters / 1e9
        raise ReasonerUnavailable(
            f'{model} has {billions:.1f} billion parameters and torch sees no GPU. device:=cpu '
            f'insists on the CPU, where an answer takes minutes; {ELSEWHERE}.'
        )
    if beside is not None and (beside.device == 'cpu' or not torch.cuda.is_available()):
        needs = replace(needs, segmenter=beside.size)
    refuse_if_too_small(model, checkpoint, needs, free_memory(), 'memory', quantization)
    return Placement({'': 'cpu'}, compile=False)


def _compiles(checkpoint: Checkpoint, quantization: str, index: int) -> bool:
    """Whether decoding can be compiled: bitsandbytes, AWQ and GPTQ kernels cannot."""
    method = checkpoint.config.get('quantization_config', {}).get('quant_method', '')
    if quantization.startswith('bnb') or method in ('bitsandbytes', 'awq', 'gptq', 'hqq'):
        return False
    missing = missing_to_compile(index)
    if missing:
        _logger.warning('Decoding is not compiled, which makes it slower: %s', missing)
    return not missing


def missing_to_compile(index: int) -> str:
    """Return what torch.compile lacks for a GPU, with a hint; empty for nothing.

    It needs triton for kernels, and a C compiler and Python's headers for their launchers.
    """
    if torch.cuda.get_device_capability(index) < gpus.VOLTA and torch.version.hip is None:
        return 'triton has no kernels for a GPU as old as this one.'
    if find_spec('triton') is None:
        return 'the package triton is not installed (pip install triton).'
    compilers = [os.environ['CC']] if os.environ.get('CC') else ['gcc', 'clang']
    if not any(map(shutil.which, compilers)):
        return f'there is no C compiler, {" or ".join(compilers)} (sudo apt install gcc).'
    # triton uses this scheme, not Debian's own.
    scheme = sysconfig.get_default_scheme().replace('posix_local', 'posix_prefix')
    headers = sysconfig.get_path('include', scheme)
    if not headers or not (Path(headers) / 'Python.h').is_file():
        return f'Python.h is not in {headers} (sudo apt install python3-dev).'
    return ''


def quantization_config(
    quantization: str, checkpoint: Checkpoint, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` quantises a model while loading.

    Args:
        quantization: as in `ReasonerOptions`.
        checkpoint: what would be loaded.
        dtype: to compute in.

    Raises:
        ReasonerUnavailable: there is no such quantisation, the package that does it is missing,
            or the checkpoint is quantised.
    """
    if not quantization:
        return {}
    if quantization not in QUANTIZED:
        raise ReasonerUnavailable(
            f'reasoner.quantization is empty, {", ".join(QUANTIZED)}; not {quantization!r}'
        )
    if checkpoint.quantized:
        raise ReasonerUnavailable(
            f'The checkpoint in {checkpoint.folder} is quantised already: leave '
            'reasoner.quantization empty.'
        )
    package = _PACKAGES[quantization]
    if find_spec(package) is None:
        raise ReasonerUnavailable(
            f'reasoner.quantization:={quantization} needs the package {package}: '
            f'{install_command("quantization")}.'
        )
    if package == 'bitsandbytes':
        return {'quantization_config': _bitsandbytes(quantization, dtype)}
    return {'quantization_config': _torchao(quantization)}


def refuse_if_it_cannot_compute(model: Any, quantization: str, checkpoint: Checkpoint) -> None:
    """Run a quantised model once: some kernels support some shapes and devices only.

    Args:
        model: as it was loaded.
        quantization: as in `ReasonerOptions`.
        checkpoint: what was loaded.

    Raises:
        ReasonerUnavailable: it cannot.
    """
    device = model.get_input_embeddings().weight.device
    what = quantization or 'its own'
    others = ', '.join(each for each in QUANTIZED if each != quantization)
    try:
        # One token uses other kernels than a prompt.
        for count in (1, 64):
            with torch.inference_mode():
                model(input_ids=torch.zeros(1, count, dtype=torch.long, device=device))
    except Exception as error:
        raise ReasonerUnavailable(
            f'With {what} quantization the checkpoint in {checkpoint.folder} cannot compute on '
            f'{device}: {type(error).__name__}: {error}. Take {others} or none.'
        ) from error


def _bitsandbytes(quantization: str, dtype: torch.dtype) -> Any:
    import transformers

    # It logs for each product that it casts the input, thousands of times per answer.
    logging.getLogger('bitsandbytes.autograd._functions').setLevel(logging.ERROR)
    configure: Any = transformers.BitsAndBytesConfig
    if quantization == 'bnb8':
        return configure(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTIZED)
    return configure(
        load_in_4bit=True,
        bnb_4bit_quant_type='nf4',
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_NOT_QUANTIZED,
    )


def _torchao(quantization: str) -> Any:
    from transformers import TorchAoConfig

    kinds = import_module('torchao.quantization')
    name = {'int8': 'Int8WeightOnlyConfig', 'fp8': 'Float8WeightOnlyConfig'}[quantization]
    return TorchAoConfig(getattr(kinds, name)(), modules_to_not_convert=_NOT_QUANTIZED)
