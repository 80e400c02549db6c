#!/usr/bin/env python3
"""Make a small SAM 2 checkpoint with random weights in the published layout.

    python scripts/make_tiny_sam2.py FOLDER [--seed 0]

writes `tiny_sam2.pt` ({"model": state_dict}) and `tiny_sam2.yaml`: 256-pixel images, 7.7 million
parameters, all parts of a SAM 2.1 for images and video. It runs in tenths of a second on a CPU, to
test the real code paths without published weights. Needs the extra `models`.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STEM = 'tiny_sam2'
IMAGE_SIZE = 256


def tiny_config() -> Any:
    """Return the configuration of SAM 2.1 tiny, reduced to 256-pixel images."""
    from omegaconf import OmegaConf

    package = find_spec('sam2')
    if package is None or package.origin is None:
        raise SystemExit('The package sam2 is missing: scripts/install_models models')
    configs = Path(package.origin).parent / 'configs'
    config = OmegaConf.load(configs / 'sam2.1' / 'sam2.1_hiera_t.yaml')
    model = config.model
    model.image_size = IMAGE_SIZE
    trunk = model.image_encoder.trunk
    trunk.embed_dim = 16
    trunk.stages = [1, 1, 2, 1]
    trunk.global_att_blocks = [3]  # not the first block of a stage, where the map is pooled
    model.image_encoder.neck.backbone_channel_list = [128, 64, 32, 16]
    attention = model.memory_attention
    attention.num_layers = 1
    for part in (attention.layer.self_attention, attention.layer.cross_attention):
        part.feat_sizes = [IMAGE_SIZE // 16, IMAGE_SIZE // 16]
    return config


def make_tiny_sam2(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint and its configuration into the folder.

    Args:
        folder: is created.
        seed: for the random weights.

    Returns:
        The checkpoint's path; the configuration has the same path with the suffix `.yaml`.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = instantiate(config.model, _recursive_=True)
    weights = folder / f'{STEM}.pt'
    torch.save({'model': model.state_dict()}, weights)
    OmegaConf.save(config, weights.with_suffix('.yaml'))
    return weights


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description='Make a small SAM 2 checkpoint.')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    print(make_tiny_sam2(arguments.folder, arguments.seed))


if __name__ == '__main__':
    main()
