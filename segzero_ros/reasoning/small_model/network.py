"""The forward pass of a small Qwen2.5-VL about one square image, in float32.

Its vision tower sees the whole image in one window and does not merge patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Check = Callable[[], None]

# Fixed in transformers' vision tower.
_VISION_EPSILON = 1e-6
_THETA = 10_000.0
_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True)
class Prompt:
    """A query's tokens, with the image's features in place of its placeholder.

    Attributes:
        before: ids of the tokens before the image.
        features: (tokens, width) of the image, in rows of `grid`.
        after: ids of the tokens after the image.
        grid: rows (and columns) of the features.
    """

    before: Sequence[int]
    features: Array
    after: Sequence[int]
    grid: int


class VisionTower:
    """Encodes an image as features, one for each patch.

    Args:
        config: `vision_config` of the checkpoint.
        weights: of the tower, by their names after `visual.`.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self._depth = int(config['depth'])
        self._heads = int(config['num_heads'])
        self._patch = int(config['patch_size'])
        # The two frames of an image are equal, so their weights can be added.
        kernel = weights['patch_embed.proj.weight'].sum(axis=2)
        self._embed = np.ascontiguousarray(kernel.reshape(len(kernel), -1).T)

    def encode(self, pixels: Array, check: Check) -> Array:
        """Return the features of an image.

        Args:
            pixels: (S, S, 3), normalised.
            check: called before each layer; raises to stop.

        Returns:
            (patches, width), row by row.
        """
        grid = len(pixels) // self._patch
        cells = pixels.reshape(grid, self._patch, grid, self._patch, 3).transpose(0, 2, 4, 1, 3)
        hidden = cells.reshape(grid * grid, -1) @ self._embed
        rotation = self._rotation(grid, hidden.shape[1] // self._heads)
        for number in range(self._depth):
            check()
            block = f'blocks.{number}.'
            hidden = hidden + self._attend(
                block + 'attn.', self._norm(block + 'norm1', hidden), rotation
            )
            normed = self._norm(block + 'norm2', hidden)
            gate = silu(self._linear(block + 'mlp.gate_proj', normed))
            up = self._linear(block + 'mlp.up_proj', normed)
            hidden = hidden + self._linear(block + 'mlp.down_proj', gate * up)
        inner = self._linear('merger.mlp.0', self._norm('merger.ln_q', hidden))
        return self._linear('merger.mlp.2', gelu(inner))

    def _attend(self, name: str, hidden: Array, rotation: tuple[Array, Array]) -> Array:
        count = len(hidden)
        parts = self._linear(name + 'qkv', hidden).reshape(count, 3, self._heads, -1)
        query, key, value = parts.transpose(1, 2, 0, 3)
        mixed = attend(rotate(query, rotation), rotate(key, rotation), value)
        return self._linear(name + 'proj', mixed.transpose(1, 0, 2).reshape(count, -1))

    def _rotation(self, grid: int, width: int) -> tuple[Array, Array]:
        side = np.arange(grid)
        positions = np.stack([np.repeat(side, grid), np.tile(side, grid)], axis=1)
        frequencies = _THETA ** -(np.arange(0, width // 2, 2) / (width // 2))
        return waves((positions[:, :, None] * frequencies).reshape(grid * grid, -1))

    def _linear(self, name: str, values: Array) -> Array:
        out: Array = values @ self._weights[name + '.weight'].T
        out += self._weights[name + '.bias']
        return out

    def _norm(self, name: str, values: Array) -> Array:
        return rms_norm(values, self._weights[name + '.weight'], _VISION_EPSILON)


class LanguageModel:
    """Predicts the next token, with the keys and values of one answer.

    Args:
        config: `text_config` of the checkpoint.
        weights: the language model's, by their names after `model.`, and `lm_head.weight`.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self._config = config
        self._weights = weights
        self._heads = int(config['num_attention_heads'])
        self._shared = self._heads // int(config['num_key_value_heads'])
        self._epsilon = float(config['rms_norm_eps'])
        rope = config['rope_parameters']
        width = int(config['hidden_size']) // self._heads
        self._frequencies = float(rope['rope_theta']) ** -(np.arange(0, width, 2) / width)
        self._axes = np.repeat(np.arange(3), rope['mrope_section'])
        self._layers = [self._layer(number) for number in range(int(config['num_hidden_layers']))]
        self._keys: list[Array] = []
        self._values: list[Array] = []
        self._length = self._position = 0

    def _layer(self, number: int) -> dict[str, Array]:
        """Return a layer's weights, those of the same input joined, as (inputs, outputs)."""
        get = self._weights
        attention, mlp = f'layers.{number}.self_attn.', f'layers.{number}.mlp.'
        qkv = [f'{attention}{one}_proj' for one in 'qkv']
        return {
            'input_norm': get[f'layers.{number}.input_layernorm.weight'],
            'qkv': _joined([get[f'{name}.weight'] for name in qkv]),
            'qkv_bias': np.concatenate([get[f'{name}.bias'] for name in qkv]),
            'output': _joined([get[f'{attention}o_proj.weight']]),
            'mlp_norm': get[f'layers.{number}.post_attention_layernorm.weight'],
            'gate_up': _joined([get[f'{mlp}gate_proj.weight'], get[f'{mlp}up_proj.weight']]),
            'down': _joined([get[f'{mlp}down_proj.weight']]),
        }

    def read(self, prompt: Prompt, room: int, check: Check) -> int:
        """Start an answer; return its first token.

        Args:
            prompt: the query and its image.
            room: most tokens of the answer.
            check: called before each layer; raises to stop.
        """
        table = self._weights['embed_tokens.weight']
        hidden = np.concatenate([table[prompt.before], prompt.features, table[prompt.after]])
        start, cells = len(prompt.before), np.arange(len(prompt.features))
        image = start + np.stack([0 * cells, cells // prompt.grid, cells % prompt.grid])
        after = start + prompt.grid + np.arange(len(prompt.after))
        positions = np.concatenate(
            [np.tile(np.arange(start), (3, 1)), image, np.tile(after, (3, 1))], axis=1
        )
        self._length, self._position = 0, start + prompt.grid + len(prompt.after)
        width = int(self._config['hidden_size']) // self._heads
        shape = (self._heads // self._shared, len(hidden) + room, width)
        self._keys = [np.empty(shape, np.float32) for _ in self._layers]
        self._values = [np.empty(shape, np.float32) for _ in self._layers]
        return self._next(hidden, positions, check)

    def write(self, token: int, check: Check) -> int:
        """Return the token after this one."""
        hidden = self._weights['embed_tokens.weight'][[token]]
        positions = np.full((3, 1), self._position)
        self._position += 1
        return self._next(hidden, positions, check)

    def _next(self, hidden: Array, positions: NDArray[np.int64], check: Check) -> int:
        rotation = waves(positions[self._axes].T * self._frequencies)
        for number, layer in enumerate(self._layers):
            check()
            normed = rms_norm(hidden, layer['input_norm'], self._epsilon)
            hidden = hidden + self._attend(number, normed, rotation) @ layer['output']
            normed = rms_norm(hidden, layer['mlp_norm'], self._epsilon)
            gate, up = np.split(normed @ layer['gate_up'], 2, axis=1)
            hidden = hidden + (silu(gate) * up) @ layer['down']
        self._length += len(hidden)
        last = rms_norm(hidden[-1], self._weights['norm.weight'], self._epsilon)
        return int(np.argmax(self._weights['lm_head.weight'] @ last))

    def _attend(self, number: int, hidden: Array, rotation: tuple[Array, Array]) -> Array:
        """Return the mixed values of new tokens, (tokens, width), and cache their keys."""
        layer, count = self._layers[number], len(hidden)
        parts = hidden @ layer['qkv'] + layer['qkv_bias']
        parts = parts.reshape(count, self._heads + 2 * (self._heads // self._shared), -1)
        parts = parts.transpose(1, 0, 2)
        query, rest = parts[: self._heads], parts[self._heads :]
        key, value = np.split(rest, 2)
        new = slice(self._length, self._length + count)
        self._keys[number][:, new], self._values[number][:, new] = rotate(key, rotation), value
        keys, values = (
            np.repeat(cached[number][:, : new.stop], self._shared, axis=0)
            if self._shared > 1
            else cached[number][:, : new.stop]
            for cached in (self._keys, self._values)
        )
        mixed = attend(rotate(query, rotation), keys, values, causal=count > 1)
        out: Array = mixed.transpose(1, 0, 2).reshape(count, -1)
        return out


def attend(query: Array, key: Array, value: Array, *, causal: bool = False) -> Array:
    """Return scaled dot-product attention, (heads, queries, width).

    Args:
        query: (heads, queries, width).
        key: (heads, keys, width).
        value: as the keys.
        causal: whether a query sees only the keys up to its own, counted from the last ones.
    """
    scores: Array = query @ key.transpose(0, 2, 1)
    scores *= np.float32(query.shape[-1] ** -0.5)
    if causal:
        queries, keys = scores.shape[1:]
        hidden = np.arange(keys) > np.arange(keys - queries, keys)[:, None]
        scores[:, hidden] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: Array = scores @ value
    return mixed


def waves(angles: NDArray[Any]) -> tuple[Array, Array]:
    """Return cosine and sine of angles in float32."""
    angles = angles.astype(np.float32)
    return np.cos(angles), np.sin(angles)


def rotate(states: Array, rotation: tuple[Array, Array]) -> Array:
    """Apply rotary embedding to (heads, tokens, width) by (tokens, width / 2) cosine and sine."""
    cosine, sine = rotation
    first, second = np.split(states, 2, axis=-1)
    return np.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def rms_norm(values: Array, weight: Array, epsilon: float) -> Array:
    """Return values of root mean square 1 along the last axis, times a weight."""
    square = np.mean(values * values, axis=-1, keepdims=True)
    scaled: Array = values / np.sqrt(square + np.float32(epsilon)) * weight
    return scaled


def silu(values: Array) -> Array:
    """Return the sigmoid linear unit."""
    # exp(88) is the largest of float32; below, the result is 0 all the same.
    out: Array = values / (1 + np.exp(-np.maximum(values, -88)))
    return out


def gelu(values: Array) -> Array:
    """Return the Gaussian error linear unit, exactly."""
    out: Array = values * (0.5 + 0.5 * _erf(values * math.sqrt(0.5)).astype(np.float32))
    return out


def _joined(matrices: Sequence[Array]) -> Array:
    """Return (outputs, inputs) matrices of the same input as one of (inputs, outputs)."""
    return np.ascontiguousarray(np.concatenate(matrices).T)
