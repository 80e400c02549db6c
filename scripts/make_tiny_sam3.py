#!/usr/bin/env python3
"""Make a small SAM 3 checkpoint with random weights in the published layout.

    python scripts/make_tiny_sam3.py FOLDER [--seed 0]

writes a folder like that of facebook/sam3: one `Sam3VideoModel`, which serves transformers'
classes for images, prompts and videos, with a processor and a tokenizer that knows letters only.
Images have 112 pixels, and there is a layer or two of everything. It runs in tenths of a second on
a CPU, to test the real code paths without published weights. Needs the extra `models`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PATCH_SIZE = 14
IMAGE_SIZE = 8 * PATCH_SIZE
GRID = IMAGE_SIZE // PATCH_SIZE
HIDDEN = 32
HEADS = 2
# SAM 3's text encoder has this many positions.
TEXT_LENGTH = 32


def tiny_config() -> Any:
    """Return a `Sam3VideoConfig` with as little of everything as its classes allow."""
    from transformers import Sam3VideoConfig

    width = {'hidden_size': HIDDEN, 'num_attention_heads': HEADS}
    small = {**width, 'intermediate_size': 64}
    vision = {
        'model_type': 'sam3_vision_model',
        'backbone_config': {
            **small,
            'model_type': 'sam3_vit_model',
            'num_hidden_layers': 2,
            'image_size': IMAGE_SIZE,
            'patch_size': PATCH_SIZE,
            'window_size': 4,
            'global_attn_indexes': [1],
            'pretrain_image_size': IMAGE_SIZE // 2,
        },
        'fpn_hidden_size': HIDDEN,
        'backbone_feature_sizes': [[4 * GRID] * 2, [2 * GRID] * 2, [GRID] * 2],
    }
    detector = {
        'model_type': 'sam3',
        'vision_config': vision,
        'text_config': {
            **small,
            'model_type': 'clip_text_model',
            'vocab_size': 2 * 256 + 2,
            'projection_dim': HIDDEN,
            'num_hidden_layers': 1,
            'max_position_embeddings': TEXT_LENGTH,
            'hidden_act': 'gelu',
            'bos_token_id': 512,
            'eos_token_id': 513,
            'pad_token_id': 513,
        },
        'geometry_encoder_config': {**small, 'num_layers': 1},
        'detr_encoder_config': {**small, 'num_layers': 1},
        'detr_decoder_config': {**small, 'num_layers': 1, 'num_queries': 8},
        'mask_decoder_config': width,
    }
    tracker = {
        'model_type': 'sam3_tracker_video',
        'image_size': IMAGE_SIZE,
        'vision_config': vision,
        'prompt_encoder_config': {'hidden_size': HIDDEN, 'patch_size': PATCH_SIZE},
        'mask_decoder_config': {**width, 'mlp_dim': 64, 'iou_head_hidden_dim': HIDDEN},
        'memory_attention_hidden_size': HIDDEN,
        'memory_attention_num_layers': 1,
        'memory_attention_feed_forward_hidden_size': 64,
        'memory_encoder_hidden_size': HIDDEN,
        'memory_encoder_output_channels': 16,
        'mask_downsampler_embed_dim': HIDDEN,
        'memory_fuser_num_layers': 1,
        'memory_fuser_embed_dim': HIDDEN,
        'memory_fuser_intermediate_dim': 64,
    }
    return Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * GRID
    )


def make_tokenizer(folder: Path) -> Any:
    """Return a CLIP tokenizer that splits words into bytes, made by files in the folder."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f'{letter}</w>' for letter in letters)]
    pieces += ['<|startoftext|>', '<|endoftext|>']
    vocabulary, merges = folder / 'vocab.json', folder / 'merges.txt'
    vocabulary.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    merges.write_text('#version: 0.2\n')
    return CLIPTokenizer(vocab=str(vocabulary), merges=str(merges), model_max_length=TEXT_LENGTH)


def make_tiny_sam3(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint into the folder, which is created, and return the folder.

    Args:
        folder: of the checkpoint.
        seed: for the random weights.
    """
    from safetensors.torch import save_file
    import torch
    from transformers import Sam3ImageProcessor, Sam3Processor, Sam3VideoModel

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam3VideoModel(tiny_config())
        # transformers' initial weights are so small that every mask would cover all or nothing.
        for name, values in model.named_parameters():
            if values.ndim > 1 and 'norm' not in name:
                torch.nn.init.normal_(values, std=1.5 * values[0].numel() ** -0.5)
        # Some phrases are found then, and others are not.
        detector = model.detector_model
        detector.detr_decoder.presence_head.layer3.bias.data.fill_(5.0)
        detector.dot_product_scoring.query_proj.weight.data.mul_(4.0)
    model.config.architectures = ['Sam3VideoModel']
    model.config.save_pretrained(folder)
    # Not by `save_pretrained`: transformers 5.23 writes the tracker's names with a doubled prefix.
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})
    images = Sam3ImageProcessor(size={'height': IMAGE_SIZE, 'width': IMAGE_SIZE})
    Sam3Processor(images, make_tokenizer(folder)).save_pretrained(folder)
    return folder


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description='Make a small SAM 3 checkpoint.')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    print(make_tiny_sam3(arguments.folder, arguments.seed))


if __name__ == '__main__':
    main()
