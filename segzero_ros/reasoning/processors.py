"""Load a checkpoint's processor, and refuse one with which every query would fail.

A processor consists of tokenizer, chat template and image processor. Published checkpoints differ
in the files for these and in missing values. A missing value with one right choice is filled in
here; any other is an error before the weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
import logging
from pathlib import Path
import shutil
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import transformers

from segzero_ros.reasoning.checkpoints import Checkpoint
from segzero_ros.reasoning.control_tokens import control_tokens
from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.types import ReasonerUnavailable

# transformers' own factories carry no types.
_processors: Any = transformers.AutoProcessor
_configs: Any = transformers.AutoConfig

# The end-of-turn and padding tokens of both families.
_TURN_END, _PADDING = '<|im_end|>', '<|endoftext|>'
# The upper bound of the published image processors.
_PUBLISHED_TOKENS = 16384
_IMAGES = 'preprocessor_config.json'
_FETCH = 'Take the files of the model that it was trained from, or fetch the checkpoint again.'
# An arbitrary question for the checks.
_QUESTION = 'the red cup'

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedProcessor:
    """A checkpoint's processor, ready to use.

    Attributes:
        processor: of transformers, with a chat template, special tokens, and an image processor
            that leaves images of the dialect's sizes as they are.
        dialect: with the checkpoint's own bounds on the size of images.
        image_token_id: of the placeholder in a prompt.
        end_tokens: the tokenizer's tokens that end an answer, the usual one first.
    """

    processor: Any
    dialect: Dialect
    image_token_id: int
    end_tokens: tuple[int, ...]


def load_processor(checkpoint: Checkpoint, dialect: Dialect) -> LoadedProcessor:
    """Load the processor of a checkpoint.

    Raises:
        ReasonerUnavailable: it has no chat template, or its tokens or image sizes are not the
            model's; the text names the cause and a hint.
    """
    folder = checkpoint.folder
    try:
        config = _configs.from_pretrained(folder, local_files_only=True)
        processor = read_processor(folder)
    except Exception as error:
        # A wrong value in a JSON file raises many kinds of errors in transformers.
        raise _processor_error(checkpoint, 'cannot be read', one_line(error)) from error
    if getattr(processor, 'image_processor', None) is None:
        why = 'there is a tokenizer, but no image processor of a Qwen with vision'
        raise _processor_error(checkpoint, 'is incomplete', why)
    end_tokens = _set_special_tokens(processor.tokenizer)
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    image_token_id = _image_token(checkpoint, processor)
    _check_prompt(checkpoint, processor, dialect, config.get_text_config().vocab_size)
    dialect = _bounded(checkpoint, processor.image_processor, dialect)
    _check_image(checkpoint, processor.image_processor, config.vision_config, dialect)
    return LoadedProcessor(processor, dialect, image_token_id, end_tokens)


def read_processor(folder: Path) -> Any:
    """Load a processor as its files describe it.

    Pre-releases of transformers 4.49 named a class for Qwen2.5-VL's images that no release has,
    and these refuse the name; without it they take the class of the model's family.
    """
    named = _named_class(folder / _IMAGES)
    if named is None or hasattr(transformers, named):
        return _processors.from_pretrained(folder, local_files_only=True, padding_side='left')
    with TemporaryDirectory() as directory:
        copy = Path(directory)
        for file in folder.iterdir():
            if file.suffix in ('.json', '.txt', '.jinja') and file.name != _IMAGES:
                shutil.copy(file, copy)
        settings = json.loads((folder / _IMAGES).read_text())
        del settings['image_processor_type']
        (copy / _IMAGES).write_text(json.dumps(settings))
        return _processors.from_pretrained(copy, local_files_only=True, padding_side='left')


def _named_class(file: Path) -> str | None:
    """Return the class that a file of an image processor's settings names, if it does."""
    if not file.is_file():
        return None
    named: str | None = json.loads(file.read_text()).get('image_processor_type')
    return named


def chat_text(processor: Any, prompt: str, options: Mapping[str, Any] | None = None) -> str:
    """Apply the chat template: one image placeholder, then the prompt.

    Args:
        processor: of transformers.
        prompt: the dialect's.
        options: what the template is given beside the message: `Dialect.template_options`.
    """
    content = [{'type': 'image'}, {'type': 'text', 'text': prompt}]
    text: str = processor.apply_chat_template(
        [{'role': 'user', 'content': content}],
        tokenize=False,
        add_generation_prompt=True,
        **(options or {}),
    )
    return text


def opens_reasoning(prompt: str) -> bool:
    """Return whether a prompt ends inside the reasoning, as those of thinking models do."""
    return prompt.rstrip().endswith('<think>')


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def _processor_error(checkpoint: Checkpoint, what: str, why: str) -> ReasonerUnavailable:
    return ReasonerUnavailable(
        f'The processor of the checkpoint in {checkpoint.folder} {what}: {why}. {_FETCH}'
    )


def _token_id(tokenizer: Any, token: str) -> int | None:
    """Return the id of a token; None if the tokenizer does not have it."""
    number: int | None = tokenizer.get_added_vocab().get(token, tokenizer.get_vocab().get(token))
    return number


