"""One stage of training: steps with a warm-up and a cosine, figures in a file, and exact resume.

A step's batch is drawn from the stage's seed and the step's number, so a stage that is broken off
and started again sees the batches that it would have seen.
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

Drawn = TypeVar('Drawn')
Figures = dict[str, torch.Tensor]
_logger = logging.getLogger(__name__)
# The share of a stage's steps in which the rate rises.
_WARM_UP = 0.06
_LAST_RATE = 0.03
_EVERY = 20
_KEPT_EVERY = 100


class StageError(SegZeroError):
    """A stage cannot go on; the text names the cause and the cure."""


@dataclass(frozen=True)
class Stage:
    """What is trained how long.

    Attributes:
        name: of the stage, and of its files.
        steps: how many.
        rate: the highest learning rate.
        seed: of the batches.
        drawn: what they are drawn from, in words; a stage is not continued on anything else.
    """

    name: str
    steps: int
    rate: float
    seed: int = 0
    drawn: str = ''


def run(
    stage: Stage,
    modules: Sequence[nn.Module],
    draw: Callable[[np.random.Generator], Drawn],
    step: Callable[[Drawn], tuple[torch.Tensor, Figures]],
    judge: Callable[[], Figures],
    folder: Path,
    workers: int = 0,
) -> None:
    """Train a stage to its end, from where it stands in the folder.

    Args:
        stage: what to do.
        modules: whose weights are trained.
        draw: returns a batch; the same one from the same generator.
        step: returns the loss of a batch, and figures, tensors of one number each.
        judge: returns figures on unseen scenes.
        folder: where state, figures (`<name>.jsonl`) and the finished weights are kept.
        workers: processes that draw batches ahead; with 0 each is drawn when its turn comes.

    Raises:
        StageError: the folder holds a stage of that name with other steps, rate, seed or batches.
    """
    _logger.info('%s: %d steps', stage.name, stage.steps)
    weights = [weight for module in modules for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    kept = state_of(stage, folder)
    start = _resume(kept, stage, modules, optimizer)
    figures: list[Figures] = []
    began = time.monotonic()
    numbers = range(start, stage.steps)
    batches = DataLoader(
        _Draws(draw, stage.seed),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context='fork' if workers else None,
    )
    for number, batch in zip(numbers, batches, strict=True):
        for group in optimizer.param_groups:
            group['lr'] = stage.rate * _share(number, stage.steps)
        loss, measured = step(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        figures.append({'loss': loss.detach(), **measured})
        done = number + 1
        if done % _EVERY and done != stage.steps:
            continue
        line: dict[str, Any] = {'step': done, 'seconds': round(time.monotonic() - began, 1)}
        line |= {
            name: float(torch.stack([each[name] for each in figures]).mean())
            for name in figures[0]
        }
        figures.clear()
        if done % _KEPT_EVERY == 0 or done == stage.steps:
            line |= {f'unseen_{name}': float(value) for name, value in judge().items()}
            _keep(kept, stage, modules, optimizer, done)
        with (folder / f'{stage.name}.jsonl').open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
        _logger.info(_told(stage, line))


def state_of(stage: Stage, folder: Path) -> Path:
    """Return the file that keeps how far a stage is."""
    return folder / f'{stage.name}.pt'


class _Draws(Dataset[Drawn]):
    """The batches of a stage by their numbers."""

    def __init__(self, draw: Callable[[np.random.Generator], Drawn], seed: int) -> None:
        self._draw = draw
        self._seed = seed

    def __getitem__(self, number: int) -> Drawn:
        return self._draw(np.random.default_rng((self._seed, number)))


def moved(batch: Drawn, device: torch.device) -> Drawn:
    """Return a data class of tensors with all of them on a device."""
    names = [field.name for field in fields(batch)]  # type: ignore[arg-type]
    return replace(batch, **{name: getattr(batch, name).to(device) for name in names})  # type: ignore[type-var]


def _share(step: int, steps: int) -> float:
    """Return the share of the highest rate: up in a line, down in a cosine."""
    wave = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (_LAST_RATE + (1 - _LAST_RATE) * wave)


def _resume(kept: Path, stage: Stage, modules: Sequence[nn.Module], optimizer: Any) -> int:
    """Load what was kept, and return how many steps were done."""
    if not kept.exists():
        return 0
    state = torch.load(kept, weights_only=True, map_location='cpu')
    if state['stage'] != asdict(stage):
        raise StageError(
            f'{kept} was begun as {state["stage"]}, not as {asdict(stage)}: go on with the same '
            'options, or take another folder.'
        )
    for module, weights in zip(modules, state['modules'], strict=True):
        module.load_state_dict(weights)
    optimizer.load_state_dict(state['optimizer'])
    return int(state['step'])


def _keep(
    kept: Path, stage: Stage, modules: Sequence[nn.Module], optimizer: Any, step: int
) -> None:
    state = {
        'modules': [module.state_dict() for module in modules],
        'optimizer': optimizer.state_dict(),
        'stage': asdict(stage),
        'step': step,
    }
    unfinished = kept.with_suffix('.part')
    torch.save(state, unfinished)
    unfinished.replace(kept)


def _told(stage: Stage, line: dict[str, Any]) -> str:
    shown = ', '.join(f'{name} {value:.4g}' for name, value in line.items() if name != 'step')
    return f'{stage.name}: {line["step"]} of {stage.steps}: {shown}'
