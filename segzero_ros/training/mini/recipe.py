"""Recipe of the mini reasoner: render scenes, train vision tower and language model, export.

Finished stages are not repeated; an interrupted stage is resumed. A finished model can be the
start of another round on other scenes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from segzero_ros.reasoning.checkpoints import local_folder, missing_weights
from segzero_ros.training.mini import checkpoint, dense_heads, stage_runner
from segzero_ros.training.mini.architecture import (
    FastLanguageModel,
    FastVisionTower,
    model_images,
    new_model,
    patches_of,
)
from segzero_ros.training.mini.dataset import make_scenes, Scenes
from segzero_ros.training.mini.packed_sequences import (
    Batch,
    batch_of,
    embedded,
    Loss,
    mask_of,
    SequencePacker,
)
from segzero_ros.training.mini.plots import draw_curves
from segzero_ros.training.mini.sft_examples import SftExample
from segzero_ros.training.mini.vocabulary import make_tokenizer
from segzero_ros.types import ReasonerUnavailable

# Far from the seeds of the benchmark, 100000 and up.
TRAINING_SEED, UNSEEN_SEED = 1_000_000, 2_000_000
_IMAGES_PER_PASS = 50
# Weight of the pointing head's loss.
_POINTING_WEIGHT = 0.3
# Training of new heads for a trained tower: steps, batch size, number of scenes, learning rate.
_HEAD_STEPS, _HEAD_BATCH, _HEAD_SCENES, _HEAD_RATE = 250, 128, 3000, 1e-2


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training.

    Attributes:
        folder: output folder; the checkpoint is in its folder `checkpoint`.
        start: a finished model to continue from, its folder or `mini` for the one in the package;
            empty to train from scratch.
        kept: weights to use from `start`: `all`, or `eyes` for the vision tower only.
        first: number of scenes to skip, which `start` was trained on.
        scenes: number of training scenes.
        unseen: number of validation scenes.
        vision_steps: training steps of the vision tower, of `pictures` images each.
        language_steps: training steps of the language model, of `packed` images with `questions`
            queries each.
        vision_rate: maximum learning rate of the vision tower.
        language_rate: maximum learning rate of the language model; lower in further rounds.
        seed: for weights and batches.
        workers: processes that render, and with a GPU make batches.
        device: for torch; empty for a GPU if there is one.
    """

    folder: Path
    start: str = ''
    kept: str = 'all'
    first: int = 0
    scenes: int = 4000
    unseen: int = 50
    vision_steps: int = 2000
    pictures: int = 32
    language_steps: int = 6000
    packed: int = 8
    questions: int = 9
    vision_rate: float = 2e-3
    language_rate: float = 2e-3
    seed: int = 0
    workers: int = 2
    device: str = ''

    @property
    def torch_device(self) -> torch.device:
        """The device for torch."""
        return torch.device(self.device or ('cuda' if torch.cuda.is_available() else 'cpu'))

    @property
    def description(self) -> str:
        """A description of the batches."""
        begun = f', after {self.kept} of {self.start}' if self.start else ''
        return (
            f'{self.pictures} or {self.packed} x {self.questions} of scenes {self.first} to '
            f'{self.first + self.scenes}{begun}'
        )

    @property
    def batch_workers(self) -> int:
        """Processes that make batches; none without a GPU."""
        return self.workers if self.torch_device.type != 'cpu' else 0


