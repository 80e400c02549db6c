"""How a model is trained: one typed record, from a preset or a YAML file and what overrules it.

Presets lie in `config/training/`; their numbers are the papers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
import difflib
from pathlib import Path
from typing import Any, get_args, Literal

from segzero_ros.profiles import find_config
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.training.presets import read_lines, TrainingError

PRESETS = ('seg_zero', 'vision_reasoner', 'robot', 'mini')
Method = Literal['grpo', 'sft']


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        model: folder or hub name of the model that training starts from.
        data: what is learnt from; see `sources.open_rows`.
        validation: what is asked meanwhile, in the same words; '' for nothing.
        output: folder of the run; the trained model is its `checkpoint`.
        dialect: how the model is spoken to.
        method: `grpo`, or `sft` for supervised training on the rows' answers.
        reward: a preset of rewards, or a YAML file of parts and weights.
        steps: optimizer steps; 0 for one epoch.
        minutes: training stops after so long in one session; 0 never stops.
        prompts: questions per step, over all GPUs.
        generations: answers per question that are compared; GRPO only.
        micro_batch: answers that go through a GPU at once.
        learning_rate: of AdamW.
        schedule: of the learning rate, as transformers names them.
        warmup: steps in which the rate rises.
        weight_decay: of AdamW.
        max_grad_norm: at which gradients are clipped.
        beta: weight of the KL divergence from the first model; 0 needs no second copy of it.
        epsilon: at which the ratio of probabilities is clipped.
        entropy: weight of the entropy that is rewarded.
        scale: what a reward's distance from its question's mean is divided by: the standard
            deviation of the question's rewards (`group`, as published), of the whole step's
            (`batch`), or nothing (`none`). By the group's, answers that are all nearly as good
            count as much as good ones beside bad ones.
        temperature: of sampling.
        max_completion: most tokens of an answer.
        lora_rank: 0 trains all weights, else LoRA of this rank on the language model.
        last_layers: train no more of the language model than so many of its last layers, the norm
            behind them and the head, unless that is the embedding too; 0 trains it all. With few
            answers a step most of what weights do is chance, and what is not trained does not
            wander.
        freeze_vision: leave the vision tower as it is; the published code trains it.
        dtype: of the weights: `auto` is bfloat16 on a GPU and float32 on a CPU.
        half_on_cpu: compute losses in bfloat16 on a CPU too; those that have instructions for it
            take little more than half the time.
        gradient_checkpointing: less memory for a third more time.
        vllm: `auto` lets vLLM write the answers where it is installed; `on`, `off`.
        save_every: steps between checkpoints.
        kept: how many checkpoints are kept.
        validate_every: steps between validations; 0 for none but at both ends.
        validation_rows: how many rows are asked.
        least_thinking: share of answers that must state a thought; see `thinking_patience`.
        thinking_patience: training stops after so many steps in a row below; 0 never stops.
        seed: of data order, sampling and LoRA's weights.
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
        """Return the folder of the run."""
        return Path(self.output).expanduser()

    @property
    def checkpoint(self) -> Path:
        """Return the folder of the trained model, which `reasoner_model:=` takes."""
        return self.folder / 'checkpoint'

    @property
    def spoken(self) -> Dialect:
        """Return the dialect."""
        return dialect_named(self.dialect)


def load_settings(source: str, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a preset or a YAML file, and what overrules them.

    Raises:
        TrainingError: it cannot be read, or a setting does not exist or makes no sense.
    """
    path = Path(source)
    if path.suffix not in ('.yaml', '.yml'):
        if source not in PRESETS:
            raise TrainingError(
                f'There is no training preset {source!r}; there are {", ".join(PRESETS)}, or name '
                'a YAML file.'
            )
        path = find_config(f'training/{source}.yaml')
    values = asdict(Settings())
    for where, given in ((str(path), read_lines(path)), ('the command line', overrides)):
        for name, value in given.items():
            values[name] = _checked(name, value, values, where)
    settings = Settings(**values)
    _refuse_nonsense(settings)
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
    wanted = type(values[name])
    if wanted is bool and value in ('on', 'off'):
        value = value == 'on'
    if name == 'vllm' and isinstance(value, bool):
        # YAML reads on and off as truth values.
        value = 'on' if value else 'off'
    if wanted is float and type(value) is str:
        # YAML reads 1e-6 as text.
        with suppress(ValueError):
            value = float(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise TrainingError(f'{where}: {name} must be like {values[name]!r}, not {value!r}.')
    return value


def _refuse_nonsense(settings: Settings) -> None:
    for name, choices in _CHOICES.items():
        if getattr(settings, name) not in choices:
            raise TrainingError(f'{name} must be one of {", ".join(choices)}.')
    for names, least in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            if getattr(settings, name) < least:
                raise TrainingError(f'{name} must be {least} or more.')
    if settings.method == 'grpo' and settings.generations < 2:
        raise TrainingError('generations must be 2 or more: answers to one question are compared.')
    if not (settings.learning_rate > 0 and settings.temperature > 0):
        raise TrainingError('learning_rate and temperature must be above 0.')
    if settings.lora_rank and settings.last_layers:
        raise TrainingError(
            'LoRA changes all layers: set lora_rank:=0 or last_layers:=0, whichever is meant less.'
        )
    if settings.data.partition(':')[0] in ('scenes', 'shapes') and settings.steps == 0:
        raise TrainingError('Generated rows have no end: name the steps, such as steps:=200.')
    if not settings.model:
        raise TrainingError('Name the model that training starts from, with --model.')
    try:
        square = settings.spoken.square
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if not square:
        raise TrainingError(
            f'The dialect {settings.dialect} keeps the shape of pictures; training rows are '
            'square. Train vision_reasoner, seg_zero or mini.'
        )
