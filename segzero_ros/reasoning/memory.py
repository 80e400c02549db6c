"""Estimate a checkpoint's memory before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
import re
from typing import Any

from segzero_ros.reasoning.checkpoints import Checkpoint, ELSEWHERE
from segzero_ros.types import ReasonerUnavailable

GIB = 1024**3
# Bytes per weight of the language model's layers; the vision tower and the head are not quantised.
# Four-bit weights have a scale per block of 64.
QUANTIZED = {'bnb4': 0.5 + 4 / 64, 'bnb8': 1.0, 'int8': 1.0, 'fp8': 1.0}
# The CUDA context, libraries and graphs; a rule of thumb.
_GPU_OVERHEAD = 0.8 * GIB
_LAYER_WEIGHT = re.compile(r'layers\.\d+\..*weight$')


@dataclass(frozen=True)
class Needs:
    """Bytes that a loaded model takes.

    Attributes:
        weights: the weights.
        cache: keys and values of the prompt and answer.
        activations: the largest intermediate results, estimated.
        segmenter: the segmenter, where it is on the same device.
    """

    weights: int
    cache: int
    activations: int
    segmenter: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.cache + self.activations + self.segmenter

    def __str__(self) -> str:
        segmenter = f', {self.segmenter / GIB:.1f} the segmenter' if self.segmenter else ''
        return (
            f'{self.total / GIB:.1f} GiB ({self.weights / GIB:.1f} weights, '
            f'{self.cache / GIB:.1f} keys and values, {self.activations / GIB:.1f} activations'
            f'{segmenter})'
        )


def needs_of(
    checkpoint: Checkpoint,
    weight_bytes: int,
    tokens: int,
    image_tokens: int,
    quantization: str = '',
    on_gpu: bool = True,
) -> Needs:
    """Estimate a checkpoint's memory.

    Args:
        checkpoint: what would be loaded.
        weight_bytes: bytes per weight as loaded, before quantisation.
        tokens: most tokens of a prompt and its answer.
        image_tokens: how many of them are the image.
        quantization: as in `ReasonerOptions`.
        on_gpu: whether to add a GPU's overhead.
    """
    text = checkpoint.text_config
    heads = text['num_attention_heads']
    head_width = text.get('head_dim') or text['hidden_size'] // heads
    cache = 2 * _attention_layers(text) * text.get('num_key_value_heads', heads)
    cache *= head_width * tokens * weight_bytes
    vision = checkpoint.config.get('vision_config', {})
    activations = max(
        _activations(text, tokens, weight_bytes),
        _activations(vision, 4 * image_tokens, weight_bytes),
    )
    overhead = int(_GPU_OVERHEAD) if on_gpu else 0
    return Needs(_weights(checkpoint, weight_bytes, quantization), cache, activations + overhead)


def _attention_layers(text: dict[str, Any]) -> int:
    """Return how many layers keep keys and values; linear attention keeps a small state."""
    kinds = text.get('layer_types') or ()
    return sum(kind != 'linear_attention' for kind in kinds) or int(text['num_hidden_layers'])


def _weights(checkpoint: Checkpoint, weight_bytes: int, quantization: str) -> int:
    if checkpoint.quantized:
        return sum(tensor.size for tensor in checkpoint.tensors)
    layer_bytes = QUANTIZED.get(quantization, weight_bytes)
    total = 0.0
    for tensor in checkpoint.tensors:
        in_layer = _LAYER_WEIGHT.search(tensor.name) and 'visual' not in tensor.name
        total += tensor.count * (layer_bytes if in_layer else weight_bytes)
    return int(total)


def _activations(config: dict[str, Any], rows: int, weight_bytes: int) -> int:
    """Estimate a transformer's largest step: a block's inputs, its gates and float32 copies."""
    width = config.get('hidden_size', 0)
    inner = config.get('intermediate_size', 4 * width)
    return int(rows * (4 * width + 3 * inner) * (weight_bytes + 4))


def refuse_if_too_small(
    model: str, checkpoint: Checkpoint, needs: Needs, free: int, where: str, quantization: str
) -> None:
    """Raise ReasonerUnavailable, with the figures and what would help, if memory is too small."""
    if needs.total <= free:
        return
    options = ['a smaller checkpoint', 'a device with more memory']
    if where != 'memory' and not quantization and not checkpoint.quantized:
        smallest = _weights(checkpoint, 2, 'bnb4') / GIB
        options.insert(
            0, f'reasoner.quantization:=bnb4 (about {smallest:.1f} GiB of weights) or int8'
        )
    raise ReasonerUnavailable(
        f'{model} needs about {needs}, but {where} has {free / GIB:.1f} GiB free. What would '
        f'help: {", ".join(options)}; {ELSEWHERE}.'
    )
