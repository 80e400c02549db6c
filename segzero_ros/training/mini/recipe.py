"""The recipe for the small reasoner: scenes, then eyes, then words, then a checkpoint.

Each stage leaves its result in the folder and is not repeated; a stage that was broken off goes on
where it stood. A finished model can be the start of another round, on other scenes. Imports its
neighbours in this folder, `types`, `reasoning.checkpoints`, torch, transformers and NumPy.
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
from segzero_ros.training.mini import checkpoint, dense, loop
from segzero_ros.training.mini.architecture import new_model, patches_of, Reader, shown, Tower
from segzero_ros.training.mini.curves import draw_curves
from segzero_ros.training.mini.dataset import make_scenes, Scenes
from segzero_ros.training.mini.lessons import Lesson
from segzero_ros.training.mini.vocabulary import make_tokenizer
from segzero_ros.training.mini.warm_start import (
    Batch,
    batch_of,
    embedded,
    Loss,
    mask_of,
    Writer,
)
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
        words: steps of next-token training, of `pages` pictures with `questions` questions each.
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
    pages: int = 8
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
            f'{self.pictures} or {self.pages} x {self.questions} of scenes {self.first} to '
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
    teach_eyes(recipe, model, seen, unseen)
    teach_words(recipe, model, Writer(tokenizer), seen, unseen)
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
        raise loop.StageError(f'kept must be all or eyes, not {recipe.kept!r}.')


def teach_eyes(recipe: Recipe, model: Any, seen: Scenes, unseen: Scenes) -> None:
    """Train the vision tower to say at each token what it shows."""
    place = recipe.place
    tower, heads = Tower(model.model.visual).to(place), dense.Heads().to(place)
    stage = loop.Stage('eyes', recipe.eyes, recipe.eyes_rate, recipe.seed, recipe.drawn)
    if recipe.start and recipe.eyes and not loop.state_of(stage, recipe.folder).exists():
        fit(heads, tower, seen)

    def draw(rng: np.random.Generator) -> dense.View:
        rows = rng.integers(len(seen), size=recipe.pictures)
        return dense.augmented(seen.pictures[rows], seen.names[rows], seen.places[rows], rng)

    def step(view: dense.View) -> tuple[torch.Tensor, loop.Figures]:
        view = loop.moved(view, place)
        with _half(place):
            features = tower(patches_of(view.pictures))
        result: tuple[torch.Tensor, loop.Figures] = heads(features.float(), view)
        return result

    def judge() -> loop.Figures:
        with torch.no_grad():
            loss, figures = step(dense.as_they_are(unseen.pictures, unseen.names, unseen.places))
        return {'loss': loss, **figures}

    modules = model.model.visual, heads
    loop.run(stage, modules, draw, step, judge, recipe.folder, recipe.drawing)


def fit(heads: dense.Heads, tower: Tower, seen: Scenes) -> None:
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
        view = dense.View(torch.empty(0), names[rows].long(), places[rows])
        loss, _ = heads(features[rows].float(), view)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def teach_words(recipe: Recipe, model: Any, writer: Writer, seen: Scenes, unseen: Scenes) -> None:
    """Train the language model to answer, on what the trained tower makes of the pictures."""
    place = recipe.place
    tower = Tower(model.model.visual).to(place)
    features = torch.stack([features_of(tower, seen.pictures[:, :, ::way]) for way in (1, -1)])
    judged = features_of(tower, unseen.pictures)
    pupil, loss_of = Pupil(model, writer), Loss(writer, place)

    def pages(lessons: Iterable[Sequence[Lesson]], rng: np.random.Generator) -> Batch:
        return batch_of(
            writer, [writer.sheet(chosen(each, recipe.questions, rng)) for each in lessons]
        )

    def draw(rng: np.random.Generator) -> Pages:
        rows, ways = rng.integers(len(seen), size=recipe.pages), rng.integers(2, size=recipe.pages)
        lessons = (seen.lessons[row][way] for row, way in zip(rows, ways, strict=True))
        return Pages(torch.from_numpy(ways), torch.from_numpy(rows), pages(lessons, rng))

    def step(drawn: Pages) -> tuple[torch.Tensor, loop.Figures]:
        logits, following, astray = pupil(features[drawn.ways, drawn.rows], drawn.batch)
        loss = loss_of(logits, following)
        figures = {'written': loss.detach(), 'astray': astray.detach()}
        return loss + _POINTING * astray, figures

    asked = pages((plain for plain, _ in unseen.lessons), np.random.default_rng(recipe.seed))

    def judge() -> loop.Figures:
        with torch.no_grad():
            logits, following, astray = pupil(judged, asked)
            right = (logits.argmax(-1) == following).float().mean()
            return {'written': loss_of(logits, following), 'right': right, 'astray': astray}

    stage = loop.Stage('words', recipe.words, recipe.words_rate, recipe.seed, recipe.drawn)
    modules: Sequence[nn.Module] = (model.model.language_model, model.lm_head)
    loop.run(stage, modules, draw, step, judge, recipe.folder, recipe.drawing)


@dataclass(frozen=True)
class Pages:
    """Questions about some scenes.

    Attributes:
        ways: (B,) 1 where the mirror image of a scene is shown.
        rows: (B,) the scenes.
        batch: what is asked.
    """

    ways: torch.Tensor
    rows: torch.Tensor
    batch: Batch


class Pupil:
    """A model that answers all questions about some pictures at once, told the true answers."""

    def __init__(self, model: Any, writer: Writer) -> None:
        self._model = model
        self._writer = writer
        self._reader = Reader(model).to(model.device)

    def __call__(
        self, features: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (N, vocabulary) logits at the answers' tokens, the true ones, and a loss.

        The loss tells how far one head is from looking at the object whose coordinates are
        written.
        """
        batch = loop.moved(batch, features.device)
        with _half(features.device):
            embed = self._model.get_input_embeddings()
            read = embedded(embed, self._writer, batch, features.float()).bfloat16()
            hidden, looks = self._reader(read, batch.positions, mask_of(batch.parts))
            logits = self._model.lm_head(hidden[batch.asked])
        told = batch.object >= 0
        astray = -looks[told].gather(1, batch.object[told][:, None]).mean()
        return logits.float(), batch.following[batch.asked], astray


def chosen(lessons: Sequence[Lesson], count: int, rng: np.random.Generator) -> list[Lesson]:
    """Return so many of a scene's lessons, each kind as often as the others."""
    order = rng.permutation(len(lessons))
    met: dict[str, int] = {}
    ranked = []
    for place in order:
        kind = lessons[place].kind
        met[kind] = met.get(kind, 0) + 1
        ranked.append((met[kind], place))
    return [lessons[place] for _, place in sorted(ranked, key=lambda each: each[0])[:count]]


def features_of(tower: Tower, pictures: np.ndarray[Any, Any]) -> torch.Tensor:
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
