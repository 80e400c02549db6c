"""Read a small model's checkpoint without torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import json
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from segzero_ros.reasoning.checkpoints import Checkpoint
from segzero_ros.reasoning.small_model.network import Array

# Above this number of parameters torch is faster, also with its import.
MAX_PARAMETERS = 20_000_000
_WEIGHTS, _TOKENIZER = 'model.safetensors', 'tokenizer.json'
_TURN_END = '<|im_end|>'
# Settings of `generation_config.json` that change greedy tokens, with the values that do not.
_NEUTRAL = {'repetition_penalty': 1.0, 'no_repeat_ngram_size': 0, 'num_beams': 1}
# Names of the parts in checkpoints of transformers before and since 4.52.
_PREFIXES = (
    ('model.visual.', 'visual.'),
    ('model.language_model.', 'model.'),
)
# What the network computes; a missing key has the same value in transformers.
_VISION = {
    'hidden_act': 'silu',
    'in_channels': 3,
    'temporal_patch_size': 2,
    'spatial_merge_size': 1,
}
_TEXT = {'hidden_act': 'silu', 'use_sliding_window': False, 'tie_word_embeddings': False}


class Unsuited(Exception):
    """The checkpoint needs transformers; the text names the cause."""


class SmallTokenizer:
    """A tokenizer and its chat template.

    Attributes:
        control_tokens: its special tokens, longest first.

    Args:
        folder: of the checkpoint.

    Raises:
        Unsuited: a file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
            template = (folder / 'chat_template.jinja').read_text()
            # As transformers does.
            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            self._template = environment.from_string(template)
        except Exception as error:
            # tokenizers raises plain Exceptions.
            raise Unsuited(f'its tokenizer or chat template cannot be read: {error}') from error
        added = self._tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        self.control_tokens = tuple(sorted(special, key=lambda token: (-len(token), token)))

    def chat(self, prompt: str) -> str:
        """Apply the chat template: one image placeholder, then the prompt."""
        content = [{'type': 'image'}, {'type': 'text', 'text': prompt}]
        try:
            return self._template.render(
                messages=[{'role': 'user', 'content': content}], add_generation_prompt=True
            )
        except TemplateError as error:
            raise Unsuited(f'its chat template fails: {error}') from error

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, tokens: Iterable[int], **options: Any) -> str:
        """Return the text of ids, without special tokens; for `Detokenizer`."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def id_of(self, token: str) -> int | None:
        """Return a token's id; None if there is none."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number


class ImageSettings:
    """How a checkpoint's image processor normalises pixels.

    Args:
        folder: of the checkpoint.
        patch: side of the model's patches, pixels.

    Raises:
        Unsuited: there are no such settings, or they say something else.
    """

    def __init__(self, folder: Path, patch: int) -> None:
        own = _read(folder / 'preprocessor_config.json')
        settings = own or _read(folder / 'processor_config.json').get('image_processor', {})
        expected = {'patch_size': patch, 'merge_size': 1, 'temporal_patch_size': 2}
        steps = ('do_rescale', 'do_normalize')
        if any(settings.get(name) != value for name, value in expected.items()):
            raise Unsuited('its image processor is of another model')
        if not all(settings.get(name, True) for name in steps):
            raise Unsuited('its image processor does not normalise')
        self._scale = np.float32(settings.get('rescale_factor', 1 / 255))
        self._mean, self._deviation = (
            np.asarray(settings[name], np.float32) for name in ('image_mean', 'image_std')
        )

    def normalised(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Array:
        """Return the (h, w, 3) float32 pixels that the model sees of a uint8 image."""
        pixels: Array = (image * self._scale - self._mean) / self._deviation
        return pixels


def refuse_unsuited(checkpoint: Checkpoint, side: int) -> None:
    """Raise Unsuited unless the network computes this checkpoint.

    Args:
        checkpoint: its configuration and tensors.
        side: of the square images, pixels.
    """
    vision, text = checkpoint.config.get('vision_config', {}), checkpoint.text_config
    if checkpoint.parameters > MAX_PARAMETERS:
        raise Unsuited(f'it has more than {MAX_PARAMETERS:,} parameters')
    for config, expected in ((vision, _VISION), (text, _TEXT)):
        for name, value in expected.items():
            if config.get(name, value) != value:
                raise Unsuited(f'its {name} is {config[name]}')
    for config, kind in ((vision, 'axial'), (text, 'default')):
        if config.get('rope_parameters', {}).get('rope_type') != kind:
            raise Unsuited(f'its rope_type is not {kind}')
    if checkpoint.config.get('tie_word_embeddings') or checkpoint.quantized:
        raise Unsuited('its weights are shared or quantised')
    if vision['rope_parameters'].get('rope_theta') != 10_000.0:
        raise Unsuited('its vision tower has another rope_theta')
    if vision['window_size'] < side or side % vision['patch_size']:
        raise Unsuited('its vision tower sees the image in windows')


def end_tokens(checkpoint: Checkpoint, tokenizer: SmallTokenizer) -> frozenset[int]:
    """Return the ids that end an answer; raise Unsuited if none does, or it is not greedy."""
    settings = _read(checkpoint.folder / 'generation_config.json')
    for name, value in _NEUTRAL.items():
        if settings.get(name) not in (None, value):
            raise Unsuited(f'its generation_config.json sets {name}')
    stated = settings.get('eos_token_id')
    ends = {stated} if isinstance(stated, int) else set(stated or ())
    named = _read(checkpoint.folder / 'tokenizer_config.json').get('eos_token')
    ends |= {tokenizer.id_of(token) for token in (_TURN_END, named) if isinstance(token, str)}
    ends.discard(None)
    if not ends:
        raise Unsuited('nothing says which token ends an answer')
    return frozenset(ends)


def read_weights(folder: Path) -> Callable[[str], dict[str, Array]]:
    """Return a function that gives the weights whose names start with a prefix, without it.

    Raises:
        Unsuited: they cannot be read.
    """
    try:
        stored = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise Unsuited(f'its weights cannot be read: {error}') from error
    weights = {}
    for name, value in stored.items():
        for old, new in _PREFIXES:
            if name.startswith(old):
                name = new + name.removeprefix(old)
        if value.dtype not in (np.float16, np.float32):
            raise Unsuited(f'its weights are {value.dtype}')
        weights[name] = value.astype(np.float32)
    return lambda prefix: {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _read(path: Path) -> Mapping[str, Any]:
    """Return a JSON file's object; empty if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Unsuited(f'{path.name} cannot be read') from error
    return value if isinstance(value, dict) else {}
