"""Train a reasoner with TRL: GRPO or SFT.

Group-relative policy optimisation (GRPO) is from DeepSeekMath (arXiv 2402.03300), as used by
Seg-Zero and VisionReasoner.
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
    Report,
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
from segzero_ros.training.robot_rewards import MIN_WORDS
from segzero_ros.training.row_sources import (
    for_trainer,
    missing_package,
    open_rows,
    rewarded,
    UNSEEN_SEED,
)
from segzero_ros.training.rows import answer_of, Row
from segzero_ros.training.run_folder import RunFolder
from segzero_ros.training.settings import Settings
from segzero_ros.training.validation import Evaluator

_THOUGHT = re.compile(r'<think>(.*?)</think>', re.DOTALL)
_logger = logging.getLogger(__name__)


def train(settings: Settings, report: Report = _logger.info, *, restart: bool = False) -> Path:
    """Train a model, or resume training; return the folder of the trained model.

    A resumed run has the same result as an uninterrupted one: weights, optimizer, data order and
    random state continue from the last checkpoint.

    Args:
        settings: the training settings.
        report: called with lines of progress.
        restart: whether to remove an earlier run.

    Raises:
        TrainingError: training cannot start.
        ReasonerUnavailable: the base model cannot be loaded.
    """
    accumulated = _accumulated(settings)
    trl = _trl()
    dialect = settings.spoken
    reward = load_composition(settings.reward)
    rows = open_rows(settings.data, dialect, settings.steps * settings.prompts)
    if settings.method == 'grpo':
        rows = rewarded(rows, reward)
    rows.read(0)
    folder = RunFolder(settings.folder)
    checkpoint = folder.begin(settings, restart=restart)
    trainable = load_trainable_model(settings)
    report(f'{settings.method} of {settings.model} on {rows.count} rows of {rows.name}')
    callbacks: list[Any] = [
        FiguresCallback(folder),
        ProgressCallback(report),
        ThinkingLengthCallback(settings, report),
        TimingCallback(settings.minutes, report),
    ]
    validation = _validation(settings, dialect, reward, trainable)
    if validation is not None:
        # Before FiguresCallback, so that the last figures are written too.
        callbacks.insert(0, validation)
    make = _grpo if settings.method == 'grpo' else _sft
    trainer = make(trl, settings, trainable, rows, reward, folder, accumulated, callbacks)
    if validation is not None:
        validation.trainer = trainer
    if settings.half_on_cpu and not torch.cuda.is_available():
        halve(trainer)
    resume_faithfully(trainer)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save(trainable, trainer, settings.checkpoint)
    return settings.checkpoint


def _trl() -> Any:
    try:
        import trl
    except ImportError as error:
        raise missing_package(error) from error
    return trl


def _accumulated(settings: Settings) -> int:
    """Return the gradient accumulation steps."""
    answers = settings.prompts * (settings.generations if settings.method == 'grpo' else 1)
    at_once = settings.micro_batch * int(os.environ.get('WORLD_SIZE', '1'))
    if answers % at_once:
        raise TrainingError(
            f'The {answers} answers of a step are not divisible by the {at_once} of a forward '
            'pass on all GPUs. Change prompts, generations or micro_batch.'
        )
    return answers // at_once


def _validation(
    settings: Settings, dialect: Dialect, reward: Composition, trainable: TrainableModel
) -> ValidationCallback | None:
    if not settings.validation:
        return None
    rows = open_rows(settings.validation, dialect, settings.validation_rows, UNSEEN_SEED)
    validation_rows = [
        rows.read(number) for number in range(min(rows.count, settings.validation_rows))
    ]
    evaluator = Evaluator(validation_rows, dialect, reward, settings.max_completion)
    return ValidationCallback(evaluator, trainable.processor, settings.validate_every)


def _common_arguments(
    settings: Settings, trainable: TrainableModel, folder: RunFolder, accumulated: int
) -> dict[str, Any]:
    """Return the arguments of both trainers."""
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
    functions = [_reward_function(name) for name in reward.weights] + [thinking_share]
    config = trl.GRPOConfig(
        **_common_arguments(settings, trainable, folder, accumulated),
        num_generations=settings.generations,
        max_completion_length=settings.max_completion,
        beta=settings.beta,
        epsilon=settings.epsilon,
        entropy_coef=settings.entropy,
        temperature=settings.temperature,
        scale_rewards=settings.scale,
        # Mean over all tokens of a batch, as in the published trainer.
        loss_type='bnpo',
        reward_weights=[*reward.weights.values(), 0.0],
        use_vllm=_uses_vllm(settings),
        vllm_mode='colocate',
    )
    trainer = trl.GRPOTrainer(
        model=trainable.model,
        reward_funcs=functions,
        args=config,
        train_dataset=for_trainer(rows, settings.spoken, _with_tokens(_grpo_example, trainable)),
        processing_class=trainable.processor,
        callbacks=callbacks,
    )
    return _quiet(trainer)


def _uses_vllm(settings: Settings) -> bool:
    is_available = importlib.util.find_spec('vllm') is not None and torch.cuda.is_available()
    if settings.vllm == 'on' and not is_available:
        raise TrainingError('vllm is on, but vLLM is not installed or there is no GPU.')
    return is_available and settings.vllm != 'off'


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
        **_common_arguments(settings, trainable, folder, accumulated),
        # Image tokens must not be truncated.
        max_length=None,
        completion_only_loss=True,
    )
    trainer = trl.SFTTrainer(
        model=trainable.model,
        args=config,
        train_dataset=for_trainer(rows, settings.spoken, _with_tokens(_sft_example, trainable)),
        processing_class=trainable.processor,
        callbacks=callbacks,
    )
    return _quiet(trainer)


def _quiet(trainer: Any) -> Any:
    """Remove the callback that prints every step; `ProgressCallback` reports instead."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def halve(trainer: Any) -> None:
    """Make a trainer compute losses in bfloat16, but generate in the dtype of the weights.

    The trainers' own setting would convert all weights for each generated token.
    """
    original = trainer.compute_loss

    def compute(*given: Any, **named: Any) -> Any:
        with torch.autocast('cpu', torch.bfloat16):
            return original(*given, **named)

    trainer.compute_loss = compute


