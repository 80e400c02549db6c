"""The recipe for the small reasoner: scenes, then eyes, then words, then a checkpoint.

Each stage leaves its result in the folder and is not repeated; a stage that was broken off goes on
where it stood. A finished model can be the start of another round, on other scenes.
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
    new_model,
    patches_of,
    shown,
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
_AT_ONCE = 50
# How much a wrong look counts beside a wrong word.
_POINTING = 0.3
# New heads over a trained tower: steps, scenes of a step, scenes in all, and the rate.
_FITTING, _FITTED_AT_ONCE, _FITTED, _FITTING_RATE = 250, 128, 3000, 1e-2


@dataclass(frozen=True)
class Recipe:
    """How much of everything.

    Attributes:
        folder: where all is kept; the checkpoint is in its folder `checkpoint`.
        start: a finished model to go on from, its folder or `mini`, the one that comes with the
            package; none if empty.
        kept: what is kept of `start`: `all`, or `eyes` to teach the words anew.
        first: how many scenes to pass over, those that `start` has seen.
        scenes: to learn from.
        unseen: scenes that figures are of while training.
        eyes: steps of dense supervision, of `pictures` pictures each.
        words: steps of next-token training, of `packed` pictures with `questions` questions each.
        eyes_rate: highest learning rate of the eyes.
        words_rate: and of the words; of a further round less than of the first.
        seed: of weights and batches.
        workers: processes that render, and on a GPU draw batches.
        device: for torch; a GPU where there is one if it is empty.
    """

    folder: Path
    start: str = ''
    kept: str = 'all'
    first: int = 0
    scenes: int = 4000
    unseen: int = 50
    eyes: int = 2000
    pictures: int = 32
    words: int = 6000
    packed: int = 8
    questions: int = 9
    eyes_rate: float = 2e-3
    words_rate: float = 2e-3
    seed: int = 0
    workers: int = 2
    device: str = ''

    @property
    def place(self) -> torch.device:
        """The device that is meant."""
        return torch.device(self.device or ('cuda' if torch.cuda.is_available() else 'cpu'))

    @property
    def drawn(self) -> str:
        """What batches are drawn from, in words."""
        begun = f', after {self.kept} of {self.start}' if self.start else ''
        return (
            f'{self.pictures} or {self.packed} x {self.questions} of scenes {self.first} to '
            f'{self.first + self.scenes}{begun}'
        )

    @property
    def drawing(self) -> int:
        """Processes that draw batches: a CPU has enough to do with the steps themselves."""
        return self.workers if self.place.type != 'cpu' else 0


def make(recipe: Recipe) -> Path:
    """Make the small reasoner; return the folder of its checkpoint."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    scenes = recipe.folder / 'scenes'
    seen = make_scenes(scenes, TRAINING_SEED + recipe.first, recipe.scenes, recipe.workers)
    unseen = make_scenes(scenes, UNSEEN_SEED, recipe.unseen, recipe.workers)
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, recipe.seed)
    if recipe.start:
        take_over(model, recipe)
    model = model.to(recipe.place)
    train_vision_tower(recipe, model, seen, unseen)
    train_language_model(recipe, model, SequencePacker(tokenizer), seen, unseen)
    folder = recipe.folder / 'checkpoint'
    checkpoint.save(model, tokenizer, folder)
    steps = {'eyes': recipe.eyes, 'words': recipe.words}
    draw_curves(recipe.folder, [stage for stage in steps if steps[stage]])
    return folder


def take_over(model: Any, recipe: Recipe) -> None:
    """Give a new model what is kept of the one that the recipe starts from."""
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


def train_vision_tower(recipe: Recipe, model: Any, seen: Scenes, unseen: Scenes) -> None:
    """Train the vision tower to say at each token what it shows."""
    place = recipe.place
    tower, heads = FastVisionTower(model.model.visual).to(place), dense_heads.Heads().to(place)
    stage = stage_runner.Stage('eyes', recipe.eyes, recipe.eyes_rate, recipe.seed, recipe.drawn)
    if recipe.start and recipe.eyes and not stage_runner.state_of(stage, recipe.folder).exists():
        fit(heads, tower, seen)

    def draw(rng: np.random.Generator) -> dense_heads.View:
        rows = rng.integers(len(seen), size=recipe.pictures)
        return dense_heads.augmented(seen.pictures[rows], seen.names[rows], seen.places[rows], rng)

    def step(view: dense_heads.View) -> tuple[torch.Tensor, stage_runner.Figures]:
        view = stage_runner.moved(view, place)
        with _half(place):
            features = tower(patches_of(view.pictures))
        result: tuple[torch.Tensor, stage_runner.Figures] = heads(features.float(), view)
        return result

    def judge() -> stage_runner.Figures:
        with torch.no_grad():
            loss, figures = step(
                dense_heads.as_they_are(unseen.pictures, unseen.names, unseen.places)
            )
        return {'loss': loss, **figures}

    modules = model.model.visual, heads
    stage_runner.run(stage, modules, draw, step, judge, recipe.folder, recipe.drawing)


