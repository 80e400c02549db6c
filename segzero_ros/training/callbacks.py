"""Trainer callbacks: progress, figures and curves, validation, early stopping."""

from __future__ import annotations

from collections.abc import Callable
import math
import time
from typing import Any

from transformers import TrainerCallback

from segzero_ros.training.plots import draw_curves
from segzero_ros.training.run_folder import RunFolder
from segzero_ros.training.settings import Settings
from segzero_ros.training.validation import Evaluator

Report = Callable[[str], None]
# Seconds between lines of progress.
_REPORT_PERIOD = 10.0
# Reported figures and their names.
_REPORTED = {
    'reward': 'reward',
    'loss': 'loss',
    'thought_words': 'reasoning words',
    'kl': 'KL',
    'validation_box_giou': 'box gIoU',
    'validation_reward': 'validation reward',
}


class ProgressCallback(TrainerCallback):
    """Reports the progress and the remaining time of a run."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = (0, 0.0)
        self._last_report = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Store the first step; earlier steps do not count for the speed."""
        self._began = state.global_step, time.monotonic()
        if state.global_step:
            self._report(f'resuming after step {state.global_step} of {state.max_steps}')

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Report a line if the last one was some time ago."""
        now, done = time.monotonic(), state.global_step
        last = done == state.max_steps
        if not logs or (now - self._last_report < _REPORT_PERIOD and not last):
            return
        shown = [f'{words} {logs[name]:.3g}' for name, words in _REPORTED.items() if name in logs]
        if not shown or done <= self._began[0]:
            return
        self._last_report = now
        pace = (now - self._began[1]) / (done - self._began[0])
        hours, minutes = divmod(math.ceil(pace * (state.max_steps - done) / 60), 60)
        left = f'about {hours} h {minutes:02d} min remaining'
        self._report(f'step {done} of {state.max_steps}: {", ".join(shown)}; {left}')


class TimingCallback(TrainerCallback):
    """Stops a run after a time limit; the same command resumes it."""

    def __init__(self, minutes: float, report: Report) -> None:
        self._minutes = minutes
        self._report = report
        self._end = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the timer."""
        self._end = time.monotonic() + 60 * self._minutes

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop and save a checkpoint when the time is over."""
        if self._minutes and time.monotonic() > self._end and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True
            self._report(
                f'stopped at step {state.global_step}: time limit of {self._minutes:g} minutes'
            )


class FiguresCallback(TrainerCallback):
    """Writes figures and curves with every checkpoint and at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def _write(self, state: Any) -> None:
        if state.is_world_process_zero and state.log_history:
            self._folder.write_figures(state.log_history)
            draw_curves(state.log_history, self._folder.curves)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the figures so far."""
        self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write all figures."""
        self._write(state)


class ValidationCallback(TrainerCallback):
    """Validates a model before, during and after training; logs the figures with the steps'."""

    def __init__(self, evaluator: Evaluator, processor: Any, every: int) -> None:
        self._evaluator = evaluator
        self._processor = processor
        self._every = every
        self._last_step = -1
        self.trainer: Any = None

    def _validate(self, state: Any) -> None:
        if self._last_step == state.global_step or not state.is_world_process_zero:
            return
        self._last_step = state.global_step
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.trainer.log(self._evaluator.figures(model, self._processor))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate the untrained model, unless the run is resumed."""
        if not state.global_step:
            self._validate(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate every `every` steps."""
        if self._every and state.global_step % self._every == 0:
            self._validate(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate the trained model."""
        self._validate(state)


class ThinkingLengthCallback(TrainerCallback):
    """Stops a run whose model has stopped reasoning, which rewards alone may not prevent."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._min_share = settings.least_thinking
        self._patience = settings.thinking_patience
        self._report = report
        self._low_steps = 0
        self.stopped = False

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Count consecutive steps with too few answers with reasoning."""
        share = (logs or {}).get('rewards/thinking_share/mean')
        if share is None:
            return
        self._low_steps = self._low_steps + 1 if share < self._min_share else 0
        if self._patience and self._low_steps >= self._patience:
            self.stopped = control.should_training_stop = True
            self._report(
                f'stopped at step {state.global_step}: in {self._low_steps} steps less than '
                f'{self._min_share:.0%} of the answers had reasoning. Use a reward with '
                'thinking_stated, a warm start with --sft, or a smaller learning_rate.'
            )
