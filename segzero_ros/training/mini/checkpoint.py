"""Checkpoints of the mini reasoner for `reasoner_model:=`, in the layout of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from segzero_ros.training.mini.architecture import DEVIATION, MEAN
from segzero_ros.training.mini.geometry import PATCH, SIDE

# One query without a system prompt, as the model has only one task.
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
    """Return the processor for a tokenizer."""
    image_options = {
        'patch_size': PATCH,
        'merge_size': 1,
        'size': {'shortest_edge': SIDE * SIDE, 'longest_edge': SIDE * SIDE},
        'image_mean': [MEAN] * 3,
        'image_std': [DEVIATION] * 3,
    }
    make: Any = Qwen2_5_VLProcessor
    return make(
        image_processor=Qwen2VLImageProcessor(**image_options),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**image_options),
        chat_template=CHAT_TEMPLATE,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and processor with float16 weights; the model itself is unchanged."""
    weights = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    make_processor(tokenizer).save_pretrained(folder)
