"""Random checkpoints of the published architecture, with scripted output.

Speed depends on the number of weights and tokens, not on their values; so each token is computed
completely and then replaced by a given one.
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

# Name: language model (width, layers, heads, KV heads, inner width), vision tower (width, depth,
# heads, inner width), vocabulary. The published shapes, one for two CPU cores, and one for testing
# the benchmark itself.
SHAPES = {
    'small': ((128, 2, 2, 1, 256), (48, 4, 2, 96), 1024),
    'mid': ((512, 16, 8, 2, 2048), (320, 16, 5, 856), 8192),
    '3b': ((2048, 36, 16, 2, 11008), (1280, 32, 16, 3420), 151_936),
    '7b': ((3584, 28, 28, 4, 18944), (1280, 32, 16, 3420), 152_064),
}


def make_random(folder: Path, size: str, device: str = 'cpu') -> Path:
    """Save a random bfloat16 Qwen2.5-VL of this size; return the folder."""
    processor = make_processor('qwen2_5_vl', example_pairs())
    with torch.device(device):
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = transformers.Qwen2_5_VLForConditionalGeneration(config_of(size, processor))
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
    """Save a random SAM 2 with a configuration of its package; return the file.

    Args:
        folder: is created.
        config: in the package, such as `sam2/sam2_hiera_l.yaml`.
        device: to build it on.
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


def config_of(size: str, processor: Any) -> Any:
    """Return the configuration of a Qwen2.5-VL of this size, with a processor's tokens."""
    text, vision, vocabulary = SHAPES[size]
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
            'hidden_size': vision[0],
            'depth': vision[1],
            'num_heads': vision[2],
            'intermediate_size': vision[3],
            'out_hidden_size': width,
            'fullatt_block_indexes': [vision[1] * part // 4 - 1 for part in (1, 2, 3, 4)],
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
    """Return the tokens of an answer in the prompted format, with reasoning.

    Its words and numbers are random, so that speculation from earlier text does not predict them.

    Args:
        tokenizer: of the checkpoint.
        objects: number of objects.
        thinking: minimum number of reasoning tokens.
        random: for words and numbers.
        in_all: whether `thinking` is the exact total number of tokens of an answer with one
            object.
    """
    answer = list(tokenizer(_answer(objects, random))['input_ids'])
    begin = list(tokenizer('<think>')['input_ids'])
    if in_all:
        thinking -= len(tokenizer(_answer(1, random))['input_ids'])
    if thinking < len(begin):
        raise ValueError(f'{thinking} tokens are too few for reasoning and an object')
    words = [token for token in range(len(tokenizer)) if _is_word(tokenizer.decode([token]))]
    return begin + random.choices(words, k=thinking - len(begin)) + answer


def _is_word(text: str) -> bool:
    return text[:1] == ' ' and text[1:].isalpha()


def _answer(objects: int, random: Random) -> str:
    """Return an answer with boxes in 840 by 840 pixels, with three-digit numbers."""
    items = []
    for _ in range(objects):
        x, y = random.randint(100, 600), random.randint(100, 600)
        right, bottom = x + random.randint(40, 230), y + random.randint(40, 230)
        middle = [(x + right) // 2, (y + bottom) // 2]
        items.append({'bbox_2d': [x, y, right, bottom], 'point_2d': middle})
    return f'</think><answer>{json.dumps(items)}</answer><|im_end|>'


class ScriptedHead(torch.nn.Module):
    """A language model head that computes its logits and then replaces them by a script.

    It uses only tensors, so that it can be compiled and captured in a graph with the model. With
    several tokens in a step (speculation on a CPU) it returns the next token for each, and
    continues after the accepted ones; `steps` counts these steps since `say`.
    """

    script: torch.Tensor
    position: torch.Tensor

    def __init__(self, model: Any, tokens: list[int]) -> None:
        """Replace the model's head."""
        super().__init__()
        self.head = model.lm_head
        device = model.get_input_embeddings().weight.device
        self.register_buffer('script', torch.zeros(4096, dtype=torch.long, device=device))
        self.register_buffer('position', torch.zeros(1, dtype=torch.long, device=device))
        # A captured graph writes to it in position.
        torch._dynamo.mark_static_address(self.position)
        self._read: list[int] = []
        self.steps = 0
        model.lm_head = self
        self._hooks = []
        if device.type == 'cpu':
            words = model.get_input_embeddings()
            self._hooks.append(words.register_forward_pre_hook(self._see))
        self.say(tokens)

    def leave(self, model: Any) -> None:
        """Restore the model's head."""
        for hook in self._hooks:
            hook.remove()
        model.lm_head = self.head

    def _see(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self._read = inputs[0].flatten().tolist()
        self.steps += 1

    def say(self, tokens: list[int]) -> None:
        """Set the tokens to generate from the next step on."""
        self.script.fill_(tokens[-1])
        self.script[: len(tokens)] = torch.tensor(tokens, device=self.script.device)
        self.position.zero_()
        self.steps = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits for (..., tokens, width) hidden states; the scripted tokens win."""
        logits = self.head(hidden)
        count = hidden.shape[-2]
        token = self.script.index_select(
            0, self.position + torch.arange(count, device=hidden.device)
        )
        self.position.add_(1 if count == 1 else 1 + self._right(token.tolist()))
        said = torch.nn.functional.one_hot(token, logits.shape[-1]).to(logits.dtype)
        return logits + 1e4 * said

    def _right(self, said: list[int]) -> int:
        """Return how many of the speculated tokens of this step match the script."""
        guessed = self._read[1:]
        pairs = enumerate(zip(guessed, said, strict=False))
        return next((at for at, (guess, token) in pairs if guess != token), len(guessed))
