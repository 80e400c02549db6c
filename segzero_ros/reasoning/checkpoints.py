"""Find a checkpoint's files, locally or on the hub, and inspect them before they are loaded.

Errors name the cause: files missing, incomplete or truncated, another architecture than the
dialect's, or a trainer's shards instead of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from segzero_ros import hub
from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.reasoning.dialects.fitting import hint_for_architecture, speakers_of
from segzero_ros.types import ReasonerUnavailable

ELSEWHERE = (
    'profile:=remote asks a model server instead, profile:=offline needs neither weights nor a GPU'
)
# The files to download; weights as safetensors only, never code.
_PATTERNS = ['*.json', '*.safetensors', '*.jinja', '*.txt', '*.model']
_SINGLE_FILE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_NO_SAFETENSORS = f'{_SINGLE_FILE} or {_INDEX}'
_ADAPTER = 'adapter_config.json'
# The command that exports an adapter or pickled weights as a checkpoint.
_EXPORT = 'python -m segzero_ros.training.export'
_SHARDS = (
    'its weights are still the shards of an FSDP run (verl, EasyR1, Seg-Zero). Merge them with '
    'that trainer\'s own script, such as "python training_scripts/model_merger.py --local_dir '
    '{location}" or "python -m verl.model_merger merge --backend fsdp --local_dir {location} '
    '--target_dir …", and name the folder that it writes'
)
# Patterns of files that are found instead of weights, and how to convert them.
_NO_WEIGHTS = (
    (
        'pytorch_model*.bin*',
        'its weights are pickled, and pickles can run code, so that only safetensors are read. '
        f'Write them anew once with "{_EXPORT} {{folder}} {{folder}}-safetensors", and name that '
        'folder',
    ),
    ('model_world_size_*_rank_*.pt', _SHARDS),
    (
        'zero_to_fp32.py',
        'its weights are still the shards of a DeepSpeed run. Merge them with "python '
        'zero_to_fp32.py . . --safe_serialization" in {location}',
    ),
    (
        '*.gguf',
        'its weights are GGUF, which llama.cpp runs: start llama-server with them and take '
        'profile:=remote',
    ),
)
# The checkpoints that come with the package.
_SHIPPED = Path(__file__).parent.parent / 'checkpoints'

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint: its name, number of elements, and bytes."""

    name: str
    count: int
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint in a local folder.

    Attributes:
        folder: its path.
        config: its `config.json`.
        tensors: its weights' names and sizes.
    """

    folder: Path
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(tensor.count for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        """The weights' size in their files."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's configuration; old files have it at the top level."""
        text: dict[str, Any] = self.config.get('text_config') or self.config
        return text

    @property
    def quantized(self) -> bool:
        """Whether the weights were quantised before they were saved."""
        return bool(self.config.get('quantization_config'))


def local_folder(model: str, recipe: str = '') -> Path | None:
    """Return a model's folder, by path or in the hub's cache; None if there is none.

    Args:
        model: the name of one that comes with the package (`mini`), a folder, or a name on the
            hub.
        recipe: the command that makes such a model, if there is one.

    Raises:
        ReasonerUnavailable: it is a path that does not exist.
    """
    shipped = _SHIPPED / model
    # By the plain name only: `./mini` is a folder of the user's.
    if shipped.name == model and (shipped / 'config.json').is_file():
        return shipped
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith(('.', '~')):
        made = f'Make it once with "{recipe}", or give' if recipe else 'Give'
        raise ReasonerUnavailable(
            f'There is no folder {path}. {made} the folder of a checkpoint or its name on the '
            f'hub; {ELSEWHERE}.'
        )
    try:
        folder = hub.cached(model, _PATTERNS)
    except hub.NoSuchName as error:
        raise ReasonerUnavailable(
            f'{model!r} is neither a folder here nor a name on the hub; {ELSEWHERE}.'
        ) from error
    if folder is None:
        return None
    # An interrupted download leaves an incomplete folder; an adapter is complete without weights.
    return folder if (folder / _ADAPTER).is_file() or not _missing(folder) else None


def download(model: str) -> Path:
    """Download a model from the hub and report the progress.

    Raises:
        ReasonerUnavailable: the hub cannot be reached or has no such model, or the disk is full.
    """
    _logger.info('Fetching %s from the hub; later starts find it in the cache', model)
    try:
        return hub.fetch(model, _PATTERNS)
    except (hub.DiskFull, hub.BrokenOff) as error:
        raise ReasonerUnavailable(f'{error} {ELSEWHERE[0].upper()}{ELSEWHERE[1:]}.') from error
    except hub.DownloadError as error:
        raise ReasonerUnavailable(f'{missing_weights(model)} {error}') from error


def missing_weights(model: str) -> str:
    """Return the message for a model whose weights are not on this machine."""
    cache = os.environ.get('HF_HUB_CACHE') or os.environ.get('HF_HOME') or '~/.cache/huggingface'
    return (
        f'The weights of {model} are not on this machine (looked for a folder of that name and in '
        f'{cache}). Fetch them once with "hf download {model}", or name the folder that holds '
        f'them; {ELSEWHERE}.'
    )


def open_checkpoint(folder: Path, dialect: Dialect) -> Checkpoint:
    """Inspect a checkpoint without loading its weights.

    Args:
        folder: the checkpoint.
        dialect: that it must have been trained for.

    Raises:
        ReasonerUnavailable: a file is missing or cut short, it is an adapter, or it is no model of
            this dialect.
    """
    missing = _missing(folder)
    if (folder / _ADAPTER).is_file():
        raise _adapter(folder, complete=not missing)
    if missing:
        raise _incomplete(folder, missing)
    config = _read_json(folder / 'config.json')
    architecture = config.get('model_type')
    if architecture not in dialect.architectures:
        raise ReasonerUnavailable(
            f'The checkpoint in {folder} is a {architecture!r}, but '
            f'{speakers_of(dialect)}. {hint_for_architecture(str(architecture))}'
        )
    if (folder / _SINGLE_FILE).is_file() and (folder / _INDEX).is_file():
        _logger.warning(
            '%s holds %s and also %s, which names other files: the whole file is loaded, as '
            'transformers does. Remove what is left of an earlier export.',
            folder,
            _SINGLE_FILE,
            _INDEX,
        )
    tensors = tuple(tensor for shard in _shards(folder) for tensor in _tensors(folder / shard))
    return Checkpoint(folder, config, tensors)


def _missing(folder: Path) -> list[str]:
    """Return the names of the files that a checkpoint's folder lacks."""
    if not (folder / 'config.json').is_file():
        return ['config.json']
    choices = [
        ('tokenizer.json', 'vocab.json'),
        ('preprocessor_config.json', 'processor_config.json'),
    ]
    missing = [
        ' or '.join(names)
        for names in choices
        if not any((folder / name).is_file() for name in names)
    ]
    if not (folder / 'tokenizer.json').is_file() and (folder / 'vocab.json').is_file():
        missing += [] if (folder / 'merges.txt').is_file() else ['merges.txt']
    if not (folder / _SINGLE_FILE).is_file():
        if not (folder / _INDEX).is_file():
            return [*missing, _NO_SAFETENSORS]
        missing += [name for name in _shards(folder) if not (folder / name).is_file()]
    return missing


