"""Whether a profile's models could be loaded here: packages, GPU, weights, server.

Nothing is loaded and nothing is fetched.
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
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.types import SegZeroError

# What each backend needs, and the extra that brings it.
_NEEDS = {
    'transformers': (('torch', 'transformers', 'accelerate'), 'models'),
    'openai': (('openai',), 'openai'),
    'sam2': (('torch', 'sam2'), 'models'),
}
_OTHERS = 'profile:=remote asks a model server instead, profile:=offline needs neither'
_PATIENCE = 3.0
# What a download of the published 7B takes, and room to unpack it.
_ROOM_GB = 40


def look_at_models(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Iterator[Check]:
    """Yield what there is to say of both models."""
    complete = True
    for backend in dict.fromkeys((reasoner.backend, segmenter.backend)):
        for finding in _packages(backend):
            complete = complete and finding.level.value == 'OK'
            yield finding
    if not complete:
        return
    if reasoner.backend == 'transformers':
        weights, parameters = _reasoner_weights(reasoner)
        yield _gpu(reasoner, parameters)
        yield from weights
    elif reasoner.backend == 'openai':
        yield from _server(reasoner)
    if segmenter.backend == 'sam2':
        yield _segmenter_weights(segmenter)


def _packages(backend: str) -> Iterator[Check]:
    names, extra = _NEEDS.get(backend, ((), ''))
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        cure = f'{install_command(extra)}; {_OTHERS}.'
        yield fail(f'packages of {backend}', f'{", ".join(missing)} not installed', cure)
    elif names:
        said = ', '.join(f'{name} {metadata.version(name)}' for name in names)
        yield ok(f'packages of {backend}', said)
    else:
        yield ok(f'packages of {backend}', 'nothing beside this package')


def _gpu(reasoner: ReasonerOptions, parameters: int | None) -> Check:
    """Say whether there is a GPU for a model of so many parameters; None if nobody knows."""
    import torch

    from segzero_ros.reasoning.devices import MAX_CPU_PARAMETERS

    on_cpu = reasoner.device == 'cpu' or (
        reasoner.device == 'auto' and not torch.cuda.is_available()
    )
    if on_cpu and parameters is not None and parameters <= MAX_CPU_PARAMETERS:
        return ok('GPU', 'none is needed: the model is small enough for the CPU')
    if reasoner.device == 'cpu':
        return warn('GPU', 'device is cpu: an answer of a 7B model takes minutes', f'{_OTHERS}.')
    if not torch.cuda.is_available():
        driver = shutil.which('nvidia-smi') is not None
        cure = (
            'The driver is there, but this torch cannot use it: take a torch built for it. '
            if driver
            else 'Install the GPU\'s driver, and see that "nvidia-smi" shows it. '
        )
        return fail('GPU', 'torch can use none', f'{cure}Or: {_OTHERS}.')
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
    """Return what is to be said of the weights, and how many parameters, if that is known."""
    from segzero_ros.reasoning import checkpoints
    from segzero_ros.reasoning.dialects import dialect_named

    what = 'weights of the reasoner'
    try:
        dialect = dialect_named(reasoner.dialect)
        folder = checkpoints.local_folder(reasoner.model)
        if folder is None:
            return [fail(what, checkpoints.missing_weights(reasoner.model)), _room()], None
        found = checkpoints.open_checkpoint(folder, dialect)
    except (SegZeroError, ValueError) as error:
        return [fail(what, str(error))], None
    size = sum(tensor.size for tensor in found.tensors)
    said = (
        f'{found.parameters / 1e9:.2f} B parameters, {size / 2**30:.1f} GiB'
        if size >= 2**29
        else f'{found.parameters / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB'
    )
    return [ok(what, f'{said}, in {folder}')], found.parameters


def _room() -> Check:
    free = hub.free_space() / 2**30
    said = f'{free:.0f} GiB free where weights are kept, {hub.cache_folder()}'
    if free < _ROOM_GB:
        return warn('disk', said, 'Set HF_HOME to a larger disk; the published 7B takes 17 GiB.')
    return ok('disk', said)


def _segmenter_weights(segmenter: SegmenterOptions) -> Check:
    from segzero_ros.segmentation.sam2_checkpoint import find_checkpoint

    try:
        found = find_checkpoint(segmenter.model, segmenter.config, offline=True)
    except SegZeroError as error:
        return fail('weights of the segmenter', str(error))
    return ok('weights of the segmenter', str(found.name))


def _server(reasoner: ReasonerOptions) -> Iterator[Check]:
    parts = urlsplit(reasoner.base_url)
    url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
    if parts.scheme not in ('http', 'https') or not parts.netloc:
        cure = 'Name it with base_url:=http://server:8000/v1 (docs/serving.md).'
        yield fail('server', f'base_url is {url or "empty"}', cure)
        return
    key = os.environ.get(reasoner.api_key_env, '')
    yield ok('server key', f'{reasoner.api_key_env} is {"set" if key else "not set"}')
    headers = {'Authorization': f'Bearer {key}'} if key else {}
    request = urllib.request.Request(f'{url}/models', headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            served = _names(json.load(answer))
    except urllib.error.HTTPError as error:
        cure = f'Put its key into the environment variable {reasoner.api_key_env}.'
        refused = error.code in (401, 403)
        yield fail('server', f'{url} answers {error.code}', cure if refused else '')
        return
    except (OSError, ValueError) as error:
        cause = getattr(error, 'reason', '') or error
        cure = 'Start it (docs/serving.md), or put base_url right.'
        yield fail('server', f'no OpenAI-compatible server answers at {url} ({cause})', cure)
        return
    if reasoner.model in served:
        yield ok('server', f'{url} serves {reasoner.model}')
    else:
        cure = 'Set reasoner_model to one of these, or serve the model under that name.'
        said = f'{url} does not serve {reasoner.model!r}, but {", ".join(served) or "nothing"}'
        yield fail('server', said, cure)


def _names(content: Any) -> list[str]:
    """Return the ids of a list of models; raise ValueError where it is none."""
    try:
        return [str(each['id']) for each in content['data']]
    except (KeyError, TypeError) as error:
        raise ValueError('its list of models cannot be read') from error
