"""Find a SAM 2 checkpoint and its configuration, and build the network from both."""

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

# Settings that sam2's build functions add to the configuration file, for images and for tracking.
BUILD_OVERRIDES = {
    'sam_mask_decoder_extra_args': {
        'dynamic_multimask_via_stability': True,
        'dynamic_multimask_stability_delta': 0.05,
        'dynamic_multimask_stability_thresh': 0.98,
    },
    'binarize_mask_from_pts_for_mem_enc': True,
}
ALLOWED_TARGETS = ('sam2.', 'torch.nn.')
# Bytes of the published weights, which stay in float32, and a rough estimate for an image's
# activations.
_WEIGHT_BYTES = {'tiny': 156e6, 'small': 184e6, 'base-plus': 324e6, 'large': 898e6}
_IMAGE_BYTES = 2**30
SIZES = {'tiny': 't', 'small': 's', 'base-plus': 'b+', 'large': 'l'}
WEIGHTS = ('.pt', '.pth', '.safetensors')


@dataclass(frozen=True)
class PublishedSam2:
    """A checkpoint on the hub: its file there, and its configuration inside sam2."""

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
        name: hub name or file name.
        weights: file of the weights.
        config: file of the configuration.
    """

    name: str
    weights: Path
    config: Path


def find_checkpoint(model: str, config: str = '', offline: bool = False) -> Sam2Checkpoint:
    """Find a checkpoint, downloading a published one if necessary.

    Args:
        model: a hub name in PUBLISHED, a file of weights, or a folder with one.
        config: name inside sam2 (`sam2.1_hiera_t.yaml`), hub name or path of the configuration;
            empty: beside the weights, or known from their name.
        offline: do not access the hub.

    Returns:
        Its files.

    Raises:
        SegmenterUnavailable: it does not exist, or its configuration is unknown.
    """
    path = Path(model).expanduser()
    if path.exists():
        weights = _weights_in(path) if path.is_dir() else path
        return Sam2Checkpoint(weights.name, weights, _config_of(weights, config))
    if model not in PUBLISHED:
        raise SegmenterUnavailable(
            f'There is no SAM 2 checkpoint {model!r}: it is neither a file or folder nor one of '
            f'{", ".join(PUBLISHED)}.'
        )
    weights = _download(model, PUBLISHED[model].file, offline)
    return Sam2Checkpoint(model, weights, _named_config(config or model))


def bytes_needed(model: str) -> int:
    """Return the estimated memory of a checkpoint in bytes; 0 if unknown.

    Args:
        model: as in `find_checkpoint`; a published one need not be downloaded.
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
    """Build the network and load the checkpoint's weights.

    Args:
        checkpoint: its files.
        device: the torch.device.

    Returns:
        A `sam2.modeling.sam2_base.SAM2Base` in evaluation mode.

    Raises:
        SegmenterUnavailable: a file is corrupt, or weights and configuration do not match.
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
    _load_weights(model, read_weights(checkpoint.weights), checkpoint)
    return model.to(device).eval()


def read_weights(path: Path) -> dict[str, Any]:
    """Return the state dict of a `.pt` or `.safetensors` file, on the CPU.

    Only tensors are loaded: a `.pt` file that would run code is refused.

    Raises:
        SegmenterUnavailable: the file is truncated, not a checkpoint, or contains more than
            weights.
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
            f'{path} contains more than weights, and nothing else is loaded: {error}'
        ) from error
    except Exception as error:
        raise SegmenterUnavailable(
            f'{path} ({path.stat().st_size} bytes) cannot be read: it is truncated or not a '
            f'checkpoint. Download it again. ({type(error).__name__}: {error})'
        ) from error
    state = content.get('model', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise SegmenterUnavailable(
            f'{path} contains no weights: a SAM 2 checkpoint is {{"model": state_dict}} or a '
            'plain state_dict.'
        )
    return state


def _load_weights(model: Any, state: dict[str, Any], checkpoint: Sam2Checkpoint) -> None:
    expected = model.state_dict()
    other_shape = {
        name
        for name in expected.keys() & state.keys()
        if expected[name].shape != state[name].shape
    }
    problems = [
        f'{len(names)} {problem} (first: {min(names)})'
        for problem, names in (
            ('missing', expected.keys() - state.keys()),
            ('unknown to the configuration', state.keys() - expected.keys()),
            ('of another shape', other_shape),
        )
        if names
    ]
    if problems:
        raise SegmenterUnavailable(
            f'The weights {checkpoint.weights} do not match the configuration '
            f'{checkpoint.config}. Tensors: {"; ".join(problems)}. Name the configuration that '
            "the weights were trained with; checkpoints in transformers' layout are not supported."
        )
    model.load_state_dict(state)


def _read_config(path: Path) -> Any:
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.load(path)
        settings = OmegaConf.merge(config.model, BUILD_OVERRIDES)
        plain = OmegaConf.to_container(settings, resolve=True)
    except Exception as error:
        raise SegmenterUnavailable(
            f'{path} is not a SAM 2 configuration, a YAML file with a section `model`: {error}'
        ) from error
    refused = sorted(
        {target for target in _targets(plain) if not target.startswith(ALLOWED_TARGETS)}
    )
    if refused:
        raise SegmenterUnavailable(
            f'{path} contains the targets {", ".join(refused)}. Only classes of sam2 and torch.nn '
            'are allowed, because a configuration could otherwise run any code.'
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
                f'{folder} contains {", ".join(path.name for path in found)}: name one of them.'
            )
    raise SegmenterUnavailable(f'{folder} contains no weights: no file *{", *".join(WEIGHTS)}.')


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
        f'The configuration of {weights} is not known from its name. Put it next to the weights '
        f'as {beside.name}; sam2 has those of {", ".join(PUBLISHED)}.'
    )


def _named_config(config: str) -> Path:
    """Return the path of a configuration given as path, hub name or name inside sam2."""
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
        f'There is no configuration {config!r}: it is neither a file nor one of {names}.'
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
    if path := hub.cached(repository, (), file=file):
        return path
    if offline:
        raise SegmenterUnavailable(
            f'{file} of {repository} is not on this machine, and `offline` is set. Download it '
            f'once with network (`hf download {repository} {file}`), copy the file here and give '
            'its path, or unset `offline`.'
        )
    try:
        return hub.fetch(repository, (), file=file)
    except hub.DiskFull as error:
        raise SegmenterUnavailable(str(error)) from error
    except hub.DownloadError as error:
        raise SegmenterUnavailable(f'{error} Or copy the file here and give its path.') from error
