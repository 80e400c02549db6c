"""Check whether a profile's models can be loaded: packages, GPU, weights, server.

Nothing is loaded or downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
import json
import os
import shutil
from typing import Any
import urllib.error
from urllib.parse import urlsplit
import urllib.request

from segzero_ros import gpus, hub
from segzero_ros.doctor.checks import Check, fail, ok, warn
from segzero_ros.extras import install_command
from segzero_ros.loading import ReasonerOptions, SAM3, SegmenterOptions
from segzero_ros.types import SegZeroError

# The packages that each backend needs, and the extra that installs them.
_NEEDS = {
    'transformers': (('torch', 'transformers', 'accelerate'), 'models'),
    'openai': (('openai',), 'openai'),
    'sam2': (('torch', 'sam2'), 'models'),
    **dict.fromkeys(SAM3, (('torch', 'torchvision', 'transformers'), 'models')),
}
_ALTERNATIVES = 'profile:=remote uses a model server instead, profile:=offline needs neither'
# Seconds to wait for a server's answer.
_TIMEOUT = 3.0
# Disk space for downloading the published 7B.
_MIN_FREE_GIB = 40


def check_models(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Iterator[Check]:
    """Yield the checks of both models.

    Args:
        reasoner: its options.
        segmenter: its options.
    """
    complete = True
    for backend in dict.fromkeys((reasoner.backend, segmenter.backend)):
        for check in _packages(backend):
            complete = complete and check.level.value == 'OK'
            yield check
    if not complete:
        return
    if reasoner.backend == 'transformers':
        weights, parameters = _reasoner_weights(reasoner)
        yield _gpu(reasoner, parameters)
        yield from weights
    elif reasoner.backend == 'openai':
        yield from _server(reasoner)
    if segmenter.backend in ('sam2', *SAM3):
        yield _segmenter_weights(segmenter)


def _packages(backend: str) -> Iterator[Check]:
    names, extra = _NEEDS.get(backend, ((), ''))
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        hint = f'{install_command(extra)}; {_ALTERNATIVES}.'
        yield fail(f'packages of {backend}', f'{", ".join(missing)} not installed', hint)
    elif names:
        versions = ', '.join(f'{name} {metadata.version(name)}' for name in names)
        yield ok(f'packages of {backend}', versions)
    else:
        yield ok(f'packages of {backend}', 'no further packages needed')


def _gpu(reasoner: ReasonerOptions, parameters: int | None) -> Check:
    """Check for a GPU for a model with this number of parameters; None if unknown."""
    import torch

    from segzero_ros.reasoning.devices import MAX_CPU_PARAMETERS

    on_cpu = reasoner.device == 'cpu' or (
        reasoner.device == 'auto' and not torch.cuda.is_available()
    )
    if on_cpu and parameters is not None and parameters <= MAX_CPU_PARAMETERS:
        return ok('GPU', 'not needed: the model is small enough for the CPU')
    if reasoner.device == 'cpu':
        message = 'device is cpu: an answer of a 7B model takes minutes'
        return warn('GPU', message, f'{_ALTERNATIVES}.')
    if not torch.cuda.is_available():
        has_driver = shutil.which('nvidia-smi') is not None
        hint = (
            'The driver is installed, but this torch cannot use it: install a torch built for it. '
            if has_driver
            else 'Install the GPU\'s driver, and check that "nvidia-smi" lists the GPU. '
        )
        return fail('GPU', 'torch finds none', f'{hint}Or: {_ALTERNATIVES}.')
    try:
        gpus.find_gpu(reasoner.device)
    except gpus.NoSuchGpu as error:
        return fail('GPU', str(error), 'Set device to one of these, or to auto.')
    sizes = [
        f'{torch.cuda.get_device_name(index)}, {_gib(gpus.memory_of(index))}'
        for index in range(torch.cuda.device_count())
    ]
    return ok('GPU', '; '.join(sizes))


def _gib(memory: gpus.GpuMemory) -> str:
    return f'{memory.free / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free'


def _reasoner_weights(reasoner: ReasonerOptions) -> tuple[list[Check], int | None]:
    """Return the checks of the weights, and the number of parameters, if known."""
    from segzero_ros.reasoning import checkpoints
    from segzero_ros.reasoning.dialects import dialect_named

    name = 'weights of the reasoner'
    try:
        dialect = dialect_named(reasoner.dialect)
        folder = checkpoints.local_folder(reasoner.model)
        if folder is None:
            return [fail(name, checkpoints.missing_weights(reasoner.model)), _free_space()], None
        checkpoint = checkpoints.open_checkpoint(folder, dialect)
    except (SegZeroError, ValueError) as error:
        return [fail(name, str(error))], None
    size = sum(tensor.size for tensor in checkpoint.tensors)
    sizes = (
        f'{checkpoint.parameters / 1e9:.2f} B parameters, {size / 2**30:.1f} GiB'
        if size >= 2**29
        else f'{checkpoint.parameters / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB'
    )
    return [ok(name, f'{sizes}, in {folder}')], checkpoint.parameters


def _free_space() -> Check:
    free = hub.free_space() / 2**30
    message = f'{free:.0f} GiB free in {hub.cache_folder()}, where weights are stored'
    if free < _MIN_FREE_GIB:
        hint = 'Set HF_HOME to a folder on a larger disk; the published 7B takes 17 GiB.'
        return warn('disk', message, hint)
    return ok('disk', message)


def _segmenter_weights(segmenter: SegmenterOptions) -> Check:
    from segzero_ros.segmentation import sam2_checkpoint

    try:
        if segmenter.backend in SAM3:
            from segzero_ros.segmentation import sam3_checkpoint

            name = sam3_checkpoint.find_checkpoint(segmenter.model, offline=True).name
        else:
            name = sam2_checkpoint.find_checkpoint(
                segmenter.model, segmenter.config, offline=True
            ).name
    except SegZeroError as error:
        return fail('weights of the segmenter', str(error))
    return ok('weights of the segmenter', name)


def _server(reasoner: ReasonerOptions) -> Iterator[Check]:
    parts = urlsplit(reasoner.base_url)
    url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
    if parts.scheme not in ('http', 'https') or not parts.netloc:
        hint = 'Set base_url:=http://server:8000/v1 (docs/serving.md).'
        yield fail('server', f'base_url is {url or "empty"}', hint)
        return
    key = os.environ.get(reasoner.api_key_env, '')
    yield ok('server key', f'{reasoner.api_key_env} is {"set" if key else "not set"}')
    headers = {'Authorization': f'Bearer {key}'} if key else {}
    request = urllib.request.Request(f'{url}/models', headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
            served = _model_ids(json.load(response))
    except urllib.error.HTTPError as error:
        hint = f'Put its key into the environment variable {reasoner.api_key_env}.'
        is_refused = error.code in (401, 403)
        yield fail('server', f'{url} answers {error.code}', hint if is_refused else '')
        return
    except (OSError, ValueError) as error:
        cause = getattr(error, 'reason', '') or error
        hint = 'Start it (docs/serving.md), or correct base_url.'
        yield fail('server', f'no OpenAI-compatible server answers at {url} ({cause})', hint)
        return
    if reasoner.model in served:
        yield ok('server', f'{url} serves {reasoner.model}')
    else:
        hint = 'Set reasoner_model to one of these, or serve the model under that name.'
        message = f'{url} does not serve {reasoner.model!r}, but {", ".join(served) or "nothing"}'
        yield fail('server', message, hint)


def _model_ids(content: Any) -> list[str]:
    """Return the ids in a list of models; raise ValueError if it is malformed."""
    try:
        return [str(model['id']) for model in content['data']]
    except (KeyError, TypeError) as error:
        raise ValueError('its list of models is malformed') from error
