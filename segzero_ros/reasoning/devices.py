"""Where a model goes, in which numbers, and whether that can work. Imports torch, transformers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
import logging
import re
from typing import Any

import torch

from segzero_ros.reasoning.checkpoints import Checkpoint, ELSEWHERE
from segzero_ros.reasoning.memory import free_memory, Needs, QUANTIZED, refuse_if_too_small
from segzero_ros.types import ReasonerUnavailable

_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}
# Above this, nobody waits for a CPU without having said so.
LARGEST_ON_CPU = 1_000_000_000
_PACKAGES = {'bnb4': 'bitsandbytes', 'bnb8': 'bitsandbytes', 'int8': 'torchao', 'fp8': 'torchao'}
# The eyes and the head are left as they are: boxes suffer first when they are quantised.
_LEFT_ALONE = ['model.visual', 'lm_head']

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
        dtype: `auto`, `bfloat16`, `float16` or `float32`. `auto` takes the checkpoint's own, and
            on a CPU that is slow at 16 bits float32.
        device: as in `ReasonerOptions`.
        checkpoint: what would be loaded.
    """
    if dtype != 'auto':
        if dtype not in _DTYPES:
            raise ReasonerUnavailable(f'dtype is auto, {", ".join(_DTYPES)}; not {dtype!r}')
        return _DTYPES[dtype]
    named = checkpoint.config.get('dtype') or checkpoint.config.get('torch_dtype')
    own = _DTYPES.get(str(named), torch.bfloat16)
    on_cpu = device == 'cpu' or not torch.cuda.is_available()
    return torch.float32 if on_cpu and not _fast_at_16_bits() else own


def _fast_at_16_bits() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def place(
    device: str, model: str, checkpoint: Checkpoint, needs: Needs, quantization: str
) -> Placement:
    """Choose where a model goes.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` …; `auto` and `cuda` use several GPUs where one is
            too small.
        model: its name, for errors.
        checkpoint: what would be loaded.
        needs: what it takes.
        quantization: as in `ReasonerOptions`.

    Raises:
        ReasonerUnavailable: there is no such device, or its memory is too small.
    """
    if re.fullmatch(r'auto|cpu|cuda(:\d+)?', device) is None:
        raise ReasonerUnavailable(f'device is auto, cpu, cuda or cuda:N; not {device!r}')
    if device == 'cpu' or not torch.cuda.is_available():
        return _on_cpu(device, model, checkpoint, needs, quantization)
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    if ':' in device:
        index = int(device.partition(':')[2])
        if index >= len(free):
            raise ReasonerUnavailable(f'There is no {device}: torch sees {len(free)} GPUs.')
    else:
        index = max(range(len(free)), key=lambda number: free[number])
        if needs.total > free[index] and len(free) > 1:
            where = f'{len(free)} GPUs together'
            refuse_if_too_small(model, checkpoint, needs, sum(free), where, quantization)
            return Placement('auto', compile=False)
    name = f'cuda:{index} ({torch.cuda.get_device_name(index)})'
    refuse_if_too_small(model, checkpoint, needs, free[index], name, quantization)
    return Placement({'': f'cuda:{index}'}, compile=_compiles(checkpoint, quantization))


def _on_cpu(
    device: str, model: str, checkpoint: Checkpoint, needs: Needs, quantization: str
) -> Placement:
    if device not in ('auto', 'cpu'):
        raise ReasonerUnavailable(
            f'There is no {device}: torch sees no GPU. Check the driver (nvidia-smi) and that '
            f'torch was built for it; {ELSEWHERE}.'
        )
    if device == 'auto' and checkpoint.parameters > LARGEST_ON_CPU:
        billions = checkpoint.parameters / 1e9
        raise ReasonerUnavailable(
            f'{model} has {billions:.1f} billion parameters and torch sees no GPU. device:=cpu '
            f'insists on the CPU, where an answer takes minutes; {ELSEWHERE}.'
        )
    refuse_if_too_small(model, checkpoint, needs, free_memory(), 'memory', quantization)
    return Placement({'': 'cpu'}, compile=False)


def _compiles(checkpoint: Checkpoint, quantization: str) -> bool:
    """Whether decoding can be compiled: bitsandbytes, AWQ and GPTQ kernels cannot."""
    method = checkpoint.config.get('quantization_config', {}).get('quant_method', '')
    if quantization.startswith('bnb') or method in ('bitsandbytes', 'awq', 'gptq', 'hqq'):
        return False
    return find_spec('triton') is not None


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
            f'quantization is empty, {", ".join(QUANTIZED)}; not {quantization!r}'
        )
    if checkpoint.quantized:
        raise ReasonerUnavailable(
            f'The checkpoint in {checkpoint.folder} is quantised already: leave '
            'quantization empty.'
        )
    package = _PACKAGES[quantization]
    if find_spec(package) is None:
        raise ReasonerUnavailable(
            f'quantization:={quantization} needs the package {package}: '
            "pip install 'segzero_ros[quantization]'."
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
        return configure(load_in_8bit=True, llm_int8_skip_modules=_LEFT_ALONE)
    return configure(
        load_in_4bit=True,
        bnb_4bit_quant_type='nf4',
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_LEFT_ALONE,
    )


def _torchao(quantization: str) -> Any:
    from transformers import TorchAoConfig

    kinds = import_module('torchao.quantization')
    name = {'int8': 'Int8WeightOnlyConfig', 'fp8': 'Float8WeightOnlyConfig'}[quantization]
    return TorchAoConfig(getattr(kinds, name)(), modules_to_not_convert=_LEFT_ALONE)
