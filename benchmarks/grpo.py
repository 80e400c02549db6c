"""Accuracy gain of GRPO for a small model on unseen scenes, for several seeds.

Run `python -m benchmarks.grpo --model FOLDER [--seeds 0 1 2] [--steps 230] [--minutes 20]`.

The packaged model (`mini`) is close to its limit; docs/measurements/grpo.md explains how to make
one that is not. It is trained from each seed with `segzero train --config mini`, and tested before
and after on unseen generated scenes, and on flat shapes on photographs, another domain: greedily,
as in the node, and sampled at temperature 1, as in training, `--draws` times. Reported are
accuracies (0 to 3; hard as published, and the soft one of `robot`) and the gIoU of boxes. With
`--methods grpo sft` the same model is also trained with SFT for the same number of steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import logging
from pathlib import Path
import sys
import tempfile
import time
import warnings

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed

from segzero_ros.reasoning.checkpoints import local_folder
from segzero_ros.training.presets import Composition, load_composition
from segzero_ros.training.row_sources import open_rows, UNSEEN_SEED
from segzero_ros.training.settings import load_settings, Settings
from segzero_ros.training.trainer import train
from segzero_ros.training.validation import Evaluator

_MEASURED = Composition('accuracy', {'list_accuracy': 1.0, 'honest_accuracy': 1.0})
_SHOWN = ('list_accuracy', 'honest_accuracy', 'box_giou')


def main() -> int:
    """Run the benchmark; return 1 if a seed gains less than 20 % of the initial accuracy.

    The accuracy is that of the trained reward, of sampled answers.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', required=True, help="a warm-started model's folder, or mini")
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=230, help='training steps for each seed')
    parser.add_argument('--minutes', type=float, default=20.0, help='time limit for each seed')
    parser.add_argument('--scenes', type=int, default=128, help='number of unseen scenes')
    parser.add_argument('--draws', type=int, default=4, help='sampled answers per query')
    parser.add_argument(
        '--methods', nargs='+', choices=('grpo', 'sft'), default=['grpo'], help='%(default)s'
    )
    parser.add_argument('-o', '--output', type=Path, help='folder to keep the runs')
    parser.add_argument('-p', '--param', action='append', default=[], metavar='NAME:=VALUE')
    options = parser.parse_args()
    warnings.filterwarnings('ignore', category=FutureWarning)
    logging.getLogger('transformers').setLevel(logging.ERROR)
    from segzero_ros.cli.model_arguments import read_overrides

    overrides = {'model': options.model, 'minutes': options.minutes, 'steps': options.steps}
    overrides |= {'save_every': options.steps + 1} | read_overrides(options.param)
    settings = load_settings('mini', overrides)
    trained = load_composition(settings.reward).weights
    judged = f'scenes, drawn: {next(name for name in _SHOWN if name in trained)}'
    examinations = {}
    for name in ('scenes', 'shapes'):
        rows = open_rows(name, settings.spoken, options.scenes, UNSEEN_SEED)
        asked = [rows.read(number) for number in range(options.scenes)]
        examinations[name] = Evaluator(asked, settings.spoken, _MEASURED, settings.max_completion)
    start = measure(examinations, str(local_folder(options.model)), options.draws)
    show('start', start, start)
    poor = 0
    with tempfile.TemporaryDirectory() as scratch:
        place = options.output or Path(scratch)
        for seed in options.seeds:
            for method in options.methods:
                folder = one(settings, method, seed, place)
                after = measure(examinations, str(folder), options.draws)
                show(f'{method}, seed {seed}', after, start)
                poor += method == 'grpo' and (after[judged] < 1.2 * start[judged])
    return int(poor > 0)


def one(settings: Settings, method: str, seed: int, place: Path) -> Path:
    """Train with a seed; return the model's folder."""
    from dataclasses import replace

    at_once = settings.prompts if method == 'sft' else settings.micro_batch
    settings = replace(
        settings,
        method=method,  # type: ignore[arg-type]
        seed=seed,
        # Other scenes for each seed.
        data=f'scenes:{3_000_000 + 100_000 * seed}',
        output=str(place / f'{method}_{seed}'),
        micro_batch=at_once,
    )
    began = time.monotonic()
    folder = train(settings, lambda text: print(text, file=sys.stderr, flush=True), restart=True)
    print(f'trained for {(time.monotonic() - began) / 60:.1f} min', flush=True)
    return folder


def measure(examinations: Mapping[str, Evaluator], folder: str, draws: int) -> dict[str, float]:
    """Return a model's figures in each domain, greedily and sampled at temperature 1.

    Sampled figures are means over several answers per query, with the same seeds for all models,
    as single answers vary between 0 and 3.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, padding_side='left')
    found = {}
    for domain, examination in examinations.items():
        for way, times in (('greedy', 1), ('drawn', draws)):
            runs = []
            for seed in range(times):
                set_seed(seed)
                runs.append(examination.figures(model, processor, sample=way == 'drawn'))
            for name in _SHOWN:
                key = f'{domain}, {way}: {name}'
                found[key] = sum(run[f'validation_{name}'] for run in runs) / times
    return found


def show(name: str, figures: dict[str, float], start: dict[str, float]) -> None:
    """Print figures and their gains."""
    print(name, flush=True)
    for key, value in figures.items():
        gain = f' ({value / start[key] - 1:+.0%})' if figures is not start and start[key] else ''
        print(f'  {key} {value:.3f}{gain}', flush=True)


if __name__ == '__main__':
    raise SystemExit(main())
