"""Train a reasoner: GRPO on TRL's trainer, or supervised on TRL's other one.

Group-relative policy optimisation is DeepSeekMath's (arXiv 2402.03300), as Seg-Zero and
VisionReasoner use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
import importlib.util
import logging
import os
from pathlib import Path
import re
from typing import Any

import torch

from segzero_ros.reasoning.control_tokens import control_tokens, plain_answer
from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.training.callbacks import (
    FiguresCallback,
    ProgressCallback,
    Say,
    ThinkingLengthCallback,
    TimingCallback,
    ValidationCallback,
)
from segzero_ros.training.models import (
    load_trainable_model,
    resume_faithfully,
    save,
    TrainableModel,
)
from segzero_ros.training.presets import Composition, load_composition, PARTS, TrainingError
from segzero_ros.training.robot_rewards import FEWEST_WORDS
from segzero_ros.training.row_sources import for_trainer, missing_package, open_rows, UNSEEN_SEED
from segzero_ros.training.rows import answer_of, Row
from segzero_ros.training.run_folder import RunFolder
from segzero_ros.training.settings import Settings
from segzero_ros.training.validation import Evaluator

_THOUGHT = re.compile(r'<think>(.*?)</think>', re.DOTALL)
_logger = logging.getLogger(__name__)


def train(settings: Settings, say: Say = _logger.info, *, restart: bool = False) -> Path:
    """Train a model, or go on where training was broken off; return the folder it is in.

    A run that was killed and goes on learns exactly what it would have learnt: weights, optimizer,
    data order and random numbers go on from the last checkpoint.

    Args:
        settings: what and how.
        say: is told how far it is.
        restart: begin anew.

    Raises:
        TrainingError: it cannot begin.
        ReasonerUnavailable: the model cannot be had.
    """
    accumulated = _accumulated(settings)
    trl = _trl()
    dialect = settings.spoken
    reward = load_composition(settings.reward)
    rows = open_rows(settings.data, dialect, settings.steps * settings.prompts)
    rows.read(0)
    folder = RunFolder(settings.folder)
    begun = folder.begin(settings, restart=restart)
    trainable = load_trainable_model(settings)
    say(f'{settings.method} of {settings.model} on {rows.count} rows of {rows.name}')
    watch = ThinkingLengthCallback(settings, say)
    callbacks: list[Any] = [
        FiguresCallback(folder),
        ProgressCallback(say),
        watch,
        TimingCallback(settings.minutes, say),
    ]
    validation = _validation(settings, dialect, reward, trainable)
    if validation is not None:
        # Before the keeper, so that the last figures are written too.
        callbacks.insert(0, validation)
    make = _grpo if settings.method == 'grpo' else _sft
    trainer = make(trl, settings, trainable, rows, reward, folder, accumulated, callbacks)
    if validation is not None:
        validation.trainer = trainer
    if settings.half_on_cpu and not torch.cuda.is_available():
        halve(trainer)
    resume_faithfully(trainer)
    trainer.train(resume_from_checkpoint=None if begun is None else str(begun))
    save(trainable, trainer, settings.checkpoint)
    return settings.checkpoint


def _trl() -> Any:
    try:
        import trl
    except ImportError as error:
        raise missing_package(error) from error
    return trl


def _accumulated(settings: Settings) -> int:
    """Return how many micro-batches make a step on each GPU."""
    answers = settings.prompts * (settings.generations if settings.method == 'grpo' else 1)
    at_once = settings.micro_batch * int(os.environ.get('WORLD_SIZE', '1'))
    if answers % at_once:
        raise TrainingError(
            f'A step has {answers} answers; {at_once} go through the GPUs at once, and the one '
            'is no multiple of the other. Change prompts, generations or micro_batch.'
        )
    return answers // at_once


def _validation(
    settings: Settings, dialect: Dialect, reward: Composition, trainable: TrainableModel
) -> ValidationCallback | None:
    if not settings.validation:
        return None
    rows = open_rows(settings.validation, dialect, settings.validation_rows, UNSEEN_SEED)
    asked = [rows.read(number) for number in range(min(rows.count, settings.validation_rows))]
    evaluator = Evaluator(asked, dialect, reward, settings.max_completion)
    return ValidationCallback(evaluator, trainable.processor, settings.validate_every)


def _common(
    settings: Settings, trainable: TrainableModel, folder: RunFolder, accumulated: int
) -> dict[str, Any]:
    """Return what both trainers are configured with."""
    length: dict[str, Any] = {'num_train_epochs': 1}
    if settings.steps:
        length = {'max_steps': settings.steps}
    os.environ['TENSORBOARD_LOGGING_DIR'] = str(folder.path / 'tensorboard')
    return length | {
        'output_dir': str(folder.steps),
        'per_device_train_batch_size': settings.micro_batch,
        'gradient_accumulation_steps': accumulated,
        'learning_rate': settings.learning_rate,
        'lr_scheduler_type': settings.schedule,
        'warmup_steps': settings.warmup,
        'weight_decay': settings.weight_decay,
        'max_grad_norm': settings.max_grad_norm,
        'seed': settings.seed,
        'bf16': trainable.half,
        'use_cpu': not torch.cuda.is_available(),
        'gradient_checkpointing': settings.gradient_checkpointing,
        'save_steps': settings.save_every,
        'save_total_limit': settings.kept,
        'logging_steps': 1,
        'report_to': ['tensorboard'],
        'disable_tqdm': True,
        'remove_unused_columns': False,
        'dataloader_pin_memory': torch.cuda.is_available(),
    }


def _grpo(
    trl: Any,
    settings: Settings,
    trainable: TrainableModel,
    rows: Any,
    reward: Composition,
    folder: RunFolder,
    accumulated: int,
    callbacks: list[Any],
) -> Any:
    functions = [_judge(name) for name in reward.weights] + [thinking_share]
    config = trl.GRPOConfig(
        **_common(settings, trainable, folder, accumulated),
        num_generations=settings.generations,
        max_completion_length=settings.max_completion,
        beta=settings.beta,
        epsilon=settings.epsilon,
        entropy_coef=settings.entropy,
        temperature=settings.temperature,
        scale_rewards=settings.scale,
        # The mean over all tokens of a batch, as in the published trainer.
        loss_type='bnpo',
        reward_weights=[*reward.weights.values(), 0.0],
        use_vllm=_with_vllm(settings),
        vllm_mode='colocate',
    )
    trainer = trl.GRPOTrainer(
        model=trainable.model,
        reward_funcs=functions,
        args=config,
        train_dataset=for_trainer(rows, settings.spoken, _plainly(_question, trainable)),
        processing_class=trainable.processor,
        callbacks=callbacks,
    )
    return _quiet(trainer)


def _with_vllm(settings: Settings) -> bool:
    there = importlib.util.find_spec('vllm') is not None and torch.cuda.is_available()
    if settings.vllm == 'on' and not there:
        raise TrainingError('vllm:=on, but vLLM is not installed or there is no GPU.')
    return there and settings.vllm != 'off'


def _sft(
    trl: Any,
    settings: Settings,
    trainable: TrainableModel,
    rows: Any,
    reward: Composition,
    folder: RunFolder,
    accumulated: int,
    callbacks: list[Any],
) -> Any:
    config = trl.SFTConfig(
        **_common(settings, trainable, folder, accumulated),
        # A picture's tokens must not be cut off.
        max_length=None,
        completion_only_loss=True,
    )
    trainer = trl.SFTTrainer(
        model=trainable.model,
        args=config,
        train_dataset=for_trainer(rows, settings.spoken, _plainly(_example, trainable)),
        processing_class=trainable.processor,
        callbacks=callbacks,
    )
    return _quiet(trainer)


def _quiet(trainer: Any) -> Any:
    """Take away what prints every step's figures; `ProgressCallback` says how far it is."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def halve(trainer: Any) -> None:
    """Have a trainer compute losses in bfloat16; answers are written in the weights' own type.

    The trainers' own setting would convert all weights anew for each token that is written.
    """
    plainly = trainer.compute_loss

    def compute(*given: Any, **named: Any) -> Any:
        with torch.autocast('cpu', torch.bfloat16):
            return plainly(*given, **named)

    trainer.compute_loss = compute