def make(recipe: Recipe) -> Path:
    """Train the mini reasoner; return the folder of its checkpoint."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    scenes = recipe.folder / 'scenes'
    training = make_scenes(scenes, TRAINING_SEED + recipe.first, recipe.scenes, recipe.workers)
    unseen = make_scenes(scenes, UNSEEN_SEED, recipe.unseen, recipe.workers)
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, recipe.seed)
    if recipe.start:
        load_start(model, recipe)
    model = model.to(recipe.torch_device)
    train_vision_tower(recipe, model, training, unseen)
    train_language_model(recipe, model, SequencePacker(tokenizer), training, unseen)
    folder = recipe.folder / 'checkpoint'
    checkpoint.save(model, tokenizer, folder)
    steps = {'eyes': recipe.vision_steps, 'words': recipe.language_steps}
    draw_curves(recipe.folder, [stage for stage in steps if steps[stage]])
    return folder


def load_start(model: Any, recipe: Recipe) -> None:
    """Load the weights of the recipe's start model into a new model."""
    finished: Any = Qwen2_5_VLForConditionalGeneration
    folder = local_folder(recipe.start)
    if folder is None:
        raise ReasonerUnavailable(missing_weights(recipe.start))
    trained = finished.from_pretrained(folder, local_files_only=True)
    if recipe.kept == 'eyes':
        model.model.visual.load_state_dict(trained.model.visual.state_dict())
    elif recipe.kept == 'all':
        model.load_state_dict(trained.state_dict())
    else:
        raise stage_runner.StageError(f'kept must be all or eyes, not {recipe.kept!r}.')


def train_vision_tower(recipe: Recipe, model: Any, training: Scenes, unseen: Scenes) -> None:
    """Train the vision tower with dense supervision."""
    device = recipe.torch_device
    tower, heads = FastVisionTower(model.model.visual).to(device), dense_heads.Heads().to(device)
    stage = stage_runner.Stage(
        'eyes', recipe.vision_steps, recipe.vision_rate, recipe.seed, recipe.description
    )
    if (
        recipe.start
        and recipe.vision_steps
        and not stage_runner.state_path(stage, recipe.folder).exists()
    ):
        fit_heads(heads, tower, training)

    def draw(rng: np.random.Generator) -> dense_heads.View:
        rows = rng.integers(len(training), size=recipe.pictures)
        return dense_heads.augmented(
            training.pictures[rows], training.names[rows], training.places[rows], rng
        )

    def step(view: dense_heads.View) -> tuple[torch.Tensor, stage_runner.Figures]:
        view = stage_runner.to_device(view, device)
        with _autocast(device):
            features = tower(patches_of(view.pictures))
        result: tuple[torch.Tensor, stage_runner.Figures] = heads(features.float(), view)
        return result

    def evaluate() -> stage_runner.Figures:
        with torch.no_grad():
            loss, figures = step(
                dense_heads.unaugmented(unseen.pictures, unseen.names, unseen.places)
            )
        return {'loss': loss, **figures}

    modules = model.model.visual, heads
    stage_runner.run(stage, modules, draw, step, evaluate, recipe.folder, recipe.batch_workers)


def fit_heads(heads: dense_heads.Heads, tower: FastVisionTower, training: Scenes) -> None:
    """Train new heads for a trained tower, whose weights their first gradients would destroy.

    Args:
        heads: are trained.
        tower: is not trained.
        training: the scenes.
    """
    device = tower.cosine.device
    features = features_of(tower, training.pictures[:_HEAD_SCENES])
    names, places = (
        torch.from_numpy(truth[:_HEAD_SCENES]).to(device)
        for truth in (training.names, training.places)
    )
    optimizer = torch.optim.Adam(heads.parameters())
    for step in range(_HEAD_STEPS):
        for group in optimizer.param_groups:
            group['lr'] = _HEAD_RATE * (1 - step / _HEAD_STEPS)
        rows = torch.randint(len(features), (_HEAD_BATCH,)).to(device)
        view = dense_heads.View(torch.empty(0), names[rows].long(), places[rows])
        loss, _ = heads(features[rows].float(), view)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_language_model(
    recipe: Recipe, model: Any, packer: SequencePacker, training: Scenes, unseen: Scenes
) -> None:
    """Train the language model on features of the trained vision tower."""
    device = recipe.torch_device
    tower = FastVisionTower(model.model.visual).to(device)
    features = torch.stack(
        [features_of(tower, training.pictures[:, :, ::direction]) for direction in (1, -1)]
    )
    validation_features = features_of(tower, unseen.pictures)
    mini, loss_of = MiniModel(model, packer), Loss(packer, device)

    def packed(examples: Iterable[Sequence[SftExample]], rng: np.random.Generator) -> Batch:
        return batch_of(
            packer, [packer.sequence(chosen(each, recipe.questions, rng)) for each in examples]
        )

    def draw(rng: np.random.Generator) -> PackedBatches:
        rows, mirrored = (
            rng.integers(len(training), size=recipe.packed),
            rng.integers(2, size=recipe.packed),
        )
        examples = (
            training.examples[row][direction]
            for row, direction in zip(rows, mirrored, strict=True)
        )
        return PackedBatches(
            torch.from_numpy(mirrored), torch.from_numpy(rows), packed(examples, rng)
        )

    def step(batches: PackedBatches) -> tuple[torch.Tensor, stage_runner.Figures]:
        logits, following, pointing_loss = mini(
            features[batches.mirrored, batches.rows], batches.batch
        )
        loss = loss_of(logits, following)
        figures = {'written': loss.detach(), 'astray': pointing_loss.detach()}
        return loss + _POINTING_WEIGHT * pointing_loss, figures

    validation = packed(
        (plain for plain, _ in unseen.examples), np.random.default_rng(recipe.seed)
    )

    def evaluate() -> stage_runner.Figures:
        with torch.no_grad():
            logits, following, pointing_loss = mini(validation_features, validation)
            right = (logits.argmax(-1) == following).float().mean()
            return {
                'written': loss_of(logits, following),
                'right': right,
                'astray': pointing_loss,
            }

    stage = stage_runner.Stage(
        'words', recipe.language_steps, recipe.language_rate, recipe.seed, recipe.description
    )
    modules: Sequence[nn.Module] = (model.model.language_model, model.lm_head)
    stage_runner.run(stage, modules, draw, step, evaluate, recipe.folder, recipe.batch_workers)


