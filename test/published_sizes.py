"""The published checkpoints' configurations at full size, and their files without the numbers.

A file of safetensors begins with the names, types and shapes of what is in it; the numbers may be
a hole in the file. So a checkpoint of 16 GB takes a few kilobytes here, and everything that looks
at it before it reads numbers sees what it would see of the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import math
from pathlib import Path
from typing import Any

Shapes = dict[str, tuple[int, ...]]

_IDS = {
    'bos_token_id': 151643,
    'eos_token_id': 151645,
    'vision_start_token_id': 151652,
    'vision_end_token_id': 151653,
    'vision_token_id': 151654,
    'image_token_id': 151655,
    'video_token_id': 151656,
}
_TEXT = {
    'attention_dropout': 0.0,
    'hidden_act': 'silu',
    'initializer_range': 0.02,
    'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0,
    'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]},
    'sliding_window': 32768,
    'torch_dtype': 'bfloat16',
    'transformers_version': '4.41.2',
    'use_cache': True,
    'use_sliding_window': False,
}


def _text(hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, Any]:
    return {
        'hidden_size': hidden,
        'intermediate_size': inner,
        'num_hidden_layers': layers,
        'max_window_layers': layers,
        'num_attention_heads': heads,
        'num_key_value_heads': kv,
        'vocab_size': vocab,
        # The small ones' heads are their embeddings.
        'tie_word_embeddings': vocab == 151936,
    }


def _qwen2_5_vl(*sizes: int) -> dict[str, Any]:
    vision = {
        'depth': 32,
        'hidden_act': 'silu',
        'hidden_size': 1280,
        'intermediate_size': 3420,
        'num_heads': 16,
        'in_chans': 3,
        'out_hidden_size': sizes[0],
        'patch_size': 14,
        'spatial_merge_size': 2,
        'spatial_patch_size': 14,
        'window_size': 112,
        'fullatt_block_indexes': [7, 15, 23, 31],
        'tokens_per_second': 2,
        'temporal_patch_size': 2,
    }
    return _TEXT | _IDS | _text(*sizes) | {
        'architectures': ['Qwen2_5_VLForConditionalGeneration'],
        'model_type': 'qwen2_5_vl',
        'max_position_embeddings': 128000,
        'vision_config': vision,
    }  # fmt: skip


def _qwen2_vl(*sizes: int) -> dict[str, Any]:
    vision = {
        'depth': 32,
        'embed_dim': 1280,
        'mlp_ratio': 4,
        'num_heads': 16,
        'in_chans': 3,
        'hidden_size': sizes[0],
        'patch_size': 14,
        'spatial_merge_size': 2,
        'spatial_patch_size': 14,
        'temporal_patch_size': 2,
    }
    return _TEXT | _IDS | _text(*sizes) | {
        'architectures': ['Qwen2VLForConditionalGeneration'],
        'model_type': 'qwen2_vl',
        'max_position_embeddings': 32768,
        'vision_config': vision,
    }  # fmt: skip


# By name: the configuration, in how many files the weights are, and how many there are.
PUBLISHED = {
    'Qwen2.5-VL-3B': (_qwen2_5_vl(2048, 11008, 36, 16, 2, 151936), 2, 824),
    'Qwen2.5-VL-7B': (_qwen2_5_vl(3584, 18944, 28, 28, 4, 152064), 5, 729),
    'Qwen2-VL-2B': (_qwen2_vl(1536, 8960, 28, 12, 2, 151936), 2, 729),
    'Qwen2-VL-7B': (_qwen2_vl(3584, 18944, 28, 28, 4, 152064), 5, 730),
}


def shapes(config: dict[str, Any]) -> Shapes:
    """Return the published names of all weights, and their shapes."""
    return dict(_vision(config)) | dict(_language(config))


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> Iterator[tuple[str, Any]]:
    yield f'{name}.weight', (rows, columns)
    if bias:
        yield f'{name}.bias', (rows,)


def _vision(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    modern = config['model_type'] == 'qwen2_5_vl'
    width, out = 1280, config['hidden_size']
    yield 'visual.patch_embed.proj.weight', (width, 3, 2, 14, 14)
    for number in range(32):
        block = f'visual.blocks.{number}'
        for norm in ('norm1', 'norm2'):
            yield f'{block}.{norm}.weight', (width,)
            if not modern:
                yield f'{block}.{norm}.bias', (width,)
        yield from _linear(f'{block}.attn.qkv', 3 * width, width)
        yield from _linear(f'{block}.attn.proj', width, width)
        if modern:
            yield from _linear(f'{block}.mlp.gate_proj', 3420, width)
            yield from _linear(f'{block}.mlp.up_proj', 3420, width)
            yield from _linear(f'{block}.mlp.down_proj', width, 3420)
        else:
            yield from _linear(f'{block}.mlp.fc1', 4 * width, width)
            yield from _linear(f'{block}.mlp.fc2', width, 4 * width)
    yield 'visual.merger.ln_q.weight', (width,)
    if not modern:
        yield 'visual.merger.ln_q.bias', (width,)
    yield from _linear('visual.merger.mlp.0', 4 * width, 4 * width)
    yield from _linear('visual.merger.mlp.2', out, 4 * width)


def _language(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    width, inner = config['hidden_size'], config['intermediate_size']
    kv = width // config['num_attention_heads'] * config['num_key_value_heads']
    yield 'model.embed_tokens.weight', (config['vocab_size'], width)
    for number in range(config['num_hidden_layers']):
        layer = f'model.layers.{number}'
        yield f'{layer}.input_layernorm.weight', (width,)
        yield f'{layer}.post_attention_layernorm.weight', (width,)
        yield from _linear(f'{layer}.self_attn.q_proj', width, width)
        yield from _linear(f'{layer}.self_attn.k_proj', kv, width)
        yield from _linear(f'{layer}.self_attn.v_proj', kv, width)
        yield from _linear(f'{layer}.self_attn.o_proj', width, width, bias=False)
        yield from _linear(f'{layer}.mlp.gate_proj', inner, width, bias=False)
        yield from _linear(f'{layer}.mlp.up_proj', inner, width, bias=False)
        yield from _linear(f'{layer}.mlp.down_proj', width, inner, bias=False)
    yield 'model.norm.weight', (width,)
    if not config['tie_word_embeddings']:
        yield 'lm_head.weight', (config['vocab_size'], width)


def write(folder: Path, config: dict[str, Any], weights: Shapes, parts: int) -> Path:
    """Write a checkpoint of bfloat16 whose numbers are holes in its files; return its folder."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(config))
    for name in ('tokenizer.json', 'preprocessor_config.json'):
        (folder / name).write_text('{}')
    names = list(weights)
    share = -(-len(names) // parts)
    weight_map = {}
    for number in range(parts):
        file = f'model-{number + 1:05}-of-{parts:05}.safetensors'
        own = names[number * share : (number + 1) * share]
        _write_holes(folder / file, {name: weights[name] for name in own})
        weight_map |= dict.fromkeys(own, file)
    index = {'metadata': {'total_size': 0}, 'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    return folder


def _write_holes(path: Path, weights: Shapes) -> None:
    head, end = {}, 0
    for name, shape in weights.items():
        size = 2 * math.prod(shape)
        head[name] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [end, end + size]}
        end += size
    text = json.dumps({'__metadata__': {'format': 'pt'}, **head}).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        file.truncate(8 + len(text) + end)
