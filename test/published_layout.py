"""Write a checkpoint as the hub holds it: as transformers 4.49 to 4.51 saved these families.

Today's transformers reads that layout and no longer writes it. `rewrite` makes it of a checkpoint
that today's saved, with the same weights and tokens; real 4.50.3 loads what it writes, answers the
same, and saves it again with the same files, keys and names.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

# What the language model's configuration was called at the top of the file.
_TOP = (
    'attention_dropout', 'bos_token_id', 'eos_token_id', 'pad_token_id', 'hidden_act',
    'hidden_size', 'initializer_range', 'intermediate_size', 'max_position_embeddings',
    'max_window_layers', 'num_attention_heads', 'num_hidden_layers', 'num_key_value_heads',
    'rms_norm_eps', 'use_cache', 'use_sliding_window', 'vocab_size',
)  # fmt: skip
_IDS = ('image_token_id', 'video_token_id', 'vision_start_token_id', 'vision_end_token_id')
# The published bounds: 16384 tokens at most.
MIN_PIXELS, MAX_PIXELS = 3136, 12_845_056


@dataclass(frozen=True)
class Variant:
    """What published checkpoints of one layout differ in.

    Attributes:
        parts: files with weights, named by an index; 1: one file without an index.
        generation_config: whether there is one; merged GRPO checkpoints have none.
        tokenizer_json: whether there is one beside vocab.json and merges.txt.
        tied: the head is the embedding and is not saved, as with 3B and 2B.
        template: the file with the chat template; '' for none.
        eos_in_config: whether config.json names the token that ends.
        preprocessor: changes to preprocessor_config.json; None as a value leaves an entry out.
    """

    parts: int = 4
    generation_config: bool = False
    tokenizer_json: bool = True
    tied: bool = False
    template: str = 'chat_template.json'
    eos_in_config: bool = True
    preprocessor: tuple[tuple[str, Any], ...] = ()


def rewrite(modern: Path, folder: Path, variant: Variant | None = None) -> Path:
    """Write a checkpoint that today's transformers saved as one of 2025.

    Args:
        modern: a checkpoint of Qwen2-VL or Qwen2.5-VL in one file of weights.
        folder: where to; made.
        variant: how; the layout of VisionReasoner-7B by default.

    Returns:
        The folder.
    """
    variant = variant or Variant()
    folder.mkdir(parents=True)
    config = _read(modern / 'config.json')
    _write(folder / 'config.json', flat_config(config, variant))
    _write_weights(modern, folder, variant)
    _write_tokenizer(modern, folder, variant)
    _write_template(modern, folder, variant.template)
    kind = {'qwen2_5_vl': 'Qwen2_5_VL', 'qwen2_vl': 'Qwen2VL'}[config['model_type']]
    _write(folder / 'preprocessor_config.json', _preprocessor(kind, dict(variant.preprocessor)))
    if variant.generation_config:
        saved = _read(modern / 'generation_config.json')
        kept = {name: saved[name] for name in ('eos_token_id', 'pad_token_id')}
        # As published: settings of sampling, which greedy answers must not follow.
        sampling = {'do_sample': True, 'repetition_penalty': 1.0, 'temperature': 1e-6}
        _write(
            folder / 'generation_config.json',
            kept | sampling | {'transformers_version': '4.49.0'},
        )
    return folder


def flat_config(config: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """Return a configuration of today as it was written: the language model's at the top."""
    text, vision = config['text_config'], dict(config['vision_config'])
    rope = text['rope_parameters']
    flat = {name: text[name] for name in _TOP if text.get(name) is not None}
    if not variant.eos_in_config:
        flat = {name: flat[name] for name in flat if name not in ('eos_token_id', 'bos_token_id')}
    family = config['model_type']
    vision.pop('rope_parameters', None)
    vision['model_type'] = family
    vision['in_chans'] = vision.pop('in_channels')
    return flat | {name: config[name] for name in _IDS} | {
        'architectures': config['architectures'],
        'model_type': family,
        'rope_scaling': {'mrope_section': rope['mrope_section'], 'rope_type': 'default',
                         'type': 'default'} if variant.parts != 1 else
                        {'mrope_section': rope['mrope_section'], 'type': 'mrope'},
        'rope_theta': rope['rope_theta'],
        'tie_word_embeddings': variant.tied,
        'sliding_window': 4096,
        'torch_dtype': config['dtype'],
        'transformers_version': '4.49.0',
        'vision_config': vision,
    }  # fmt: skip


