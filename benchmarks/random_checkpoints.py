"""Checkpoints of the published architecture with random weights, and text put into their mouths.

Speed does not depend on what the weights are, but on how many there are and how many tokens are
written; so the tokens are given, and each is still worked out in full before it is replaced.
"""

from __future__ import annotations

import json
from pathlib import Path
import shutil
from typing import Any

import torch
import transformers

from scripts.make_tiny_checkpoints import example_pairs, make_processor, SPECIAL_TOKENS

# Name: language model (width, layers, heads, key heads, inner width), eyes (width, depth, heads,
# inner width), vocabulary. The published shapes, one that two CPU cores can carry, and one to try
# the benchmark itself with.
SHAPES = {
    'small': ((64, 2, 2, 1, 128), (48, 4, 2, 96), 1024),
    'mid': ((512, 16, 8, 2, 2048), (320, 16, 5, 856), 8192),
    '3b': ((2048, 36, 16, 2, 11008), (1280, 32, 16, 3420), 151_936),
    '7b': ((3584, 28, 28, 4, 18944), (1280, 32, 16, 3420), 152_064),
}


def make_random(folder: Path, size: str, device: str = 'cpu') -> Path:
    """Save a Qwen2.5-VL of this size with random bfloat16 weights; return the folder."""
    processor = make_processor('qwen2_5_vl', example_pairs())
    with torch.device(device):
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = transformers.Qwen2_5_VLForConditionalGeneration(_config(size, processor))
        finally:
            torch.set_default_dtype(before)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    del model
    if device != 'cpu':
        # What the next ones find free is what `mem_get_info` says, not what torch keeps.
        torch.cuda.empty_cache()
    return folder


def make_random_sam2(folder: Path, config: str, device: str = 'cpu') -> Path:
    """Save a SAM 2 with random weights, as the package itself configures one; return the file.

    Args:
        folder: made if it is not there.
        config: inside the package, such as `sam2/sam2_hiera_l.yaml`.
        device: where it is built.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    import sam2

    source = Path(sam2.__file__).parent / 'configs' / config
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = instantiate(OmegaConf.load(source).model, _recursive_=True)
    weights = folder / 'random_sam2.pt'
    torch.save({'model': model.state_dict()}, weights)
    shutil.copy(source, weights.with_suffix('.yaml'))
    return weights


def _config(size: str, processor: Any) -> Any:
    text, eyes, vocabulary = SHAPES[size]
    width, layers, heads, key_heads, inner = text
    ids = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    head_width = width // heads
    return transformers.Qwen2_5_VLConfig(
        text_config={
            'vocab_size': vocabulary,
            'hidden_size': width,
            'intermediate_size': inner,
            'num_hidden_layers': layers,
            'num_attention_heads': heads,
            'num_key_value_heads': key_heads,
            'max_position_embeddings': 32_768,
            'bos_token_id': None,
            'eos_token_id': ids['<|im_end|>'],
            'pad_token_id': ids['<|endoftext|>'],
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 1_000_000.0,
                'mrope_section': [head_width // 8, head_width * 3 // 16, head_width * 3 // 16],
            },
        },
        vision_config={
            'hidden_size': eyes[0],
            'depth': eyes[1],
            'num_heads': eyes[2],
            'intermediate_size': eyes[3],
            'out_hidden_size': width,
            'fullatt_block_indexes': [eyes[1] * part // 4 - 1 for part in (1, 2, 3, 4)],
            'window_size': 112,
        },
        image_token_id=ids['<|image_pad|>'],
        video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids['<|vision_start|>'],
        vision_end_token_id=ids['<|vision_end|>'],
        tie_word_embeddings=size == '3b',
        dtype='bfloat16',
    )


def script(tokenizer: Any, objects: int, thinking: int, *, in_all: bool = False) -> list[int]:
    """Return the tokens of an answer with so many objects, after at least so many of thinking.

    Args:
        tokenizer: the checkpoint's.
        objects: how many the answer names.
        thinking: tokens before the answer.
        in_all: `thinking` counts, to the token, what an answer with one object has in all.
    """
    thought = '<think>'
    while len(tokenizer(thought)['input_ids']) < thinking:
        thought += ' The red box stands on the left.'
    if not in_all:
        whole: list[int] = tokenizer(thought + _answer(objects))['input_ids']
        return whole
    spare = thinking - len(tokenizer(_answer(1))['input_ids'])
    if spare < len(tokenizer('<think>')['input_ids']):
        raise ValueError(f'{thinking} tokens are too few for an answer with an object')
    kept: list[int] = tokenizer(thought)['input_ids'][:spare]
    return kept + list(tokenizer(_answer(objects))['input_ids'])


def _answer(objects: int) -> str:
    items = [
        {'bbox_2d': [60 + 90 * n, 200, 140 + 90 * n, 520], 'point_2d': [100 + 90 * n, 360]}
        for n in range(objects)
    ]
    return f'</think><answer>{json.dumps(items)}</answer><|im_end|>'


class ScriptedHead(torch.nn.Module):
    """A language model's head that works its logits out and then says what it is told to.

    All of it is tensors, so that it can be compiled and recorded with the model.
    """

    script: torch.Tensor
    place: torch.Tensor

    def __init__(self, head: torch.nn.Module, tokens: list[int]) -> None:
        super().__init__()
        self.head = head
        device = next(head.parameters()).device
        self.register_buffer('script', torch.zeros(4096, dtype=torch.long, device=device))
        self.register_buffer('place', torch.zeros(1, dtype=torch.long, device=device))
        # So that a recorded graph may write to it in place.
        torch._dynamo.mark_static_address(self.place)
        self.say(tokens)

    def say(self, tokens: list[int]) -> None:
        """Begin with these tokens at the next step."""
        self.script.fill_(tokens[-1])
        self.script[: len(tokens)] = torch.tensor(tokens, device=self.script.device)
        self.place.zero_()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits of the hidden states' shape, the scripted token's the highest."""
        logits = self.head(hidden)
        token = self.script.index_select(0, self.place)
        self.place.add_(1)
        said = torch.nn.functional.one_hot(token, logits.shape[-1]).to(logits.dtype)
        return logits + 1e4 * said
