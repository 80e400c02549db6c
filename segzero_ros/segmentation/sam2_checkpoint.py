"""Where a SAM 2 checkpoint is, which configuration it needs, and the network built from both.

The segmenter and the tracker load their model here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
import pickle
from typing import Any

from segzero_ros import hub
from segzero_ros.extras import install_command
from segzero_ros.types import SegmenterUnavailable

# What `sam2` itself sets when it builds a model for images and for tracking, beside the file.
SETTINGS_OF_THE_PACKAGE = {
    'sam_mask_decoder_extra_args': {
        'dynamic_multimask_via_stability': True,
        'dynamic_multimask_stability_delta': 0.05,
        'dynamic_multimask_stability_thresh': 0.98,
    },
    'binarize_mask_from_pts_for_mem_enc': True,
}
BUILDING_BLOCKS = ('sam2.', 'torch.nn.')
# Bytes of the published weights, which stay float32, and what an image takes beside any of them: a
# rule of thumb.
_WEIGHT_BYTES = {'tiny': 156e6, 'small': 184e6, 'base-plus': 324e6, 'large': 898e6}
_IMAGE_BYTES = 2**30
SIZES = {'tiny': 't', 'small': 's', 'base-plus': 'b+', 'large': 'l'}
WEIGHTS = ('.pt', '.pth', '.safetensors')


@dataclass(frozen=True)
class PublishedSam2:
    """One checkpoint on the hub: its file there, and its configuration inside the package."""

    file: str
    config: str


PUBLISHED = {
    f'facebook/{version}-hiera-{size}': PublishedSam2(
        f'{version}_hiera_{size.replace("-", "_")}.pt', f'{version}/{version}_hiera_{letter}.yaml'
    )
    for version in ('sam2', 'sam2.1')
    for size, letter in SIZES.items()
}


@dataclass(frozen=True)
class Sam2Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        name: what it was asked for by.
        weights: the file with the weights.
        config: the file with the configuration.
    """

    name: str
    weights: Path
    config: Path


def find_checkpoint(model: str, config: str = '', offline: bool = False) -> Sam2Checkpoint:
    """Find a checkpoint, downloading a published one that is not here yet.

    Args:
        model: a hub name of PUBLISHED, a file with weights, or a folder that holds one.
        config: name inside the package (`sam2.1_hiera_t.yaml`), hub name or path of the
            configuration; empty: the one beside the weights, or known from their name.
        offline: never ask the hub.

    Returns:
        Where its files are.

    Raises:
        SegmenterUnavailable: it is not there, or its configuration is not known.
    """
    path = Path(model).expanduser()
    if path.exists():
        weights = _weights_in(path) if path.is_dir() else path
        return Sam2Checkpoint(weights.name, weights, _config_of(weights, config))
    if model not in PUBLISHED:
        raise SegmenterUnavailable(
            f'There is no SAM 2 checkpoint {model!r}: it is neither a file or folder here nor one '
            f'of {", ".join(PUBLISHED)}.'
        )
    weights = _download(model, PUBLISHED[model].file, offline)
    return Sam2Checkpoint(model, weights, _named_config(config or model))


