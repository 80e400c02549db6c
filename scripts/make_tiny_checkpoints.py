"""Make small checkpoints of Qwen's vision models that have memorised a few answers.

They have the published architectures, processors, chat template, prompts and file layout, to test
code for published checkpoints without one. About twenty seconds each on one core.

    python scripts/make_tiny_checkpoints.py out/tiny
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.types import RgbImage, Task

ARCHITECTURES = ('qwen2_5_vl', 'qwen2_vl', 'qwen3_vl', 'qwen3_5')
SPECIAL_TOKENS = [
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|image_pad|>',
    '<|video_pad|>',
]
_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}"
    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}'
)
_MESSAGES = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    '<|im_end|>\n{% endfor %}'
)
_REPLY = '{% if add_generation_prompt %}<|im_start|>assistant\n'
# As the published checkpoints' templates, for messages with images, videos and text. Qwen3-VL's
# writes no system message; Qwen3.5's opens the reasoning, or closes it at once.
CHAT_TEMPLATE = _SYSTEM + _MESSAGES + _REPLY + '{% endif %}'
_QWEN3_VL_TEMPLATE = _MESSAGES + _REPLY + '{% endif %}'
THINKING_TEMPLATE = _MESSAGES + _REPLY + '<think>\n{% endif %}'
_QWEN3_5_TEMPLATE = (
    _MESSAGES
    + _REPLY
    + '{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n'
    '{% else %}<think>\n{% endif %}{% endif %}'
)
# Those whose image processor and answers are Qwen3-VL's, with their templates.
_QWEN3 = {'qwen3_vl': _QWEN3_VL_TEMPLATE, 'qwen3_5': _QWEN3_5_TEMPLATE}
_WIDTH = 64
# Large enough that the random vision tower distinguishes images and training is fast.
_SPREAD = 0.15
_SURE = 0.95
_MAX_STEPS = 600


@dataclass(frozen=True, eq=False)
class Pair:
    """A memorised answer to a query about an image.

    Attributes:
        image: (H, W, 3) uint8, RGB order.
        query: the user's query.
        answer: the model's complete text, without the end token.
        dialect: of the prompt.
        task: of the prompt.
    """

    image: RgbImage
    query: str
    answer: str
    dialect: str = 'vision_reasoner'
    task: Task = Task.SEGMENT

    @property
    def prompt(self) -> str:
        """The text that follows the image."""
        return dialect_named(self.dialect).for_task(self.task).prompt(self.query)


def scene(width: int, height: int, *rectangles: tuple[int, int, int, int, str]) -> RgbImage:
    """Draw rectangles (x1, y1, x2, y2, colour) on a grey floor.

    Returns:
        (height, width, 3) uint8, RGB order.
    """
    image = np.full((height, width, 3), 110, np.uint8)
    image[height // 2 :] = 140
    colours = {'red': (200, 30, 30), 'blue': (30, 60, 200), 'green': (20, 150, 60)}
    for x1, y1, x2, y2, colour in rectangles:
        image[y1:y2, x1:x2] = colours[colour]
    return image


def written(image: RgbImage, thought: str, *boxes: tuple[int, int, int, int]) -> str:
    """Return an answer in VisionReasoner's format: boxes of the image, in pixels of 840 by 840."""
    height, width = image.shape[:2]
    scale = np.array([840 / width, 840 / height] * 2)
    items = []
    for box in boxes:
        x1, y1, x2, y2 = (int(value) for value in np.rint(np.array(box) * scale))
        middle = [(x1 + x2) // 2, (y1 + y2) // 2]
        items.append({'bbox_2d': [x1, y1, x2, y2], 'point_2d': middle})
    return f'<think>{thought}</think><answer>{json.dumps(items)}</answer>'


def example_pairs() -> list[Pair]:
    """Return pairs about three scenes: one scene twice, many objects, and none."""
    red, blue, green = (80, 150, 240, 330), (400, 180, 560, 380), (60, 40, 180, 200)
    left = scene(640, 480, (*red, 'red'), (*blue, 'blue'))
    right = scene(640, 480, (*blue, 'red'), (*green, 'green'))
    tall = scene(300, 700, (*green, 'blue'), (90, 400, 220, 600, 'blue'))
    return [
        Pair(left, 'the red box', written(left, 'The red box stands on the left.', red)),
        Pair(left, 'What is blue?', written(left, 'Blue is the box on the right.', blue)),
        Pair(right, 'the red box', written(right, 'Here the red box is on the right.', blue)),
        Pair(
            tall,
            'all boxes',
            written(tall, 'There are two boxes, both blue.', green, (90, 400, 220, 600)),
        ),
        Pair(tall, 'a zebra', written(tall, 'There is no zebra.')),
    ]


def qwen3_pairs(dialect: str) -> list[Pair]:
    """Return pairs about two scenes in Qwen3-VL's format: two objects, one, none, a point.

    Args:
        dialect: `qwen3_vl` or `qwen3_5`.
    """
    red, blue = (80, 150, 240, 330), (400, 180, 560, 380)
    left = scene(640, 480, (*red, 'red'), (*blue, 'blue'))
    right = scene(640, 480, (*blue, 'red'))

    def fenced(*boxes: tuple[int, int, int, int]) -> str:
        scale = np.array([1000 / 640, 1000 / 480] * 2)
        items = [
            {'bbox_2d': [int(value) for value in np.rint(np.array(box) * scale)], 'label': 'box'}
            for box in boxes
        ]
        return f'```json\n{json.dumps(items)}\n```'

    return [
        Pair(left, 'the red box', fenced(red), dialect),
        Pair(right, 'the red box', fenced(blue), dialect),
        Pair(left, 'all boxes', fenced(red, blue), dialect),
        Pair(right, 'a zebra', fenced(), dialect),
    ]


def make_tiny_qwen(
    folder: Path | str,
    architecture: str = 'qwen2_5_vl',
    pairs: Sequence[Pair] | None = None,
    seed: int = 0,
) -> Path:
    """Train a checkpoint on these answers, and save it in the layout of the Hub.

    Args:
        folder: is created.
        architecture: one of ARCHITECTURES.
        pairs: the answers; default: `example_pairs()`, or `qwen3_pairs()`.
        seed: for the weights.

    Returns:
        The folder.

    Raises:
        RuntimeError: training did not converge.
    """
    if pairs is None:
        pairs = qwen3_pairs(architecture) if architecture in _QWEN3 else example_pairs()
    pairs = list(pairs)
    processor = make_processor(architecture, pairs)
    threads = torch.get_num_threads()
    # More threads do not speed up a model of this size.
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        model = _model(architecture, processor.tokenizer)
        _learn(model, processor, pairs)
    finally:
        torch.set_num_threads(threads)
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_processor(architecture: str, pairs: Sequence[Pair]) -> Any:
    """Return a processor with the published image processing and a tokenizer for the pairs."""
    if architecture in _QWEN3:
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(
                patch_size=16,
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
                size={'shortest_edge': 65_536, 'longest_edge': 16_777_216},
            ),
            tokenizer=_tokenizer(pairs),
            video_processor=Qwen3VLVideoProcessor(),
            chat_template=_QWEN3[architecture],
        )
    kind = {'qwen2_5_vl': Qwen2_5_VLProcessor, 'qwen2_vl': Qwen2VLProcessor}[architecture]
    return kind(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=_tokenizer(pairs),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer(pairs: Sequence[Pair]) -> Any:
    """Train a tokenizer of the published kind on the texts; other text is tokenized by bytes.

    Texts are split as published and special tokens are last, so that `tokenizer.json` is
    equivalent to the `vocab.json` and `merges.txt` of published checkpoints.
    """
    from tokenizers import AddedToken, models, pre_tokenizers, Tokenizer, trainers

    published = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = published.normalizer
    tokenizer.pre_tokenizer = published.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    said = [pair.prompt + pair.answer for pair in pairs]
    tokenizer.train_from_iterator([*said, 'system user assistant You are a helpful'], trainer)
    learnt = json.loads(tokenizer.to_str())['model']
    made = Qwen2Tokenizer(
        vocab=learnt['vocab'],
        merges=[tuple(pair) for pair in learnt['merges']],
        unk_token=None,
        eos_token='<|im_end|>',
        pad_token='<|endoftext|>',
        padding_side='left',
    )
    made.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return made


def _model(architecture: str, tokenizer: Any) -> Any:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        'vocab_size': len(tokenizer),
        'hidden_size': _WIDTH,
        'intermediate_size': 2 * _WIDTH,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'num_key_value_heads': 1,
        'initializer_range': _SPREAD,
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': 10_000.0,
            'mrope_section': [4, 6, 6],
        },
        'max_position_embeddings': 32_768,
        'bos_token_id': None,
        'eos_token_id': ids['<|im_end|>'],
        'pad_token_id': ids['<|endoftext|>'],
    }
    vision: dict[str, Any] = {'depth': 3, 'num_heads': 2, 'initializer_range': _SPREAD}
    named_ids = {
        'image_token_id': ids['<|image_pad|>'],
        'video_token_id': ids['<|video_pad|>'],
        'vision_start_token_id': ids['<|vision_start|>'],
        'vision_end_token_id': ids['<|vision_end|>'],
        'tie_word_embeddings': False,
        'initializer_range': _SPREAD,
    }
    if architecture in _QWEN3:
        model: Any = _qwen3(architecture, text, vision, named_ids)
    elif architecture == 'qwen2_5_vl':
        vision |= {'hidden_size': 48, 'intermediate_size': 96, 'out_hidden_size': _WIDTH}
        vision |= {'fullatt_block_indexes': [2], 'window_size': 112}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **named_ids)
        model = Qwen2_5_VLForConditionalGeneration(config)
    else:
        vision |= {'embed_dim': 48, 'hidden_size': _WIDTH, 'mlp_ratio': 2}
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **named_ids)
        model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [ids['<|im_end|>'], ids['<|endoftext|>']]
    model.generation_config.pad_token_id = ids['<|endoftext|>']
    model.generation_config.bos_token_id = None
    return model


