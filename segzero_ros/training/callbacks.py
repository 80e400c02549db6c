"""What happens beside the steps: progress, figures and curves, validation, and an early stop."""

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

Say = Callable[[str], None]
_EVERY = 10.0
_SHOWN = {
    'reward': 'reward',
    'loss': 'loss',
    'thought_words': 'words of thought',
    'kl': 'KL',
    'validation_box_giou': 'box gIoU',
    'validation_reward': 'validation reward',
}


class ProgressCallback(TrainerCallback):
    """Says now and then how far a run is and how long the rest will take."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = (0, 0.0)
        self._told = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where the run stands; what was done before says nothing about the speed."""
        self._began = state.global_step, time.monotonic()
        if state.global_step:
            self._say(f'goes on after step {state.global_step} of {state.max_steps}')

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Say a line if the last was some time ago."""
        now, done = time.monotonic(), state.global_step
        last = done == state.max_steps
        if not logs or (now - self._told < _EVERY and not last):
            return
        shown = [f'{words} {logs[name]:.3g}' for name, words in _SHOWN.items() if name in logs]
        if not shown or done <= self._began[0]:
            return
        self._told = now
        pace = (now - self._began[1]) / (done - self._began[0])
        hours, minutes = divmod(math.ceil(pace * (state.max_steps - done) / 60), 60)
        left = f'about {hours} h {minutes:02d} min left'
        self._say(f'step {done} of {state.max_steps}: {", ".join(shown)}; {left}')


class TimingCallback(TrainerCallback):
    """Stops a run when its time is over; the same command goes on with it."""

    def __init__(self, minutes: float, say: Say) -> None:
        self._minutes = minutes
        self._say = say
        self._end = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._end = time.monotonic() + 60 * self._minutes

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the time is over, and keep what is learnt."""
        if self._minutes and time.monotonic() > self._end and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True
            self._say(f'stopped at step {state.global_step}: {self._minutes:g} minutes are over')


class FiguresCallback(TrainerCallback):
    """Writes figures and curves whenever a checkpoint is written, and at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def _write(self, state: Any) -> None:
        if state.is_world_process_zero and state.log_history:
            self._folder.write_figures(state.log_history)
            draw_curves(state.log_history, self._folder.curves)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what is known so far."""
        self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write all."""
        self._write(state)


class ValidationCallback(TrainerCallback):
    """Asks a model before, while and after it is trained; the figures join those of the steps."""

    def __init__(self, evaluator: Evaluator, processor: Any, every: int) -> None:
        self._evaluator = evaluator
        self._processor = processor
        self._every = every
        self._asked = -1
        self.trainer: Any = None

    def _ask(self, state: Any) -> None:
        if self._asked == state.global_step or not state.is_world_process_zero:
            return
        self._asked = state.global_step
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.trainer.log(self._evaluator.figures(model, self._processor))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where the model stands, unless the run goes on."""
        if not state.global_step:
            self._ask(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure every so many steps."""
        if self._every and state.global_step % self._every == 0:
            self._ask(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure what the model became."""
        self._ask(state)


class ThinkingLengthCallback(TrainerCallback):
    """Stops a run whose model has stopped thinking, which rewards alone do not show."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._least = settings.least_thinking
        self._patience = settings.thinking_patience
        self._say = say
        self._silent = 0
        self.stopped = False

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Count steps in a row in which too few answers state a thought."""
        share = (logs or {}).get('rewards/thinking_share/mean')
        if share is None:
            return
        self._silent = self._silent + 1 if share < self._least else 0
        if self._patience and self._silent >= self._patience:
            self.stopped = control.should_training_stop = True
            self._say(
                f'stopped at step {state.global_step}: for {self._silent} steps less than '
                f'{self._least:.0%} of the answers stated a thought. Use a reward with '
                'thinking_stated, a warm start with --sft, or a smaller learning_rate.'
            )