@dataclass(frozen=True)
class PackedBatches:
    """Packed sequences and their scenes.

    Attributes:
        mirrored: (B,) 1 for the mirror image of a scene.
        rows: (B,) indices of the scenes.
        batch: the sequences.
    """

    mirrored: torch.Tensor
    rows: torch.Tensor
    batch: Batch


class MiniModel:
    """Forward pass of a model for packed sequences."""

    def __init__(self, model: Any, packer: SequencePacker) -> None:
        self._model = model
        self._packer = packer
        self._language_model = FastLanguageModel(model).to(model.device)

    def __call__(
        self, features: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (N, vocabulary) logits of the answers' tokens, the true tokens, and a loss.

        The loss trains one head to attend to the object whose coordinates are generated.
        """
        batch = stage_runner.to_device(batch, features.device)
        with _autocast(features.device):
            embed = self._model.get_input_embeddings()
            embeddings = embedded(embed, self._packer, batch, features.float()).bfloat16()
            hidden, attention = self._language_model(
                embeddings, batch.positions, mask_of(batch.parts)
            )
            logits = self._model.lm_head(hidden[batch.is_target])
        has_object = batch.object >= 0
        pointing_loss = -attention[has_object].gather(1, batch.object[has_object][:, None]).mean()
        return logits.float(), batch.following[batch.is_target], pointing_loss


def chosen(
    examples: Sequence[SftExample], count: int, rng: np.random.Generator
) -> list[SftExample]:
    """Return `count` of a scene's examples, balanced by kind.

    Args:
        examples: of the scene.
        count: number of examples.
        rng: for the choice.
    """
    order = rng.permutation(len(examples))
    counts: dict[str, int] = {}
    ranked = []
    for index in order:
        kind = examples[index].kind
        counts[kind] = counts.get(kind, 0) + 1
        ranked.append((counts[kind], index))
    return [examples[index] for _, index in sorted(ranked, key=lambda each: each[0])[:count]]


def features_of(tower: FastVisionTower, pictures: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return (N, TOKENS, WIDTH) float16 features of (N, SIDE, SIDE, 3) images."""
    device, found = tower.cosine.device, []
    with torch.no_grad(), _autocast(device):
        for start in range(0, len(pictures), _IMAGES_PER_PASS):
            patches = patches_of(
                model_images(pictures[start : start + _IMAGES_PER_PASS]).to(device)
            )
            found.append(tower(patches).to(torch.float16))
    return torch.cat(found)


def _autocast(device: torch.device) -> Any:
    # bfloat16 activations; weights and losses stay in float32.
    return torch.autocast(device.type, torch.bfloat16)