def fit(heads: dense_heads.Heads, tower: FastVisionTower, seen: Scenes) -> None:
    """Have new heads learn to read a trained tower, which would be torn by what they say at first.

    Args:
        heads: to be trained.
        tower: which is not.
        seen: scenes to learn from.
    """
    place = tower.cosine.device
    features = features_of(tower, seen.pictures[:_FITTED])
    names, places = (
        torch.from_numpy(truth[:_FITTED]).to(place) for truth in (seen.names, seen.places)
    )
    optimizer = torch.optim.Adam(heads.parameters())
    for step in range(_FITTING):
        for group in optimizer.param_groups:
            group['lr'] = _FITTING_RATE * (1 - step / _FITTING)
        rows = torch.randint(len(features), (_FITTED_AT_ONCE,)).to(place)
        view = dense_heads.View(torch.empty(0), names[rows].long(), places[rows])
        loss, _ = heads(features[rows].float(), view)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_language_model(
    recipe: Recipe, model: Any, writer: SequencePacker, seen: Scenes, unseen: Scenes
) -> None:
    """Train the language model to answer, on what the trained tower makes of the pictures."""
    place = recipe.place
    tower = FastVisionTower(model.model.visual).to(place)
    features = torch.stack([features_of(tower, seen.pictures[:, :, ::way]) for way in (1, -1)])
    judged = features_of(tower, unseen.pictures)
    trainable, loss_of = MiniModel(model, writer), Loss(writer, place)

    def packed(examples: Iterable[Sequence[SftExample]], rng: np.random.Generator) -> Batch:
        return batch_of(
            writer, [writer.sequence(chosen(each, recipe.questions, rng)) for each in examples]
        )

    def draw(rng: np.random.Generator) -> PackedBatches:
        rows, ways = (
            rng.integers(len(seen), size=recipe.packed),
            rng.integers(2, size=recipe.packed),
        )
        examples = (seen.examples[row][way] for row, way in zip(rows, ways, strict=True))
        return PackedBatches(torch.from_numpy(ways), torch.from_numpy(rows), packed(examples, rng))

    def step(drawn: PackedBatches) -> tuple[torch.Tensor, stage_runner.Figures]:
        logits, following, astray = trainable(features[drawn.ways, drawn.rows], drawn.batch)
        loss = loss_of(logits, following)
        figures = {'written': loss.detach(), 'astray': astray.detach()}
        return loss + _POINTING * astray, figures

    asked = packed((plain for plain, _ in unseen.examples), np.random.default_rng(recipe.seed))

    def judge() -> stage_runner.Figures:
        with torch.no_grad():
            logits, following, astray = trainable(judged, asked)
            right = (logits.argmax(-1) == following).float().mean()
            return {'written': loss_of(logits, following), 'right': right, 'astray': astray}

    stage = stage_runner.Stage('words', recipe.words, recipe.words_rate, recipe.seed, recipe.drawn)
    modules: Sequence[nn.Module] = (model.model.language_model, model.lm_head)
    stage_runner.run(stage, modules, draw, step, judge, recipe.folder, recipe.drawing)


@dataclass(frozen=True)
class PackedBatches:
    """Questions about some scenes.

    Attributes:
        ways: (B,) 1 where the mirror image of a scene is shown.
        rows: (B,) the scenes.
        batch: what is asked.
    """

    ways: torch.Tensor
    rows: torch.Tensor
    batch: Batch


class MiniModel:
    """A model that answers all questions about some pictures at once, told the true answers."""

    def __init__(self, model: Any, writer: SequencePacker) -> None:
        self._model = model
        self._writer = writer
        self._reader = FastLanguageModel(model).to(model.device)

    def __call__(
        self, features: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (N, vocabulary) logits at the answers' tokens, the true ones, and a loss.

        The loss tells how far one head is from looking at the object whose coordinates are
        written.
        """
        batch = stage_runner.moved(batch, features.device)
        with _half(features.device):
            embed = self._model.get_input_embeddings()
            read = embedded(embed, self._writer, batch, features.float()).bfloat16()
            hidden, looks = self._reader(read, batch.positions, mask_of(batch.parts))
            logits = self._model.lm_head(hidden[batch.asked])
        told = batch.object >= 0
        astray = -looks[told].gather(1, batch.object[told][:, None]).mean()
        return logits.float(), batch.following[batch.asked], astray


def chosen(
    examples: Sequence[SftExample], count: int, rng: np.random.Generator
) -> list[SftExample]:
    """Return so many of a scene's examples, each kind as often as the others."""
    order = rng.permutation(len(examples))
    met: dict[str, int] = {}
    ranked = []
    for place in order:
        kind = examples[place].kind
        met[kind] = met.get(kind, 0) + 1
        ranked.append((met[kind], place))
    return [examples[place] for _, place in sorted(ranked, key=lambda each: each[0])[:count]]


def features_of(tower: FastVisionTower, pictures: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return (N, TOKENS, WIDTH) float16 features of (N, SIDE, SIDE, 3) pictures."""
    place, found = tower.cosine.device, []
    with torch.no_grad(), _half(place):
        for start in range(0, len(pictures), _AT_ONCE):
            patches = patches_of(shown(pictures[start : start + _AT_ONCE]).to(place))
            found.append(tower(patches).to(torch.float16))
    return torch.cat(found)


def _half(place: torch.device) -> Any:
    # bfloat16 halves what is moved; weights and losses stay in float32.
    return torch.autocast(place.type, torch.bfloat16)
