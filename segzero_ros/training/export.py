"""Export an adapter or pickled weights as a checkpoint that the node can load.

Use: `python -m segzero_ros.training.export ADAPTER FOLDER [--base MODEL]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
import json
import logging
from pathlib import Path
import re
import sys
from typing import Any

from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.weights import read_weights
from segzero_ros.training.models import save_processor
from segzero_ros.training.presets import TrainingError
from segzero_ros.training.row_sources import missing_package
from segzero_ros.types import SegZeroError

_WEIGHTS = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_logger = logging.getLogger(__name__)


def export(source: Path, folder: Path, base: str = '') -> None:
    """Write a complete checkpoint with safetensors weights in the saved dtype.

    Args:
        source: folder of a LoRA adapter, or of a model with pickled weights.
        folder: new or empty output folder.
        base: the adapter's base model, a folder or a name on the Hub; by default as in its
            configuration.

    Raises:
        TrainingError: there is nothing to export, or it is incomplete.
        ReasonerUnavailable: the model cannot be loaded.
    """
    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(f'{folder} is not empty: choose a new folder.')
    if (source / 'adapter_config.json').is_file():
        model_folder = _base(source, base)
        model = _merged(read_weights(model_folder, dtype='auto'), source)
    elif any(source.glob('pytorch_model*.bin')):
        model_folder = source
        model = read_weights(source, dtype='auto', pickled=True)
    else:
        raise TrainingError(
            f'{source} contains neither an adapter (adapter_config.json) nor pickled weights '
            '(pytorch_model.bin): there is nothing to export.'
        )
    model.save_pretrained(folder)
    save_processor(model_folder, folder)


def _base(adapter: Path, named: str) -> Path:
    """Return the folder of an adapter's base model."""
    stated = json.loads((adapter / 'adapter_config.json').read_text())
    base = named or stated.get('base_model_name_or_path')
    if not base:
        raise TrainingError(f'The adapter in {adapter} does not name its base model: use --base.')
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise TrainingError(
            f'The base model {base} of the adapter in {adapter} does not exist: use --base.'
        )
    folder = checkpoints.local_folder(base)
    return checkpoints.download(base) if folder is None else folder


def _merged(model: Any, adapter: Path) -> Any:
    """Merge an adapter into a model's weights.

    Weight names depend on the release of transformers that the adapter was trained with, and peft
    silently ignores unknown names. So the layers are taken from the adapter's weights here, and
    each has to exist in the model.
    """
    try:
        peft: Any = import_module('peft')
    except ImportError as error:
        raise missing_package(error) from error
    from safetensors.torch import load_file

    if not (adapter / _WEIGHTS).is_file():
        raise TrainingError(f'The adapter in {adapter} is incomplete: {_WEIGHTS} is missing.')
    config = peft.PeftConfig.from_pretrained(adapter)
    if config.peft_type != peft.PeftType.LORA:
        raise TrainingError(f'The adapter in {adapter} is {config.peft_type.value}, not LoRA.')
    weights = {_current_name(name): value for name, value in load_file(adapter / _WEIGHTS).items()}
    matches = (re.match(rf'{re.escape(_PREFIX)}(.+?)\.lora_', name) for name in weights)
    layers = {match.group(1) for match in matches if match}
    unknown = sorted(layers - {name for name, _ in model.named_modules()})
    if unknown or not layers:
        what = f'no layer {unknown[0]}' if unknown else 'no LoRA layer to merge'
        raise TrainingError(
            f'The adapter in {adapter} does not fit the model: there is {what}. Give the model '
            'that it was trained on with --base.'
        )
    config.target_modules = layers
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    adapted = peft.get_peft_model(model, config)
    try:
        found = peft.set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:
        raise TrainingError(
            f'The adapter in {adapter} does not fit the model: {str(error).splitlines()[-1]}'
        ) from error
    left = [*found.unexpected_keys, *(name for name in found.missing_keys if 'lora_' in name)]
    if left:
        raise TrainingError(
            f'The adapter in {adapter} does not fit the model: {left[0]} has no counterpart.'
        )
    _logger.info('merged %d layers', len(layers))
    return adapted.merge_and_unload()


def _current_name(name: str) -> str:
    """Return an adapter's weight name in the form of transformers 4.52 and later."""
    inner = name.removeprefix(_PREFIX)
    inner = re.sub(r'^visual\.', 'model.visual.', inner)
    inner = re.sub(r'^model\.(?!language_model\.|visual\.)', 'model.language_model.', inner)
    return _PREFIX + inner


def main(argv: Sequence[str] | None = None) -> None:
    """Run the export from the command line."""
    parser = argparse.ArgumentParser(prog='python -m segzero_ros.training.export')
    parser.description = 'Merge a LoRA adapter into its model, or convert pickles to safetensors.'
    parser.add_argument('source', type=Path, help='folder of the adapter or of the model')
    parser.add_argument('folder', type=Path, help='new folder for the checkpoint')
    parser.add_argument('--base', default='', help="the adapter's base model")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        export(given.source, given.folder, given.base)
    except SegZeroError as error:
        sys.exit(str(error))
    logging.info('the checkpoint is in %s: reasoner_model:=%s', given.folder, given.folder)


if __name__ == '__main__':
    main()