def bytes_needed(model: str) -> int:
    """Return the memory that a checkpoint takes, estimated; 0 where it is not known.

    Args:
        model: as in `find_checkpoint`; a published one need not be here.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        sizes = [file.stat().st_size for suffix in WEIGHTS for file in path.glob(f'*{suffix}')]
    elif path.is_file():
        sizes = [path.stat().st_size]
    else:
        sizes = [int(_WEIGHT_BYTES.get(model.partition('-hiera-')[2], 0))]
    largest = max(sizes, default=0)
    return largest + _IMAGE_BYTES if largest else 0


def build_model(checkpoint: Sam2Checkpoint, device: Any) -> Any:
    """Build the network and fill it with the checkpoint's weights.

    Args:
        checkpoint: where the files are.
        device: the torch.device to put it on.

    Returns:
        A `sam2.modeling.sam2_base.SAM2Base` in evaluation mode.

    Raises:
        SegmenterUnavailable: a file is broken, or the two do not belong together.
    """
    _configs()
    from hydra.utils import instantiate

    settings = _read_config(checkpoint.config)
    try:
        model = instantiate(settings, _recursive_=True)
    except Exception as error:
        raise SegmenterUnavailable(
            f'{checkpoint.config} does not describe a SAM 2 model: {error}'
        ) from error
    _fill(model, read_weights(checkpoint.weights), checkpoint)
    return model.to(device).eval()


def read_weights(path: Path) -> dict[str, Any]:
    """Return the named tensors of a `.pt` or `.safetensors` file, on the CPU.

    Nothing but tensors is read: a `.pt` file that would run code is refused.

    Raises:
        SegmenterUnavailable: the file is truncated, no checkpoint, or holds more than weights.
    """
    import torch

    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise SegmenterUnavailable(
            f'{path} is no checkpoint of weights alone, and nothing else is loaded: {error}'
        ) from error
    except Exception as error:
        raise SegmenterUnavailable(
            f'{path} ({path.stat().st_size} bytes) cannot be read: it is truncated or no '
            f'checkpoint. Fetch it again. ({type(error).__name__}: {error})'
        ) from error
    state = content.get('model', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise SegmenterUnavailable(
            f'{path} holds no weights: a SAM 2 checkpoint is {{"model": state_dict}} or a plain '
            'state_dict.'
        )
    return state


def _fill(model: Any, state: dict[str, Any], checkpoint: Sam2Checkpoint) -> None:
    wanted = model.state_dict()
    problems = [
        (f'{len(names)} {what}', sorted(names)[0])
        for what, names in (
            ('missing', wanted.keys() - state.keys()),
            ('unknown to the configuration', state.keys() - wanted.keys()),
            (
                'of another shape',
                {
                    name
                    for name in wanted.keys() & state.keys()
                    if wanted[name].shape != state[name].shape
                },
            ),
        )
        if names
    ]
    if problems:
        counted = '; '.join(f'{count} (first: {first})' for count, first in problems)
        raise SegmenterUnavailable(
            f'The weights {checkpoint.weights} do not fit the configuration {checkpoint.config}. '
            f'Tensors: {counted}. Name the configuration that the weights were made with; '
            "checkpoints in transformers' own layout are not read."
        )
    model.load_state_dict(state)


def _read_config(path: Path) -> Any:
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.load(path)
        settings = OmegaConf.merge(config.model, SETTINGS_OF_THE_PACKAGE)
        plain = OmegaConf.to_container(settings, resolve=True)
    except Exception as error:
        raise SegmenterUnavailable(
            f'{path} is no YAML file with a part `model`, as SAM 2 is configured by: {error}'
        ) from error
    foreign = sorted(
        {target for target in _targets(plain) if not target.startswith(BUILDING_BLOCKS)}
    )
    if foreign:
        raise SegmenterUnavailable(
            f'{path} asks for {", ".join(foreign)}. Only parts of sam2 and torch.nn are built, '
            'since a configuration could otherwise run anything.'
        )
    return settings


def _targets(settings: Any) -> Iterator[str]:
    if isinstance(settings, dict):
        if '_target_' in settings:
            yield str(settings['_target_'])
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _targets(value)


def _weights_in(folder: Path) -> Path:
    for suffix in WEIGHTS:
        found = sorted(folder.glob(f'*{suffix}'))
        if len(found) == 1:
            return found[0]
        if found:
            raise SegmenterUnavailable(
                f'{folder} holds {", ".join(path.name for path in found)}: name one of them.'
            )
    raise SegmenterUnavailable(f'{folder} holds no weights: no file *{", *".join(WEIGHTS)}.')


def _config_of(weights: Path, config: str) -> Path:
    if config:
        return _named_config(config)
    beside = weights.with_suffix('.yaml')
    if beside.is_file():
        return beside
    for published in PUBLISHED.values():
        if weights.stem == Path(published.file).stem:
            return _configs() / published.config
    raise SegmenterUnavailable(
        f'Which configuration {weights} needs cannot be told from its name. Put it beside the '
        f'weights as {beside.name}, or name it: a YAML file, or one of {", ".join(PUBLISHED)}.'
    )


def _named_config(config: str) -> Path:
    """Return the path of a configuration given as path, hub name or name inside the package."""
    path = Path(config).expanduser()
    if path.is_file():
        return path
    if config in PUBLISHED:
        return _configs() / PUBLISHED[config].config
    for published in PUBLISHED.values():
        if path.name in (Path(published.config).name, Path(published.config).stem):
            return _configs() / published.config
    names = ', '.join(Path(published.config).name for published in PUBLISHED.values())
    raise SegmenterUnavailable(
        f'There is no configuration {config!r}: it is neither a file here nor one of {names}.'
    )


def _configs() -> Path:
    package = find_spec('sam2')
    if package is None or package.origin is None:
        raise SegmenterUnavailable(
            f'The package sam2 is not installed: {install_command("models")}.'
        )
    return Path(package.origin).parent / 'configs'


def _download(repository: str, file: str, offline: bool) -> Path:
    """Return a published file from the hub's cache, or from the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except LocalEntryNotFoundError as error:
        if offline:
            raise SegmenterUnavailable(
                f'{file} of {repository} is not on this machine, and the hub is not to be asked. '
                f'Run once with network (`hf download {repository} {file}`), copy the file here '
                'and name its path, or switch `offline` off.'
            ) from error
    try:
        return hub.fetch(repository, (), file=file)
    except hub.DiskFull as error:
        raise SegmenterUnavailable(str(error)) from error
    except hub.DownloadError as error:
        raise SegmenterUnavailable(
            f'{error} Or copy the file here and name its path, or put the network right.'
        ) from error