def _set_special_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Set missing end and padding tokens of a tokenizer; return the ids that end an answer."""
    turn_end = _token_id(tokenizer, _TURN_END)
    if tokenizer.eos_token_id is None and turn_end is not None:
        tokenizer.eos_token = _TURN_END
    if tokenizer.pad_token_id is None:
        padding = _PADDING if _token_id(tokenizer, _PADDING) is not None else tokenizer.eos_token
        if padding is not None:
            tokenizer.pad_token = padding
    # A base model's eos token differs from the chat template's end of turn.
    ends = dict.fromkeys([turn_end, tokenizer.eos_token_id])
    return tuple(token for token in ends if token is not None)


def _image_token(checkpoint: Checkpoint, processor: Any) -> int:
    """Return the image placeholder's id, on which tokenizer and model must agree."""
    token = processor.image_token
    number = _token_id(processor.tokenizer, token)
    if number is None or processor.tokenizer(token)['input_ids'] != [number]:
        raise _processor_error(
            checkpoint, 'has no place for an image', f'its tokenizer has no token {token}'
        )
    stated = checkpoint.config.get('image_token_id')
    if stated not in (None, number):
        raise _processor_error(
            checkpoint,
            'is of another model',
            f'{token} is its token {number}, and {stated} in config.json',
        )
    return number


def _check_prompt(
    checkpoint: Checkpoint, processor: Any, dialect: Dialect, vocabulary: int
) -> None:
    """Check that the template makes a prompt with one image and known tokens."""
    if processor.chat_template is None:
        raise _processor_error(
            checkpoint,
            'has no chat template',
            'it stands neither in chat_template.jinja or chat_template.json nor in '
            'tokenizer_config.json, and without it nothing can be asked',
        )
    prompt = dialect.prompt(_QUESTION, control_tokens(processor))
    try:
        text = chat_text(processor, prompt, dialect.template_options)
    except Exception as error:
        # Templates are programs and may raise any error.
        why = f'it fails on a question about an image, with {one_line(error)}'
        raise _processor_error(checkpoint, 'has an unfit chat template', why) from error
    if text.count(processor.image_token) != 1 or prompt not in text:
        why = 'what it makes of a question about an image is not one image and the question'
        raise _processor_error(checkpoint, 'has an unfit chat template', why)
    highest = max(processor.tokenizer(text)['input_ids'])
    if highest >= vocabulary:
        why = f'its tokenizer has a token {highest}, but the model knows {vocabulary}'
        raise _processor_error(checkpoint, 'is of another model', why)


def _bounded(checkpoint: Checkpoint, image_processor: Any, dialect: Dialect) -> Dialect:
    """Move an image processor's bounds on the image size to the dialect.

    Images are resized once, before the image processor: to the dialect's square, on which its
    checkpoints were trained whatever the file states, or within the checkpoint's own bounds.
    """
    size = image_processor.size
    min_pixels = _bound(size, 'shortest_edge', 'min_pixels')
    max_pixels = _bound(size, 'longest_edge', 'max_pixels')
    smallest = (image_processor.patch_size * image_processor.merge_size) ** 2
    largest = max(max_pixels or 0, _PUBLISHED_TOKENS * dialect.grid**2)
    image_processor.size = type(size)(shortest_edge=smallest, longest_edge=largest)
    if not image_processor.do_resize:
        return dialect
    if dialect.square:
        area = dialect.square**2
        if not (min_pixels or 0) <= area <= (max_pixels or area):
            _logger.warning(
                'The image processor of %s is bound to %s to %s pixels; images are shown at '
                '%dx%d all the same, as dialect %s was trained.',
                checkpoint.folder,
                min_pixels,
                max_pixels,
                dialect.square,
                dialect.square,
                dialect.name,
            )
        return dialect
    bounded = dialect.bounded(min_pixels, max_pixels)
    if bounded != dialect:
        _logger.info(
            'Images are resized to %d to %d pixels, as the image processor of %s is bound to',
            bounded.min_pixels,
            bounded.max_pixels,
            checkpoint.folder,
        )
    return bounded


def _bound(size: Any, name: str, former: str) -> int | None:
    """Return one bound of an image processor, by its current or former name."""
    value = size.get(name) or size.get(former)
    return value if isinstance(value, int) and value > 0 else None


def _check_image(
    checkpoint: Checkpoint, image_processor: Any, vision: Any, dialect: Dialect
) -> None:
    """Check that the model gets images of the size in which its coordinates are parsed."""
    for name, theirs in (
        ('patch_size', vision.patch_size),
        ('merge_size', vision.spatial_merge_size),
        ('temporal_patch_size', vision.temporal_patch_size),
    ):
        own = getattr(image_processor, name)
        if own != theirs:
            why = f'its {name} is {own}, and {theirs} in config.json'
            raise _processor_error(checkpoint, 'is of another model', why)
    width, height = dialect.image_size(640, 480)
    side = image_processor.patch_size
    image = np.zeros((height, width, 3), np.uint8)
    try:
        grid = image_processor(images=[image], return_tensors='pt')['image_grid_thw']
    except Exception as error:
        raise _processor_error(checkpoint, 'cannot read an image', one_line(error)) from error
    resized_to = int(grid[0, 2]) * side, int(grid[0, 1]) * side
    if resized_to != (width, height):
        raise _processor_error(
            checkpoint,
            'is not of this dialect',
            f'it makes {resized_to[0]}x{resized_to[1]} pixels of the {width}x{height} of dialect '
            f'{dialect.name}, so every box would be off',
        )
