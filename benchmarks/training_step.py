"""Duration of a GRPO step with and without prefix sharing.

Run `python -m benchmarks.training_step [--model mini] [--steps 5] [-p NAME:=VALUE]`.

The same steps of the same model, with `training.prefix_sharing`, and with TRL's trainer alone,
which processes query and image for each answer. Reported are the median seconds per step, without
the first, and their ratio.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
import logging
from pathlib import Path
import tempfile
from unittest.mock import patch
import warnings

import numpy as np

from segzero_ros.training.settings import load_settings, Settings
from segzero_ros.training.trainer import train


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='mini', help="a model's folder, or mini")
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('-p', '--param', action='append', default=[], metavar='NAME:=VALUE')
    options = parser.parse_args()
    warnings.filterwarnings('ignore', category=FutureWarning)
    logging.getLogger('transformers').setLevel(logging.ERROR)
    from segzero_ros.cli.model_arguments import read_overrides

    overrides = {'model': options.model, 'steps': options.steps + 1, 'save_every': 10_000}
    settings = load_settings('mini', overrides | read_overrides(options.param))
    answers = f'{settings.prompts} questions of {settings.generations} answers'
    shared = seconds_a_step(settings)
    with patch('segzero_ros.training.models.share_prefixes'):
        alone = seconds_a_step(settings)
    print(f'{answers}: {shared:.2f} s per step, {alone:.2f} s without prefix sharing')
    print(f'{alone / shared:.2f} times as fast')


def seconds_a_step(settings: Settings) -> float:
    """Train some steps; return the median of their seconds."""
    with tempfile.TemporaryDirectory() as folder:
        train(replace(settings, output=folder), lambda _: None, restart=True)
        text = (Path(folder) / 'figures.jsonl').read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.splitlines()]
    return float(np.median([line['step_time'] for line in lines if 'step_time' in line][1:]))


if __name__ == '__main__':
    main()
