"""Load the base model, check its memory, save the trained model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
import logging
from pathlib import Path
from typing import Any

import torch
import transformers

from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.gqa_decode_attention import use_gqa_decode_attention
from segzero_ros.reasoning.processors import load_processor, read_processor
from segzero_ros.reasoning.weights import complete_generation, read_weights
from segzero_ros.training.prefix_sharing import share_prefixes
from segzero_ros.training.presets import TrainingError
from segzero_ros.training.row_sources import missing_package
from segzero_ros.training.settings import Settings
from segzero_ros.training.vision_dedup import deduplicate_images

# transformers' factories have no types.
_generation: Any = transformers.GenerationConfig
_models: Any = transformers.AutoModelForImageTextToText
# Larger models are not trained on a CPU.
_MAX_CPU_PARAMETERS = 200_000_000
# The language model's layers; the vision tower has layers of the same names.
_LORA_TARGETS = r'.*language_model.*\.(q|k|v|o|gate|up|down)_proj'
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainableModel:
    """A model to train.

    Attributes:
        model: with LoRA layers, if configured.
        processor: of its prompts and images.
        folder: of the base checkpoint.
        generation: its original `generation_config`; training needs another.
        half: whether it computes in bfloat16.
    """

    model: Any
    processor: Any
    folder: Path
    generation: Any
    half: bool


def gigabytes(parameters: int, settings: Settings) -> float:
    """Return the calculated memory for weights and optimizer over all GPUs, in 10⁹ bytes.

    Full training: 4 bytes for the weight, 4 for its gradient, 8 for AdamW. LoRA: 2 for the weight;
    the adapters are small. The KL divergence needs a second copy of the weights, except with LoRA.
    Answers and activations need additional memory.
    """
    if settings.lora_rank:
        return parameters * 2 / 1e9
    reference = 4 if settings.method == 'grpo' and settings.beta else 0
    return parameters * (16 + reference) / 1e9


def load_trainable_model(settings: Settings) -> TrainableModel:
    """Load the base model.

    Raises:
        TrainingError: this machine cannot train it.
        ReasonerUnavailable: it cannot be loaded, or does not support the dialect.
    """
    folder = checkpoints.local_folder(settings.model, settings.spoken.recipe)
    if folder is None:
        folder = checkpoints.download(settings.model)
    checkpoint = checkpoints.open_checkpoint(folder, settings.spoken)
    on_gpu = torch.cuda.is_available()
    _check_memory(checkpoint.parameters, settings, on_gpu)
    half = on_gpu and settings.dtype != 'float32'
    small = settings.dtype == 'bfloat16' or (half and settings.lora_rank > 0)
    transformers.set_seed(settings.seed)
    loaded = load_processor(checkpoint, settings.spoken)
    # Updates of 1e-6 are lost in bfloat16's 8 bits: trained weights stay in float32.
    model = read_weights(folder, dtype=torch.bfloat16 if small else torch.float32)
    generation = deepcopy(model.generation_config)
    complete_generation(folder, model.generation_config, loaded)
    model.config.image_token_id = loaded.image_token_id
    model.generation_config = _generation(
        **{
            name: getattr(model.generation_config, name)
            for name in ('eos_token_id', 'pad_token_id', 'bos_token_id')
        }
    )
    deduplicate_images(model.model.visual)
    share_prefixes(model.model)
    use_gqa_decode_attention(model)
    if settings.freeze_vision:
        model.model.visual.requires_grad_(False)
    if settings.last_layers:
        _leave_all_but_last(model, settings.last_layers)
    if settings.lora_rank:
        model = _with_lora(model, settings)
    return TrainableModel(model, loaded.processor, folder, generation, half)


def _check_memory(parameters: int, settings: Settings, on_gpu: bool) -> None:
    needs = gigabytes(parameters, settings)
    if not on_gpu and parameters > _MAX_CPU_PARAMETERS:
        raise TrainingError(
            f'{settings.model} has {parameters / 1e9:.1f} billion parameters, but torch finds no '
            f'GPU. Training it needs about {needs:.0f} GB of GPU memory in addition to answers '
            'and activations; see the table in docs/training.md. lora_rank:=64 needs less.'
        )
    if on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        count = torch.cuda.device_count()
        if needs > total * count:
            raise TrainingError(
                f'Training {settings.model} needs about {needs:.0f} GB in addition to answers and '
                f'activations, but there are {count} GPU(s) of {total:.0f} GB. Set lora_rank:=64, '
                'beta:=0, or use more GPUs.'
            )


def _leave_all_but_last(model: Any, last_layers: int) -> None:
    """Freeze the language model except for its last layers, its norm and its head."""
    language = model.model.language_model
    if last_layers > len(language.layers):
        raise TrainingError(
            f'last_layers is {last_layers}, but the model has {len(language.layers)} layers: '
            '0 trains all.'
        )
    language.requires_grad_(False)
    for part in (*language.layers[-last_layers:], language.norm):
        part.requires_grad_(True)
    # A head with the embedding's weights would change the input of all layers.
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    model.lm_head.requires_grad_(not tied)


def _with_lora(model: Any, settings: Settings) -> Any:
    try:
        import peft
    except ImportError as error:
        raise missing_package(error) from error
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=_LORA_TARGETS,
        task_type='CAUSAL_LM',
    )
    if not settings.freeze_vision:
        _logger.info('LoRA does not train the vision tower')
    return peft.get_peft_model(model, config)


def resume_faithfully(trainer: Any) -> None:
    """Make a trainer resume with the weights of its checkpoint.

    transformers saves this family with the published weight names, but looks for its own names
    when a run is resumed: it finds none, warns, and resumes with the base model's weights. So the
    checkpoint is loaded here by `from_pretrained`, which supports both. LoRA and sharded
    checkpoints are not affected.
    """
    original = trainer._load_from_checkpoint

    def load(folder: str, model: Any = None) -> None:
        trained = trainer.accelerator.unwrap_model(model or trainer.model)
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if sharded or hasattr(trained, 'peft_config'):
            original(folder, model)
            return
        saved = _models.from_pretrained(
            folder, dtype=trained.dtype, use_safetensors=True, local_files_only=True
        )
        trained.load_state_dict(saved.state_dict())

    trainer._load_from_checkpoint = load


def save(trainable: TrainableModel, trainer: Any, folder: Path) -> None:
    """Write the trained model as a folder for `reasoner_model:=`, with LoRA merged."""
    trained = trainer.accelerator.unwrap_model(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return
    if hasattr(trained, 'merge_and_unload'):
        trained, state = trained.merge_and_unload(), None
    trained.generation_config = trainable.generation
    trained.save_pretrained(folder, state_dict=state)
    save_processor(trainable.folder, folder)


def save_processor(source: Path, folder: Path) -> None:
    """Copy a checkpoint's processor into another folder."""
    read_processor(source).save_pretrained(folder)
