"""Checkpoints of the published architecture with random weights, and text put into their mouths.

Speed does not depend on what the weights are, but on how many there are and how many tokens are
written; so the tokens are given, and each is still worked out in full before it is replaced.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
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


def script(
    tokenizer: Any, objects: int, thinking: int, random: Random, *, in_all: bool = False
) -> list[int]:
    """Return the tokens of an answer with so many objects, after at least so many of thinking.

    Its words follow each other by chance and its numbers are new each time, so that what was
    written before does not tell them; the list has the form that the prompt asks for.

    Args:
        tokenizer: the checkpoint's.
        objects: how many the answer names.
        thinking: tokens before the answer.
        random: where the words and numbers come from.
        in_all: `thinking` counts, to the token, what an answer with one object has in all.
    """
    answer = list(tokenizer(_answer(objects, random))['input_ids'])
    begin = list(tokenizer('<think>')['input_ids'])
    if in_all:
        thinking -= len(tokenizer(_answer(1, random))['input_ids'])
    if thinking < len(begin):
        raise ValueError(f'{thinking} tokens are too few to think, beside an object')
    words = [token for token in range(len(tokenizer)) if _is_word(tokenizer.decode([token]))]
    return begin + random.choices(words, k=thinking - len(begin)) + answer


def _is_word(text: str) -> bool:
    return text[:1] == ' ' and text[1:].isalpha()


def _answer(objects: int, random: Random) -> str:
    """Return an answer with boxes somewhere in 840 by 840 pixels, all numbers of three digits."""
    items = []
    for _ in range(objects):
        x, y = random.randint(100, 600), random.randint(100, 600)
        right, bottom = x + random.randint(40, 230), y + random.randint(40, 230)
        middle = [(x + right) // 2, (y + bottom) // 2]
        items.append({'bbox_2d': [x, y, right, bottom], 'point_2d': middle})
    return f'</think><answer>{json.dumps(items)}</answer><|im_end|>'


class ScriptedHead(torch.nn.Module):
    """A language model's head that works its logits out and then says what it is told to.

    All of it is tensors, so that it can be compiled and recorded with the model. Where several
    tokens are read in a step, which a CPU does with guessed ones, it says what follows each, and
    goes on behind those that were right; `steps` counts the readings there since `say`.
    """

    script: torch.Tensor
    place: torch.Tensor

    def __init__(self, model: Any, tokens: list[int]) -> None:
        """Take the place of the model's own head."""
        super().__init__()
        self.head = model.lm_head
        device = next(self.head.parameters()).device
        self.register_buffer('script', torch.zeros(4096, dtype=torch.long, device=device))
        self.register_buffer('place', torch.zeros(1, dtype=torch.long, device=device))
        # So that a recorded graph may write to it in place.
        torch._dynamo.mark_static_address(self.place)
        self._read: list[int] = []
        self.steps = 0
        model.lm_head = self
        self._hooks = []
        if device.type == 'cpu':
            words = model.get_input_embeddings()
            self._hooks.append(words.register_forward_pre_hook(self._see))
        self.say(tokens)

    def leave(self, model: Any) -> None:
        """Give the model its own head back."""
        for hook in self._hooks:
            hook.remove()
        model.lm_head = self.head

    def _see(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self._read = inputs[0].flatten().tolist()
        self.steps += 1

    def say(self, tokens: list[int]) -> None:
        """Begin with these tokens at the next step."""
        self.script.fill_(tokens[-1])
        self.script[: len(tokens)] = torch.tensor(tokens, device=self.script.device)
        self.place.zero_()
        self.steps = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits for hidden states, (..., tokens, width), the script's the highest."""
        logits = self.head(hidden)
        count = hidden.shape[-2]
        token = self.script.index_select(0, self.place + torch.arange(count, device=hidden.device))
        self.place.add_(1 if count == 1 else 1 + self._right(token.tolist()))
        said = torch.nn.functional.one_hot(token, logits.shape[-1]).to(logits.dtype)
        return logits + 1e4 * said

    def _right(self, said: list[int]) -> int:
        """Return how many of the tokens behind the first, all read now, are what is said."""
        guessed = self._read[1:]
        pairs = enumerate(zip(guessed, said, strict=False))
        return next((at for at, (guess, token) in pairs if guess != token), len(guessed))
