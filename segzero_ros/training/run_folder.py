"""The output folder of a training run: settings, figures and checkpoints."""

from __future__ import annotations

from dataclasses import asdict
import json
from pathlib import Path
import shutil
from typing import Any

from segzero_ros.training.presets import TrainingError
from segzero_ros.training.settings import Settings

# Settings that may differ when a run is resumed, because they do not affect the weights.
_CHANGEABLE = ('output', 'minutes', 'kept', 'validation', 'validate_every', 'validation_rows')
# Files of a complete checkpoint.
_REQUIRED_FILES = ('trainer_state.json', 'optimizer.pt', 'scheduler.pt')


class RunFolder:
    """The files of a run: `settings.json`, `figures.jsonl`, `curves.png` and `steps/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = path / 'steps'
        self.figures = path / 'figures.jsonl'
        self.curves = path / 'curves.png'
        self._settings = path / 'settings.json'

    def begin(self, settings: Settings, *, restart: bool) -> Path | None:
        """Prepare the folder; return the checkpoint in `steps/` to resume from, if any.

        Args:
            settings: of the run.
            restart: whether to remove an earlier run.

        Raises:
            TrainingError: it contains a run with other settings, or something else.
        """
        now = asdict(settings)
        if restart:
            shutil.rmtree(self.steps, ignore_errors=True)
            self.figures.unlink(missing_ok=True)
        elif self._settings.is_file():
            try:
                before: dict[str, Any] = json.loads(self._settings.read_text(encoding='utf-8'))
            except ValueError as error:
                raise TrainingError(f'{self._settings} cannot be read: {error}') from error
            other = [
                name for name in now if name not in _CHANGEABLE and before.get(name) != now[name]
            ]
            if other:
                raise TrainingError(
                    f'{self.path} contains a run with another {", ".join(other)}: choose another '
                    '--output, or use --restart.'
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise TrainingError(
                f'{self.path} is not empty, and not a run: choose another --output.'
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._settings.write_text(json.dumps(now, indent=2) + '\n', encoding='utf-8')
        except OSError as error:
            raise TrainingError(f'{self.path} cannot be written: {error.strerror}.') from error
        return self._last()

    def _last(self) -> Path | None:
        found = sorted(self.steps.glob('checkpoint-*'), key=lambda path: int(path.name[11:]))
        for path in reversed(found):
            if all((path / name).is_file() for name in _REQUIRED_FILES) and any(
                path.glob('rng_state*.pth')
            ):
                return path
            # The trainer would count it as a complete checkpoint.
            shutil.rmtree(path)
        return None

    def write_figures(self, lines: list[dict[str, Any]]) -> None:
        """Write the figures of all steps so far; replace the earlier file."""
        # The trainer's final summary is of the last session only.
        lines = [line for line in lines if 'train_runtime' not in line]
        beside = self.figures.with_suffix('.tmp')
        beside.write_text(''.join(json.dumps(line) + '\n' for line in lines), encoding='utf-8')
        beside.replace(self.figures)