def _qwen3(
    architecture: str, text: dict[str, Any], vision: dict[str, Any], named_ids: dict[str, Any]
) -> Any:
    """Return a Qwen3-VL with deepstack, or a Qwen3.5 with a layer of each kind of attention."""
    vision |= {'hidden_size': 48, 'intermediate_size': 96, 'out_hidden_size': _WIDTH}
    vision |= {'num_position_embeddings': 64}
    rope = {'rope_type': 'default', 'rope_theta': 10_000.0, 'mrope_interleaved': True}
    text |= {'head_dim': 32, 'rope_parameters': rope | {'mrope_section': [6, 5, 5]}}
    if architecture == 'qwen3_vl':
        vision |= {'deepstack_visual_indexes': [0, 1]}
        return Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, **named_ids)
        )
    text |= {
        'rope_parameters': rope | {'mrope_section': [4, 2, 2], 'partial_rotary_factor': 0.5},
        'layer_types': ['linear_attention', 'full_attention'],
        'linear_num_key_heads': 2,
        'linear_num_value_heads': 4,
        'linear_key_head_dim': 16,
        'linear_value_head_dim': 16,
    }
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=vision, **named_ids)
    )


@dataclass(frozen=True)
class _Lesson:
    """The model inputs of one pair without the pixels, and the length of the answer."""

    inputs: dict[str, Any]
    answer: torch.Tensor

    def logits(self, model: Any) -> torch.Tensor:
        """Return the (tokens, vocabulary) logits for the answer."""
        # One example at a time: without padding there is no mask, and attention is much faster.
        count = len(self.answer)
        output = model(**self.inputs, use_cache=False, logits_to_keep=count + 1)
        logits: torch.Tensor = output.logits[0, :-1]
        return logits