def _plainly(
    make: Callable[..., dict[str, Any]], trainable: TrainableModel
) -> Callable[..., dict[str, Any]]:
    return partial(make, control_tokens(trainable.processor))


def _question(tokens: Sequence[str], row: Row, dialect: Dialect) -> dict[str, Any]:
    """Return a row as GRPO's trainer takes it; it puts the picture before the text.

    Args:
        tokens: the tokenizer's special tokens, which data may not hold.
        row: what is asked.
        dialect: how.
    """
    return {
        'prompt': [{'role': 'user', 'content': dialect.prompt(row.problem, tokens)}],
        'image': _picture(row),
        'solution': row.solution,
    }


def _example(tokens: Sequence[str], row: Row, dialect: Dialect) -> dict[str, Any]:
    """Return a row as the supervised trainer takes it; see `_question`."""
    answer = plain_answer(answer_of(row, dialect), tokens)
    return {
        'prompt': [{'role': 'user', 'content': dialect.prompt(row.problem, tokens)}],
        'completion': [{'role': 'assistant', 'content': answer}],
        'images': [_picture(row)],
    }


def _picture(row: Row) -> Any:
    from PIL import Image

    return Image.fromarray(row.image)


def _judge(name: str) -> Callable[..., list[float]]:
    """Return a part of the reward as the trainer calls it; its name is its curve's."""
    part = PARTS[name]

    def judge(completions: list[Any], solution: list[str], **_: Any) -> list[float]:
        texts = map(_text, completions)
        return [part(text, true) for text, true in zip(texts, solution, strict=True)]

    judge.__name__ = name
    return judge


def thinking_share(completions: list[Any], log_metric: Any = None, **_: Any) -> list[float]:
    """Return for each answer whether it states a thought; its weight in the reward is 0."""
    found = [_THOUGHT.search(_text(completion)) for completion in completions]
    words = [len(thought.group(1).split()) if thought else 0 for thought in found]
    if log_metric is not None:
        log_metric('thought_words', sum(words) / len(words))
    return [float(count >= FEWEST_WORDS) for count in words]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[0]['content'])
