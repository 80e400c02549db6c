"""A random checkpoint whose head is fitted so that the model itself writes a given answer.

A scripted head (`random_checkpoints.ScriptedHead`) exists in this process only. Servers and other
runtimes load weights, so here the weights write the answer: the language model is random, and its
head is the ridge regression from the hidden states of the answer's positions to its tokens. Every
runtime then writes the same text, drafts are accepted as they would be in that text, and rounding
shows as other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.random_checkpoints import config_of, script
from scripts.make_tiny_checkpoints import example_pairs, make_processor
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.types import RgbImage

QUERY = 'something to drink from'
_SIDE = 840
# Of random weights relative to transformers' own initialisation, the last two divided by the root
# of the inputs: hidden states of equal tokens in different places have to differ by much more than
# bfloat16 rounds.
_EMBEDDING_GAIN, _GAIN, _ATTENTION_GAIN = 50.0, 50.0, 75.0
_RIDGE = 1e-3
# A power of two, which changes no choice: the head's mean weight is then about a published one's,
# 0.02, and not too small for float16.
_HEAD_GAIN = 256.0


@dataclass(frozen=True)
class Fitted:
    """A checkpoint and what it answers.

    Attributes:
        folder: of the checkpoint, bfloat16.
        image: (840, 840, 3) uint8, as the models get it.
        prompt: the text after the image.
        prompt_tokens: number of tokens of the prompt with the image.
        answer: the answer's tokens, the end token included.
        text: the answer without the end token.
        tokenizer: of the checkpoint.
    """

    folder: Path
    image: RgbImage
    prompt: str
    prompt_tokens: int
    answer: list[int]
    text: str
    tokenizer: Any


def make_fitted(folder: Path, size: str, reasoning_tokens: int, objects: int = 1) -> Fitted:
    """Save a random Qwen2.5-VL that writes a random answer about a random image.

    Args:
        folder: is created.
        size: one of `random_checkpoints.SHAPES`.
        reasoning_tokens: number of tokens before the answer.
        objects: in the answer.
    """
    processor: Any = make_processor('qwen2_5_vl', example_pairs())
    image = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    prompt = dialect_named('vision_reasoner').prompt(QUERY)
    content = [{'type': 'image'}, {'type': 'text', 'text': prompt}]
    chat = processor.apply_chat_template(
        [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
    )
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    inputs = processor(text=[chat], images=[pixels], return_tensors='pt')
    answer = script(processor.tokenizer, objects, reasoning_tokens, Random(0))
    model = _random_model(size, processor)
    _fit_head(model, inputs, answer)
    # 16-bit weights, as published.
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return Fitted(
        folder,
        image,
        prompt,
        inputs['input_ids'].shape[1],
        answer,
        processor.tokenizer.decode(answer[:-1]),
        processor.tokenizer,
    )


@torch.no_grad()
def _random_model(size: str, processor: Any) -> Any:
    """Return a random float32 model whose weights bfloat16 can hold."""
    torch.manual_seed(0)
    config = config_of(size, processor)
    config.dtype = torch.float32
    model: Any = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    for name, weight in model.model.language_model.named_parameters():
        if 'embed' in name:
            weight.mul_(_EMBEDDING_GAIN)
        elif weight.dim() == 2:
            attention = 'q_proj' in name or 'k_proj' in name
            gain = _ATTENTION_GAIN if attention else _GAIN
            weight.mul_(gain / weight.shape[1] ** 0.5)
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    return model


@torch.no_grad()
def _fit_head(model: Any, inputs: Any, answer: list[int]) -> None:
    tokens = torch.tensor([answer])
    prompt_tokens = inputs['input_ids'].shape[1]
    ids = torch.cat([inputs['input_ids'], tokens], 1)
    kinds = torch.cat([inputs['mm_token_type_ids'], torch.zeros_like(tokens)], 1)
    output = model.model(
        **{
            **inputs,
            'input_ids': ids,
            'mm_token_type_ids': kinds,
            'attention_mask': torch.ones_like(ids),
        }
    )
    states = output.last_hidden_state[0, prompt_tokens - 1 : -1].double()
    wanted = torch.nn.functional.one_hot(tokens[0], model.lm_head.out_features).double()
    products = states @ states.T
    products += _RIDGE * products.diagonal().mean() * torch.eye(len(products)).double()
    head = torch.linalg.solve(products, wanted).T @ states
    model.lm_head.weight.copy_((_HEAD_GAIN * head).bfloat16())
