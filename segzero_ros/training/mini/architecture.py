"""The mini reasoner: a small Qwen2.5-VL, and fast forward passes for its training.

Patches of 16 pixels are not merged, for a fine token grid in a small image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from segzero_ros.reasoning.patch_position_codes import with_position_codes
from segzero_ros.training.mini.geometry import GRID, PATCH, SIDE, TOKENS
from segzero_ros.training.mini.vocabulary import (
    END,
    IMAGE,
    number_ids,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
)

WIDTH = 160
HEADS = 5
_VISION_LAYERS = 6
_LANGUAGE_LAYERS = 4
_INNER = 448
# Pairs of a head's dimensions for time, row and column in the rotary embedding.
SECTIONS = (4, 6, 6)
_INITIALIZER_RANGE = 0.04
# The layer whose first head is trained to attend to the object that is being generated.
_POINTING_LAYER = 2
# Cosines in the initial embeddings of coordinates.
_FREQUENCIES = 48
# Image mean and standard deviation of the processor.
MEAN, DEVIATION = 0.5, 0.5


def new_model(tokenizer: Any, seed: int) -> Any:
    """Return an untrained model, under 4 million parameters.

    Args:
        tokenizer: defines the vocabulary.
        seed: for the weights.
    """
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (END, PAD, IMAGE, VIDEO)}
    text = {
        'vocab_size': len(tokenizer),
        'hidden_size': WIDTH,
        'intermediate_size': _INNER,
        'num_hidden_layers': _LANGUAGE_LAYERS,
        'num_attention_heads': HEADS,
        'num_key_value_heads': HEADS,
        'initializer_range': _INITIALIZER_RANGE,
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': 10_000.0,
            'mrope_section': list(SECTIONS),
        },
        'max_position_embeddings': 2048,
        'bos_token_id': None,
        'eos_token_id': ids[END],
        'pad_token_id': ids[PAD],
    }
    vision = {
        'depth': _VISION_LAYERS,
        'hidden_size': WIDTH,
        'num_heads': HEADS,
        'intermediate_size': _INNER,
        'out_hidden_size': WIDTH,
        'patch_size': PATCH,
        'spatial_merge_size': 1,
        'window_size': SIDE,
        'fullatt_block_indexes': [_VISION_LAYERS - 1],
        'initializer_range': _INITIALIZER_RANGE,
    }
    # initializer_range is an argument of the base class.
    settings: dict[str, Any] = {
        'tie_word_embeddings': False,
        'initializer_range': _INITIALIZER_RANGE,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),
        **settings,
    )
    torch.manual_seed(seed)
    model: Any = Qwen2_5_VLForConditionalGeneration(config)
    _embed_coordinates(model, torch.tensor(number_ids(tokenizer)))
    model.generation_config.eos_token_id = [ids[END], ids[PAD]]
    model.generation_config.pad_token_id = ids[PAD]
    model.generation_config.bos_token_id = None
    return model


def _embed_coordinates(model: Any, ids: torch.Tensor) -> None:
    """Initialise the embeddings of coordinates so that near ones are similar.

    Args:
        model: its input and output embeddings are changed.
        ids: (2, SIDE + 1) ids of the coordinate tokens in order.
    """
    frequencies = torch.arange(1, _FREQUENCIES + 1)
    angles = torch.arange(SIDE + 1)[:, None] * frequencies * (torch.pi / SIDE)
    codes = functional.normalize(angles.cos() / (1 + frequencies / 4).sqrt(), dim=-1)
    for table in (model.get_input_embeddings(), model.lm_head):
        mixing = torch.randn(_FREQUENCIES, WIDTH) * 2 * _INITIALIZER_RANGE
        with torch.no_grad():
            table.weight[ids] += codes @ mixing


def model_images(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return (B, SIDE, SIDE, 3) uint8 images with the dialect's position codes."""
    return torch.from_numpy(with_position_codes(images, PATCH))