def _incomplete(folder: Path, missing: list[str]) -> ReasonerUnavailable:
    """Return the error for a folder with missing files, with a hint."""
    if missing[-1] in ('config.json', _NO_SAFETENSORS):
        for pattern, hint in _NO_WEIGHTS:
            # Shards are next to the folder with the configuration.
            location = folder if any(folder.glob(pattern)) else folder.parent
            if location == folder or (hint is _SHARDS and any(location.glob(pattern))):
                advice = hint.format(folder=folder, location=location)
                return ReasonerUnavailable(
                    f'The checkpoint in {folder} cannot be loaded: {advice}; {ELSEWHERE}.'
                )
    within = sorted(path.parent.name for path in folder.glob('*/config.json'))
    if missing == ['config.json'] and within:
        return ReasonerUnavailable(
            f'{folder} is no checkpoint but holds some: name one of these folders in it: '
            f'{", ".join(within)}.'
        )
    return ReasonerUnavailable(
        f'The checkpoint in {folder} is incomplete: {", ".join(missing)} missing. Fetch it '
        f'again; {ELSEWHERE}.'
    )


def _adapter(folder: Path, *, complete: bool) -> ReasonerUnavailable:
    """Return the error for a folder with an adapter, and how to merge it."""
    base = (
        _read_json(folder / _ADAPTER).get('base_model_name_or_path') or 'a model it does not name'
    )
    if complete:
        return ReasonerUnavailable(
            f'{folder} holds a whole model and an adapter of {base} as well. If the adapter is '
            f'merged into the weights, remove {_ADAPTER}; if not, keep it in a folder of its own '
            f'and merge it with "{_EXPORT}".'
        )
    return ReasonerUnavailable(
        f'{folder} holds an adapter (LoRA) of {base}, not a model. Merge the two once with '
        f'"{_EXPORT} {folder} {folder}-merged", and name that folder; {ELSEWHERE}.'
    )


def _shards(folder: Path) -> list[str]:
    """Return the names of the weight files: the single one where there is one."""
    if (folder / _SINGLE_FILE).is_file():
        return [_SINGLE_FILE]
    index = folder / _INDEX
    weight_map = _read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ReasonerUnavailable(f'{index} names no weights. Fetch the checkpoint again.')
    return sorted(set(weight_map.values()))


def _tensors(path: Path) -> Iterator[Tensor]:
    """Read a safetensors header, and check the file's length against it."""
    size = path.stat().st_size
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        head = _parsed(file.read(length) if 8 + length <= size else b'', path)
    entries = {name: entry for name, entry in head.items() if name != '__metadata__'}
    end = max((entry['data_offsets'][1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise _cut_short(path, f'{size} bytes where {8 + length + end} belong')
    for name, entry in entries.items():
        start, stop = entry['data_offsets']
        count = math.prod(entry['shape'])
        yield Tensor(name, count, stop - start)


def _read_json(path: Path) -> dict[str, Any]:
    return _parsed(path.read_bytes(), path)


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise _cut_short(path, 'it cannot be read') from None
    if not isinstance(value, dict):
        raise _cut_short(path, 'it is no JSON object')
    return value


def _cut_short(path: Path, why: str) -> ReasonerUnavailable:
    return ReasonerUnavailable(
        f'{path} is damaged or was not fetched to its end: {why}. Fetch the checkpoint again.'
    )
