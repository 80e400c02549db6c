"""Rewards as weighted parts, from a preset or a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.config import find_config
from segzero_ros.training.rewards import PUBLISHED, PUBLISHED_ACCURACIES, Reward
from segzero_ros.training.robot_rewards import ROBOT
from segzero_ros.types import SegZeroError

PARTS: dict[str, Reward] = PUBLISHED | ROBOT


class TrainingError(SegZeroError):
    """Training cannot start or resume; the message has the reason and a hint."""


@dataclass(frozen=True)
class Composition:
    """A reward: the weighted sum of its parts.

    Attributes:
        name: of the preset or the file.
        weights: by name of the part in `PARTS`.
    """

    name: str
    weights: Mapping[str, float]

    @property
    def wants_boxes(self) -> bool:
        """Whether it is 0 for true objects that are a point alone, whatever the answer is."""
        return any(name in PUBLISHED_ACCURACIES for name in self.weights)

    def parts(self, completion: str, solution: str) -> dict[str, float]:
        """Return each part's value, unweighted."""
        return {name: PARTS[name](completion, solution) for name in self.weights}

    def __call__(self, completion: str, solution: str) -> float:
        """Return the reward of a completion."""
        values = self.parts(completion, solution)
        return float(sum(self.weights[name] * value for name, value in values.items()))


def load_composition(source: str | Path) -> Composition:
    """Return the reward of a preset, or of a YAML file of `part: weight` lines.

    Raises:
        TrainingError: it does not exist, or has unknown parts or invalid weights.
    """
    path = Path(source)
    if path.suffix in ('.yaml', '.yml'):
        return _composition(path.stem, read_lines(path), str(path))
    presets = read_lines(find_config('training/rewards.yaml'))
    if str(source) not in presets:
        raise TrainingError(
            f'There is no reward {str(source)!r}; choose one of {", ".join(presets)}, or a YAML '
            'file of "part: weight" lines.'
        )
    return _composition(str(source), presets[str(source)], f'the preset {source}')


def read_lines(path: Path) -> dict[str, Any]:
    """Return the "name: value" lines of a YAML file; raise TrainingError if it has none."""
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f'{path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise TrainingError(f'{path} has no "name: value" lines.')
    return content


def _composition(name: str, weights: Any, where: str) -> Composition:
    if not isinstance(weights, dict) or not weights:
        raise TrainingError(f'{where} has no parts; valid parts are {", ".join(PARTS)}.')
    for part, weight in weights.items():
        if part not in PARTS:
            raise TrainingError(
                f'{where}: there is no part {part!r}; valid parts are {", ".join(PARTS)}.'
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TrainingError(f'{where}: the weight of {part} is not a number: {weight!r}.')
        if not math.isfinite(weight):
            raise TrainingError(f'{where}: the weight of {part} is not finite.')
    return Composition(name, {part: float(weight) for part, weight in weights.items()})
