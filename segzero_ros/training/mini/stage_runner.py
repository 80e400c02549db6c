"""Training stages: warm-up and cosine schedule, figures in a file, exact resume.

A step's batch depends only on the stage's seed and the step's number, so that a resumed stage gets
the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
import json
import logging
import math
from pathlib import Path
import time
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from segzero_ros.types import SegZeroError

BatchType = TypeVar('BatchType')
Figures = dict[str, torch.Tensor]
_logger = logging.getLogger(__name__)
# Warm-up as a fraction of the steps, and final learning rate as a fraction of the maximum.
_WARM_UP = 0.06
_LAST_RATE = 0.03
# Steps between lines of figures, and between saved states.
_REPORT_STEPS = 20
_SAVE_STEPS = 100


class StageError(SegZeroError):
    """A stage cannot be resumed; the message has the reason and a hint."""


@dataclass(frozen=True)
class Stage:
    """A training stage.

    Attributes:
        name: of the stage and its files.
        steps: number of steps.
        rate: maximum learning rate.
        seed: for the batches.
        drawn: description of the data; a stage is not resumed with other data.
    """

    name: str
    steps: int
    rate: float
    seed: int = 0
    drawn: str = ''


def run(
    stage: Stage,
    modules: Sequence[nn.Module],
    draw: Callable[[np.random.Generator], BatchType],
    step: Callable[[BatchType], tuple[torch.Tensor, Figures]],
    evaluate: Callable[[], Figures],
    folder: Path,
    workers: int = 0,
) -> None:
    """Run a stage to its end, from its saved state if there is one.

    Args:
        stage: the stage.
        modules: to be trained.
        draw: returns a batch, deterministic for the generator.
        step: returns the loss of a batch, and figures as scalar tensors.
        evaluate: returns figures of the validation scenes.
        folder: for the state and the figures (`<name>.jsonl`).
        workers: processes that prefetch batches; 0 for none.

    Raises:
        StageError: the folder contains a stage of that name with other settings.
    """
    _logger.info('%s: %d steps', stage.name, stage.steps)
    weights = [weight for module in modules for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    state_file = state_path(stage, folder)
    start = _resume(state_file, stage, modules, optimizer)
    figures: list[Figures] = []
    began = time.monotonic()
    numbers = range(start, stage.steps)
    batches = DataLoader(
        _Batches(draw, stage.seed),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context='fork' if workers else None,
    )
    for number, batch in zip(numbers, batches, strict=True):
        for group in optimizer.param_groups:
            group['lr'] = stage.rate * _rate_factor(number, stage.steps)
        loss, measured = step(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        figures.append({'loss': loss.detach(), **measured})
        done = number + 1
        if done % _REPORT_STEPS and done != stage.steps:
            continue
        line: dict[str, Any] = {'step': done, 'seconds': round(time.monotonic() - began, 1)}
        line |= {
            name: float(torch.stack([each[name] for each in figures]).mean())
            for name in figures[0]
        }
        figures.clear()
        if done % _SAVE_STEPS == 0 or done == stage.steps:
            line |= {f'unseen_{name}': float(value) for name, value in evaluate().items()}
            _save(state_file, stage, modules, optimizer, done)
        with (folder / f'{stage.name}.jsonl').open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
        _logger.info(_progress_line(stage, line))


def state_path(stage: Stage, folder: Path) -> Path:
    """Return the file with the state of a stage."""
    return folder / f'{stage.name}.pt'


class _Batches(Dataset[BatchType]):
    """The batches of a stage by step number."""

    def __init__(self, draw: Callable[[np.random.Generator], BatchType], seed: int) -> None:
        self._draw = draw
        self._seed = seed

    def __getitem__(self, number: int) -> BatchType:
        return self._draw(np.random.default_rng((self._seed, number)))


def to_device(batch: BatchType, device: torch.device) -> BatchType:
    """Return a data class of tensors on a device."""
    names = [field.name for field in fields(batch)]  # type: ignore[arg-type]
    return replace(batch, **{name: getattr(batch, name).to(device) for name in names})  # type: ignore[type-var]


def _rate_factor(step: int, steps: int) -> float:
    """Return the learning rate factor: linear warm-up, cosine decay."""
    wave = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (_LAST_RATE + (1 - _LAST_RATE) * wave)


def _resume(state_file: Path, stage: Stage, modules: Sequence[nn.Module], optimizer: Any) -> int:
    """Load the saved state; return the number of finished steps."""
    if not state_file.exists():
        return 0
    state = torch.load(state_file, weights_only=True, map_location='cpu')
    if state['stage'] != asdict(stage):
        raise StageError(
            f'{state_file} is of the stage {state["stage"]}, not of {asdict(stage)}: use the same '
            'options, or another folder.'
        )
    for module, weights in zip(modules, state['modules'], strict=True):
        module.load_state_dict(weights)
    optimizer.load_state_dict(state['optimizer'])
    return int(state['step'])


def _save(
    state_file: Path, stage: Stage, modules: Sequence[nn.Module], optimizer: Any, step: int
) -> None:
    state = {
        'modules': [module.state_dict() for module in modules],
        'optimizer': optimizer.state_dict(),
        'stage': asdict(stage),
        'step': step,
    }
    unfinished = state_file.with_suffix('.part')
    torch.save(state, unfinished)
    unfinished.replace(state_file)


def _progress_line(stage: Stage, line: dict[str, Any]) -> str:
    shown = ', '.join(f'{name} {value:.4g}' for name, value in line.items() if name != 'step')
    return f'{stage.name}: {line["step"]} of {stage.steps}: {shown}'
