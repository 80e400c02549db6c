"""A small reasoner as a folder that `reasoner_model:=` takes, laid out as the hub lays one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from segzero_ros.training.mini.architecture import DEVIATION, MEAN
from segzero_ros.training.mini.geometry import PATCH, SIDE

# One question, no system's words: the model knows but one task.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    '<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def make_processor(tokenizer: Any) -> Any:
    """Return the processor that goes with a tokenizer."""
    pictures = {
        'patch_size': PATCH,
        'merge_size': 1,
        'size': {'shortest_edge': SIDE * SIDE, 'longest_edge': SIDE * SIDE},
        'image_mean': [MEAN] * 3,
        'image_std': [DEVIATION] * 3,
    }
    make: Any = Qwen2_5_VLProcessor
    return make(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pictures),
        chat_template=CHAT_TEMPLATE,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and processor, the weights in half precision; the model stays as it is."""
    weights = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    make_processor(tokenizer).save_pretrained(folder)