def published_name(name: str) -> str:
    """Return the published name of a weight that today's transformers names otherwise."""
    name = name.replace('model.language_model.', 'model.', 1)
    return name.replace('model.visual.', 'visual.', 1)


def _write_weights(modern: Path, folder: Path, variant: Variant) -> None:
    weights = {
        published_name(name): value
        for name, value in load_file(modern / 'model.safetensors').items()
        if not (variant.tied and name == 'lm_head.weight')
    }
    if variant.parts == 1:
        save_file(weights, folder / 'model.safetensors', {'format': 'pt'})
        return
    names = sorted(weights)
    total = variant.parts
    weight_map = {}
    for number in range(total):
        file = f'model-{number + 1:05}-of-{total:05}.safetensors'
        own = names[number::total]
        save_file({name: weights[name] for name in own}, folder / file, {'format': 'pt'})
        weight_map |= dict.fromkeys(own, file)
    size = sum(value.nbytes for value in weights.values())
    index = {'metadata': {'total_size': size}, 'weight_map': dict(sorted(weight_map.items()))}
    _write(folder / 'model.safetensors.index.json', index)


def _write_tokenizer(modern: Path, folder: Path, variant: Variant) -> None:
    """Write the slow tokenizer's files, and the fast one's."""
    whole = _read(modern / 'tokenizer.json')
    if variant.tokenizer_json:
        _write(folder / 'tokenizer.json', whole)
    _write(folder / 'vocab.json', whole['model']['vocab'])
    lines = ['#version: 0.2', *(' '.join(pair) for pair in whole['model']['merges'])]
    (folder / 'merges.txt').write_text('\n'.join(lines) + '\n')
    added = {token['content']: token['id'] for token in whole['added_tokens']}
    _write(folder / 'added_tokens.json', added)
    flags = dict.fromkeys(('lstrip', 'normalized', 'rstrip', 'single_word'), False)
    decoder = {
        str(number): {'content': token, **flags, 'special': True}
        for token, number in added.items()
    }
    extra = [token for token in added if token not in ('<|endoftext|>',)]
    _write(
        folder / 'special_tokens_map.json',
        {
            'additional_special_tokens': extra,
            'eos_token': {'content': '<|im_end|>', **flags},
            'pad_token': {'content': '<|endoftext|>', **flags},
        },
    )
    config = {
        'add_bos_token': False,
        'add_prefix_space': False,
        'added_tokens_decoder': decoder,
        'additional_special_tokens': extra,
        'bos_token': None,
        'clean_up_tokenization_spaces': False,
        'eos_token': '<|im_end|>',
        'errors': 'replace',
        'extra_special_tokens': {},
        'model_max_length': 131_072,
        'pad_token': '<|endoftext|>',
        'split_special_tokens': False,
        'tokenizer_class': 'Qwen2Tokenizer',
        'unk_token': None,
    }
    if variant.template == 'tokenizer_config.json':
        config['chat_template'] = (modern / 'chat_template.jinja').read_text()
    _write(folder / 'tokenizer_config.json', config)


def _write_template(modern: Path, folder: Path, file: str) -> None:
    template = (modern / 'chat_template.jinja').read_text()
    if file == 'chat_template.json':
        _write(folder / file, {'chat_template': template})
    elif file == 'chat_template.jinja':
        (folder / file).write_text(template)


def _preprocessor(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    content = {
        'do_convert_rgb': True,
        'do_normalize': True,
        'do_rescale': True,
        'do_resize': True,
        'image_mean': [0.48145466, 0.4578275, 0.40821073],
        # For Qwen2.5-VL a class that only pre-releases of 4.49 had.
        'image_processor_type': f'{kind}ImageProcessor',
        'image_std': [0.26862954, 0.26130258, 0.27577711],
        'max_pixels': MAX_PIXELS,
        'merge_size': 2,
        'min_pixels': MIN_PIXELS,
        'patch_size': 14,
        'processor_class': f'{kind}Processor',
        'resample': 3,
        'rescale_factor': 1 / 255,
        'size': {'longest_edge': MAX_PIXELS, 'shortest_edge': MIN_PIXELS},
        'temporal_patch_size': 2,
    } | changes
    return {name: value for name, value in content.items() if value is not None}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')