def patches_of(images: torch.Tensor) -> torch.Tensor:
    """Return (B, TOKENS, 3 · PATCH · PATCH) float32 patches of `model_images`.

    They equal the processor's, without the second of the two equal frames.
    """
    pixels = images.float().div_(255).sub_(MEAN).div_(DEVIATION)
    cells = pixels.reshape(-1, GRID, PATCH, GRID, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(len(images), TOKENS, -1)


class FastVisionTower(nn.Module):
    """Batched forward pass of a vision tower for images of one size.

    transformers' forward pass attends to one image after the other and uses a 3-D convolution,
    which is slow on a CPU. Weights and results are the same.
    """

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        config = visual.config
        side = torch.arange(GRID)
        rows, columns = side.repeat_interleave(GRID), side.repeat(GRID)
        head = config.hidden_size // config.num_heads
        inverse_frequencies = 1.0 / 10_000.0 ** (
            torch.arange(0, head // 2, 2).float() / (head // 2)
        )
        angles = torch.stack([rows, columns], 1)[..., None] * inverse_frequencies
        angles = angles.flatten(1)[:, None, None]
        self.register_buffer('cosine', angles.cos(), persistent=False)
        self.register_buffer('sine', angles.sin(), persistent=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return (B, TOKENS, WIDTH) features of (B, TOKENS, pixels) patches."""
        # The two frames of an image are equal, so their weights can be added.
        weight = self.visual.patch_embed.proj.weight.sum(2).flatten(1)
        hidden = functional.linear(patches, weight)
        for block in self.visual.blocks:
            hidden = hidden + self._attend(block.attn, _rms_norm(block.norm1, hidden))
            hidden = hidden + block.mlp(_rms_norm(block.norm2, hidden))
        features: torch.Tensor = self.visual.merger.mlp(_rms_norm(self.visual.merger.ln_q, hidden))
        return features

    def _attend(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        batch, count, width = hidden.shape
        parts = attention.qkv(hidden).view(batch, count, 3, attention.num_heads, -1)
        rotated, value = self._apply_rotary(parts[:, :, :2]), parts[:, :, 2].transpose(1, 2)
        query, key = rotated.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        out: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out

    def _apply_rotary(self, states: torch.Tensor) -> torch.Tensor:
        """Apply rotary embedding to (B, TOKENS, 2, heads, width) queries and keys."""
        cosine, sine = self.cosine.to(states.dtype), self.sine.to(states.dtype)
        first, second = states.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _rms_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return the result of transformers' RMS norm, in one operation."""
    weight = norm.weight.to(hidden.dtype)
    return functional.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)


class FastLanguageModel(nn.Module):
    """Fast forward pass of a language model for packed sequences.

    Weights and results are those of the model, as in `FastVisionTower`.
    """

    inverse_frequencies: torch.Tensor
    axes: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.language = model.model.language_model
        self.head = model.lm_head
        width = WIDTH // HEADS
        inverse_frequencies = 1.0 / 10_000.0 ** (torch.arange(0, width, 2).float() / width)
        axes = torch.repeat_interleave(torch.arange(3), torch.tensor(SECTIONS))
        self.register_buffer('inverse_frequencies', inverse_frequencies, persistent=False)
        self.register_buffer('axes', axes, persistent=False)

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden states and the attention of the pointing head.

        Args:
            hidden: (B, L, WIDTH) embedded tokens and image features.
            positions: (3, B, L) time, row and column of each token.
            mask: (B, 1, L, L) attention mask: 0 or -inf.

        Returns:
            (B, L, WIDTH), and (B, L, L) log attention weights of one head.
        """
        angles = positions[self.axes].permute(1, 2, 0) * self.inverse_frequencies
        cosine, sine = (
            wave[:, :, None, None].to(hidden.dtype) for wave in (angles.cos(), angles.sin())
        )
        mask = mask.to(hidden.dtype)
        for number, layer in enumerate(self.language.layers):
            normed = _rms_norm(layer.input_layernorm, hidden)
            query, key, value = self._project(layer.self_attn, normed, cosine, sine)
            if number == _POINTING_LAYER:
                scores = query[:, 0] @ key[:, 0].transpose(1, 2) * layer.self_attn.scaling
                attention = (scores.float() + mask[:, 0].float()).log_softmax(-1)
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            hidden = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(_rms_norm(layer.post_attention_layernorm, hidden))
        return _rms_norm(self.language.norm, hidden), attention

    def _project(
        self, attention: Any, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, (B, heads, L, width) each."""
        batch, length, _ = hidden.shape
        maps = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([each.weight for each in maps])
        parts = functional.linear(hidden, weight, torch.cat([each.bias for each in maps]))
        parts = parts.view(batch, length, 3, HEADS, -1)
        first, second = parts[:, :, :2].chunk(2, dim=-1)
        rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        query, key = rotated.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, parts[:, :, 2].transpose(1, 2)
