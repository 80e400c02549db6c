"""Training settings: a preset or a YAML file, with overrides.

Presets are in `config/training/`; their values are from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
import difflib
from pathlib import Path
from typing import Any, get_args, Literal

from segzero_ros.config import find_config
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.training.presets import read_lines, TrainingError

PRESETS = ('seg_zero', 'vision_reasoner', 'robot', 'mini')
Method = Literal['grpo', 'sft']


@dataclass(frozen=True)
class Settings:
    """The training settings.

    Attributes:
        model: folder or Hub name of the base model.
        data: training data; see `row_sources.open_rows`.
        validation: validation data in the same form; '' for none.
        output: output folder; the trained model is in its `checkpoint`.
        dialect: prompt and answer format of the model.
        method: `grpo`, or `sft` for supervised training on the rows' answers.
        reward: a preset, or a YAML file of parts and weights.
        steps: optimizer steps; 0 for one epoch.
        minutes: time limit of one session; 0 for none.
        prompts: queries per step, over all GPUs.
        generations: answers per query that are compared; GRPO only.
        micro_batch: answers per GPU in one forward pass.
        learning_rate: of AdamW.
        schedule: of the learning rate, a name of transformers.
        warmup: warm-up steps of the learning rate.
        weight_decay: of AdamW.
        max_grad_norm: for gradient clipping.
        beta: weight of the KL divergence from the base model; 0 needs no second copy of it.
        epsilon: for clipping of the probability ratio.
        entropy: weight of the entropy bonus.
        scale: divisor of the advantages: the standard deviation of the query's rewards (`group`,
            as published), of the step's rewards (`batch`), or 1 (`none`). With `group`, small
            differences between similar answers count as much as large ones.
        temperature: for sampling.
        max_completion: maximum number of tokens of an answer.
        lora_rank: LoRA rank for the language model; 0 trains all weights.
        last_layers: train only this number of last layers of the language model, its norm and its
            head (unless tied to the embedding); 0 trains all. With few answers per step the
            gradients are noisy, and frozen layers do not drift.
        freeze_vision: do not train the vision tower; the published code trains it.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        half_on_cpu: compute losses in bfloat16 on a CPU, in little more than half the time with
            hardware support.
        gradient_checkpointing: less memory for about a third more time.
        vllm: `auto` generates with vLLM if it is installed; `on`, `off`.
        save_every: steps between checkpoints.
        kept: number of checkpoints to keep.
        validate_every: steps between validations; 0 for only before and after training.
        validation_rows: number of validation rows.
        least_thinking: minimum fraction of answers with reasoning; see `thinking_patience`.
        thinking_patience: stop training after this many consecutive steps below it; 0 for never.
        seed: for data order, sampling and LoRA's weights.
    """

    model: str = ''
    data: str = 'scenes'
    validation: str = ''
    output: str = 'out/training'
    dialect: str = 'vision_reasoner'
    method: Method = 'grpo'
    reward: str = 'vision_reasoner'
    steps: int = 0
    minutes: float = 0.0
    prompts: int = 16
    generations: int = 8
    micro_batch: int = 1
    learning_rate: float = 1e-6
    schedule: str = 'constant'
    warmup: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    beta: float = 1e-2
    epsilon: float = 0.2
    entropy: float = 1e-3
    scale: Literal['group', 'batch', 'none'] = 'group'
    temperature: float = 1.0
    max_completion: int = 2000
    lora_rank: int = 0
    last_layers: int = 0
    freeze_vision: bool = False
    dtype: Literal['auto', 'float32', 'bfloat16'] = 'auto'
    half_on_cpu: bool = False
    gradient_checkpointing: bool = True
    vllm: Literal['auto', 'on', 'off'] = 'auto'
    save_every: int = 100
    kept: int = 2
    validate_every: int = 0
    validation_rows: int = 100
    least_thinking: float = 0.2
    thinking_patience: int = 20
    seed: int = 42

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.output).expanduser()

    @property
    def checkpoint(self) -> Path:
        """Return the folder of the trained model, for `reasoner_model:=`."""
        return self.folder / 'checkpoint'

    @property
    def spoken(self) -> Dialect:
        """Return the dialect."""
        return dialect_named(self.dialect)


def load_settings(source: str, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a preset or a YAML file with overrides.

    Args:
        source: name of a preset, or path of a YAML file.
        overrides: values by name.

    Raises:
        TrainingError: it cannot be read, or a setting is unknown or invalid.
    """
    path = Path(source)
    if path.suffix not in ('.yaml', '.yml'):
        if source not in PRESETS:
            raise TrainingError(
                f'There is no training preset {source!r}; choose one of {", ".join(PRESETS)}, or '
                'a YAML file.'
            )
        path = find_config(f'training/{source}.yaml')
    values = asdict(Settings())
    for where, given in ((str(path), read_lines(path)), ('the command line', overrides)):
        for name, value in given.items():
            values[name] = _checked(name, value, values, where)
    settings = Settings(**values)
    _validate(settings)
    return settings


_CHOICES = {'method': get_args(Method), 'dtype': ('auto', 'float32', 'bfloat16')}
_CHOICES |= {'vllm': ('auto', 'on', 'off'), 'scale': ('group', 'batch', 'none')}
_AT_LEAST_ONE = (
    'prompts',
    'micro_batch',
    'max_completion',
    'save_every',
    'kept',
    'validation_rows',
)
_NOT_NEGATIVE = (
    'steps',
    'minutes',
    'warmup',
    'beta',
    'entropy',
    'weight_decay',
    'lora_rank',
    'last_layers',
    'seed',
    'validate_every',
    'thinking_patience',
)


def _checked(name: str, value: Any, values: Mapping[str, Any], where: str) -> Any:
    if name not in values:
        near = difflib.get_close_matches(str(name), values, 1, cutoff=0.0)[0]
        raise TrainingError(f'{where}: there is no setting {name!r}; the nearest is {near!r}.')
    expected = type(values[name])
    if expected is bool and value in ('on', 'off'):
        value = value == 'on'
    if name == 'vllm' and isinstance(value, bool):
        # YAML parses on and off as booleans.
        value = 'on' if value else 'off'
    if expected is float and type(value) is str:
        # YAML reads 1e-6 as text.
        with suppress(ValueError):
            value = float(value)
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise TrainingError(f'{where}: {name} must be like {values[name]!r}, not {value!r}.')
    return value


def _validate(settings: Settings) -> None:
    for name, choices in _CHOICES.items():
        if getattr(settings, name) not in choices:
            raise TrainingError(f'{name} must be one of {", ".join(choices)}.')
    for names, minimum in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            if getattr(settings, name) < minimum:
                raise TrainingError(f'{name} must be {minimum} or more.')
    if settings.method == 'grpo' and settings.generations < 2:
        raise TrainingError('generations must be 2 or more: answers to one query are compared.')
    if not (settings.learning_rate > 0 and settings.temperature > 0):
        raise TrainingError('learning_rate and temperature must be above 0.')
    if settings.lora_rank and settings.last_layers:
        raise TrainingError('LoRA trains all layers: set either lora_rank:=0 or last_layers:=0.')
    if settings.data.partition(':')[0] in ('scenes', 'shapes') and settings.steps == 0:
        raise TrainingError('Generated rows have no end: set the steps, such as steps:=200.')
    if not settings.model:
        raise TrainingError('Give the base model with --model.')
    try:
        square = settings.spoken.square
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if not square:
        raise TrainingError(
            f'The dialect {settings.dialect} keeps the aspect ratio of images, but training rows '
            'are square. Use vision_reasoner, seg_zero or mini.'
        )
