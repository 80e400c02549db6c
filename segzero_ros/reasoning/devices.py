"""Where a model goes, in which numbers, and whether that can work."""

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
# Above this, nobody waits for a CPU without having said so.
LARGEST_ON_CPU = 1_000_000_000
_PACKAGES = {'bnb4': 'bitsandbytes', 'bnb8': 'bitsandbytes', 'int8': 'torchao', 'fp8': 'torchao'}
# The eyes and the head are left as they are: boxes suffer first when they are quantised.
_NOT_QUANTIZED = ['model.visual', 'lm_head']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where a model goes.

    Attributes:
        device_map: as transformers takes it.
        compile: whether its decoding is compiled there.
    """

    device_map: str | dict[str, str]
    compile: bool


def choose_dtype(dtype: str, device: str, checkpoint: Checkpoint) -> torch.dtype:
    """Return the numbers to compute in.

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
    """Return the index of a GPU; raise ReasonerUnavailable where it is not here."""
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
    """Choose where a model goes.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` …; `auto` and `cuda` use several GPUs where one is
            too small.
        model: its name, for errors.
        checkpoint: what would be loaded.
        needs: what it takes.
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
    """Return how much of a GPU's memory what is loaded afterwards will want, in bytes.

    Args:
        index: the GPU.
        needed: what the model itself takes there.
        free: of each GPU.
        beside: what is loaded afterwards; where it may choose, it takes the freest GPU.
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
    if device == 'auto' and checkpoint.parameters > LARGEST_ON_CPU:
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
    """Return what torch.compile lacks for a GPU, and where to get it; empty for nothing.

    It has triton write kernels, and a C compiler build what starts them, against Python's headers.
    """
    if torch.cuda.get_device_capability(index) < gpus.VOLTA and torch.version.hip is None:
        return 'triton has no kernels for a GPU as old as this one.'
    if find_spec('triton') is None:
        return 'the package triton is not installed (pip install triton).'
    compilers = [os.environ['CC']] if os.environ.get('CC') else ['gcc', 'clang']
    if not any(map(shutil.which, compilers)):
        return f'there is no C compiler, {" or ".join(compilers)} (sudo apt install gcc).'
    # Debian's own scheme leads elsewhere; triton takes this one.
    scheme = sysconfig.get_default_scheme().replace('posix_local', 'posix_prefix')
    headers = sysconfig.get_path('include', scheme)
    if not headers or not (Path(headers) / 'Python.h').is_file():
        return f'Python.h is not in {headers} (sudo apt install python3-dev).'
    return ''


def quantization_config(
    quantization: str, checkpoint: Checkpoint, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what `from_pretrained` has to be told to quantise a model while loading it.

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
    """Have a quantised model compute once: some kernels take some shapes and devices only.

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
        # A token is multiplied by other kernels than a prompt.
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

    # It tells of each product that it rounds the input, thousands of times an answer.
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
