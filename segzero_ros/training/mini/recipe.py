"""The recipe for the small reasoner: scenes, then eyes, then words, then a checkpoint.

Each stage leaves its result in the folder and is not repeated; a stage that was broken off goes on
where it stood. Imports its neighbours in this folder, torch and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segzero_ros.training.mini import checkpoint, dense, loop
from segzero_ros.training.mini.architecture import new_model, patches_of, Reader, Tower
from segzero_ros.training.mini.curves import draw_curves
from segzero_ros.training.mini.dataset import make_scenes, Scenes
from segzero_ros.training.mini.lessons import Lesson
from segzero_ros.training.mini.vocabulary import make_tokenizer
from segzero_ros.training.mini.warm_start import Batch, batch_of, Loss, Writer

# Far from the seeds of the benchmark, 100000 and up.
TRAINING_SEED, UNSEEN_SEED = 1_000_000, 2_000_000
_AT_ONCE = 50
# How much a wrong look counts beside a wrong word.
_POINTING = 0.3


@dataclass(frozen=True)
class Recipe:
    """How much of everything.

    Attributes:
        folder: where all is kept; the checkpoint is in its folder `checkpoint`.
        scenes: to learn from.
        unseen: scenes that figures are of while training.
        eyes: steps of dense supervision, of `pictures` pictures each.
        words: steps of next-token training, of `pages` pictures with `questions` questions each.
        seed: of weights and batches.
        workers: processes that render.
    """

    folder: Path
    scenes: int = 4000
    unseen: int = 50
    eyes: int = 2000
    pictures: int = 32
    words: int = 6000
    pages: int = 8
    questions: int = 9
    seed: int = 0
    workers: int = 2


def make(recipe: Recipe) -> Path:
    """Make the small reasoner; return the folder of its checkpoint."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    kept = recipe.folder / 'scenes'
    seen = make_scenes(kept, TRAINING_SEED, recipe.scenes, recipe.workers)
    unseen = make_scenes(kept, UNSEEN_SEED, recipe.unseen, recipe.workers)
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, recipe.seed)
    teach_eyes(recipe, model, seen, unseen)
    teach_words(recipe, model, Writer(tokenizer), seen, unseen)
    folder = recipe.folder / 'checkpoint'
    checkpoint.save(model, tokenizer, folder)
    draw_curves(recipe.folder, ('eyes', 'words'))
    return folder


def teach_eyes(recipe: Recipe, model: Any, seen: Scenes, unseen: Scenes) -> None:
    """Train the vision tower to say at each token what it shows."""
    tower, heads = Tower(model.model.visual), dense.Heads()

    def looked_at(view: dense.View) -> tuple[torch.Tensor, loop.Figures]:
        with _half():
            features = tower(patches_of(view.pictures))
        result: tuple[torch.Tensor, loop.Figures] = heads(features.float(), view)
        return result

    def step(rng: np.random.Generator) -> tuple[torch.Tensor, loop.Figures]:
        rows = rng.integers(len(seen), size=recipe.pictures)
        arrays = seen.pictures[rows], seen.names[rows], seen.places[rows]
        return looked_at(dense.augmented(*arrays, rng))

    def judge() -> loop.Figures:
        with torch.no_grad():
            view = dense.as_they_are(unseen.pictures, unseen.names, unseen.places)
            loss, figures = looked_at(view)
        return {'loss': float(loss), **figures}

    stage = loop.Stage('eyes', recipe.eyes, 2e-3, recipe.seed)
    loop.run(stage, (model.model.visual, heads), step, judge, recipe.folder)


def teach_words(recipe: Recipe, model: Any, writer: Writer, seen: Scenes, unseen: Scenes) -> None:
    """Train the language model to answer, on what the trained tower makes of the pictures."""
    tower = Tower(model.model.visual)
    features = [features_of(tower, seen.pictures[:, :, ::way]) for way in (1, -1)]
    judged = features_of(tower, unseen.pictures)
    pupil, loss_of = Pupil(model, writer), Loss(writer)

    def step(rng: np.random.Generator) -> tuple[torch.Tensor, loop.Figures]:
        rows, ways = rng.integers(len(seen), size=recipe.pages), rng.integers(2, size=recipe.pages)
        lessons = [
            chosen(seen.lessons[row][way], recipe.questions, rng)
            for row, way in zip(rows, ways, strict=True)
        ]
        shown = torch.stack([features[way][row] for row, way in zip(rows, ways, strict=True)])
        logits, following, astray = pupil(shown, lessons)
        loss = loss_of(logits, following)
        figures = {'written': float(loss.detach()), 'astray': float(astray.detach())}
        return loss + _POINTING * astray, figures

    def judge() -> loop.Figures:
        rng = np.random.default_rng(recipe.seed)
        lessons = [chosen(plain, recipe.questions, rng) for plain, _ in unseen.lessons]
        with torch.no_grad():
            logits, following, astray = pupil(judged, lessons)
            right = float((logits.argmax(-1) == following).float().mean())
            written = float(loss_of(logits, following))
            return {'written': written, 'right': right, 'astray': float(astray)}

    stage = loop.Stage('words', recipe.words, 2e-3, recipe.seed)
    modules: Sequence[nn.Module] = (model.model.language_model, model.lm_head)
    loop.run(stage, modules, step, judge, recipe.folder)


class Pupil:
    """A model that answers all questions about some pictures at once, told the true answers."""

    def __init__(self, model: Any, writer: Writer) -> None:
        self._model = model
        self._writer = writer
        self._reader = Reader(model)

    def __call__(
        self, features: torch.Tensor, lessons: Sequence[Sequence[Lesson]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (N, vocabulary) logits at the answers' tokens, the true ones, and a loss.

        The loss tells how far one head is from looking at the object whose coordinates are
        written.
        """
        sheets = [self._writer.sheet(each) for each in lessons]
        with _half():
            batch: Batch = batch_of(
                self._model.get_input_embeddings(), self._writer, features.float(), sheets
            )
            hidden, looks = self._reader(batch.hidden.bfloat16(), batch.positions, batch.mask)
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
    found = []
    with torch.no_grad(), _half():
        for start in range(0, len(pictures), _AT_ONCE):
            patches = patches_of(pictures[start : start + _AT_ONCE])
            found.append(tower(patches).to(torch.float16))
    return torch.cat(found)


def _half() -> Any:
    # bfloat16 halves what a CPU moves; weights and losses stay in float32.
    return torch.autocast('cpu', torch.bfloat16)