def _learn(model: Any, processor: Any, pairs: Sequence[Pair]) -> None:
    """Train the language model until it is certain of all tokens, but not the vision tower."""
    model.model.visual.requires_grad_(False)
    lessons = [_lesson(model, processor, pair) for pair in pairs]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=10)
    for _ in range(_MAX_STEPS):
        optimizer.zero_grad()
        least = 1.0
        for lesson in lessons:
            logits = lesson.logits(model)
            torch.nn.functional.cross_entropy(logits, lesson.answer).backward()
            chances = logits.detach().softmax(-1).gather(1, lesson.answer[:, None])
            least = min(least, float(chances.min()))
        if least > _SURE:
            model.eval().requires_grad_(True)
            return
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    raise RuntimeError(
        f'The answers were not learnt in {_MAX_STEPS} steps; lowest probability {least:.2f}'
    )


def _lesson(model: Any, processor: Any, pair: Pair) -> _Lesson:
    dialect = dialect_named(pair.dialect)
    content = [{'type': 'image'}, {'type': 'text', 'text': pair.prompt}]
    prompt = processor.apply_chat_template(
        [{'role': 'user', 'content': content}],
        tokenize=False,
        add_generation_prompt=True,
        **dialect.template_options,
    )
    answer = f'{pair.answer}<|im_end|>'
    image = resize_for_model(dialect, pair.image).copy()
    inputs = dict(processor(text=[prompt + answer], images=[image], return_tensors='pt'))
    del inputs['attention_mask']
    with torch.no_grad():
        seen = model.get_image_features(
            inputs.pop('pixel_values'), inputs['image_grid_thw'], return_dict=True
        )
    count = len(processor.tokenizer(answer)['input_ids'])
    return _Lesson(
        inputs | {'mm_encoder_outputs': {'image': seen}}, inputs['input_ids'][0, -count:]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoints from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        'folder', type=Path, help='output folder, with one folder per architecture'
    )
    parser.add_argument('--architecture', nargs='+', choices=ARCHITECTURES, default=ARCHITECTURES)
    arguments = parser.parse_args(argv)
    for architecture in arguments.architecture:
        folder = make_tiny_qwen(arguments.folder / architecture, architecture)
        print(folder)


if __name__ == '__main__':
    main()
