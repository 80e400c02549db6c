"""Load a checkpoint's weights, and fail unless they are exactly those of its configuration.

Trainers and releases of transformers name the same weights differently (`visual.…` and
`model.layers.…` as published, `model.visual.…` and `model.language_model.…` since), which
transformers maps. It initialises weights that it does not find at random and goes on; here that is
an error.
"""

from __future__ import annotations

from collections.abc import Collection
import logging
from pathlib import Path
from typing import Any

import torch
import transformers

from segzero_ros.reasoning.checkpoints import Checkpoint, ELSEWHERE
from segzero_ros.reasoning.processors import LoadedProcessor, one_line
from segzero_ros.types import ReasonerUnavailable

# transformers' own factory carries no types.
_models: Any = transformers.AutoModelForImageTextToText

_logger = logging.getLogger(__name__)


def load_model(
    checkpoint: Checkpoint, loaded: LoadedProcessor, dtype: torch.dtype, **options: Any
) -> Any:
    """Load a checkpoint's model, with the special tokens that its processor has.

    Args:
        checkpoint: where it is.
        loaded: its processor.
        dtype: of the weights in memory.
        options: for transformers' `from_pretrained`: `device_map`, `quantization_config`.

    Returns:
        The model, as transformers makes it.

    Raises:
        ReasonerUnavailable: it cannot be loaded, weights are missing, or nothing ends an answer.
    """
    model = read_weights(checkpoint.folder, dtype=dtype, **options)
    model.config.image_token_id = loaded.image_token_id
    complete_generation(checkpoint.folder, model.generation_config, loaded)
    return model


def read_weights(folder: Path, *, pickled: bool = False, **options: Any) -> Any:
    """Load a model as it is.

    Args:
        folder: of the checkpoint.
        pickled: whether its weights are `pytorch_model*.bin`; else they are safetensors.
        options: for transformers' `from_pretrained`.

    Raises:
        ReasonerUnavailable: it cannot be loaded, or weights are missing.
    """
    fixed = {'local_files_only': True, 'output_loading_info': True}
    options = {'attn_implementation': 'sdpa'} | fixed | options
    try:
        if pickled:
            # weights_only: torch refuses pickles with anything but data.
            model, found = _models.from_pretrained(
                folder, use_safetensors=False, weights_only=True, **options
            )
        else:
            model, found = _models.from_pretrained(folder, use_safetensors=True, **options)
    except Exception as error:
        # transformers raises many kinds of errors on a broken or foreign file.
        raise ReasonerUnavailable(
            f'The checkpoint in {folder} cannot be loaded: {one_line(error)}'
        ) from error
    _refuse_other_weights(folder, found['missing_keys'], found['unexpected_keys'])
    return model


def _refuse_other_weights(
    folder: Path, missing: Collection[str], unexpected: Collection[str]
) -> None:
    """Raise ReasonerUnavailable where weights are missing or a LoRA adapter is not merged."""
    lora = [name for name in unexpected if 'lora_' in name]
    if missing or lora:
        raise ReasonerUnavailable(
            f'The checkpoint in {folder} is not the model that its config.json '
            f'describes: {_some(missing) or "no weight"} missing, {_some(unexpected) or "none"} '
            'left over. Export it as transformers saves it (save_pretrained; of LoRA, merged), or '
            f'fetch it again; {ELSEWHERE}.'
        )
    if unexpected:
        _logger.warning(
            'Of the weights in %s %s left over: this model has no use for them',
            folder,
            _some(unexpected),
        )


def _some(names: Collection[str]) -> str:
    """Return some weights for a message: the first name, and how many more."""
    if not names:
        return ''
    first = min(names)
    return f'{first} is' if len(names) == 1 else f'{first} and {len(names) - 1} more are'


def complete_generation(folder: Path, settings: Any, loaded: LoadedProcessor) -> None:
    """Set the tokens that end an answer, from the checkpoint and the tokenizer.

    Args:
        folder: of the checkpoint.
        settings: the model's `generation_config`, which is changed.
        loaded: the checkpoint's processor.

    Raises:
        ReasonerUnavailable: neither names one.
    """
    stated = settings.eos_token_id
    ends = [stated] if isinstance(stated, int) else list(stated or ())
    ends += [token for token in loaded.end_tokens if token not in ends]
    if not ends:
        raise ReasonerUnavailable(
            f'Nothing in {folder} says which token ends an answer: set eos_token_id in '
            'generation_config.json, or eos_token in tokenizer_config.json.'
        )
    settings.eos_token_id = ends
    if settings.pad_token_id is None:
        padding = loaded.processor.tokenizer.pad_token_id
        settings.pad_token_id = ends[0] if padding is None else padding


def make_greedy(model: Any) -> None:
    """Remove the sampling settings: the published code decodes greedily.

    A repetition penalty stays, because the published code leaves it to the checkpoint as well.
    """
    config = model.generation_config
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    if config.repetition_penalty not in (None, 1.0):
        _logger.info(
            "The checkpoint's generation_config penalises repetition by %s",
            config.repetition_penalty,
        )