def _with_tokens(
    make: Callable[..., dict[str, Any]], trainable: TrainableModel
) -> Callable[..., dict[str, Any]]:
    return partial(make, control_tokens(trainable.processor))


def _grpo_example(tokens: Sequence[str], row: Row, dialect: Dialect) -> dict[str, Any]:
    """Return a row as columns of GRPO's trainer, which puts the image before the text.

    Args:
        tokens: the tokenizer's special tokens, which are removed from the text.
        row: the row.
        dialect: of the prompt.
    """
    return {
        'prompt': [{'role': 'user', 'content': dialect.prompt(row.problem, tokens)}],
        'image': _image(row),
        'solution': row.solution,
    }


def _sft_example(tokens: Sequence[str], row: Row, dialect: Dialect) -> dict[str, Any]:
    """Return a row as columns of the SFT trainer; see `_grpo_example`."""
    answer = plain_answer(answer_of(row, dialect), tokens)
    return {
        'prompt': [{'role': 'user', 'content': dialect.prompt(row.problem, tokens)}],
        'completion': [{'role': 'assistant', 'content': answer}],
        'images': [_image(row)],
    }


def _image(row: Row) -> Any:
    from PIL import Image

    return Image.fromarray(row.image)


def _reward_function(name: str) -> Callable[..., list[float]]:
    """Return a part of the reward as a function for the trainer, which logs it by its name."""
    part = PARTS[name]

    def evaluate(completions: list[Any], solution: list[str], **_: Any) -> list[float]:
        texts = map(_text, completions)
        return [part(text, true) for text, true in zip(texts, solution, strict=True)]

    evaluate.__name__ = name
    return evaluate


def thinking_share(completions: list[Any], log_metric: Any = None, **_: Any) -> list[float]:
    """Return for each answer whether it has reasoning; a metric with weight 0."""
    found = [_THOUGHT.search(_text(completion)) for completion in completions]
    words = [len(thought.group(1).split()) if thought else 0 for thought in found]
    if log_metric is not None:
        log_metric('thought_words', sum(words) / len(words))
    return [float(count >= MIN_WORDS) for count in words]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[0]['content'])
