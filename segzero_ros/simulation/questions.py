"""Questions about a scene whose answer is a number, or yes or no, from the ground truth.

As in `sentences`, a question is made only if it is unambiguous: no object of the scene may or may
not be meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segzero_ros.simulation.describing import Describer
from segzero_ros.simulation.scenes import Scene
from segzero_ros.simulation.sentences import describe, no_class, no_colour, no_combination

Rng = np.random.Generator

_COUNTS = (
    'how many {} are there?', 'How many {} do you see?', 'how many {} are on the table?',
    'count the {}', 'what is the number of {}?', 'tell me how many {} you can see',
)  # fmt: skip
_ONES = (
    'is there a {}?', 'Is there a {} on the table?', 'can you see a {}?', 'do you see any {}?',
    'tell me whether there is a {}', 'is a {} in the picture?',
)  # fmt: skip
_ATTEMPTS = 60


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its true answer.

    Attributes:
        text: the question.
        kind: `count`, `present` (the answer is yes) or `absent` (the answer is no).
        number: how many objects are meant.
    """

    text: str
    kind: str
    number: int


def make_questions(scene: Scene, per_kind: int = 1) -> list[SceneQuestion]:
    """Return up to `per_kind` questions of each kind; deterministic for a scene."""
    rng = np.random.default_rng((scene.seed, 2))
    describer = Describer(scene)
    found: dict[str, SceneQuestion] = {}
    for make in (_count, _present, _absent):
        for _ in range(per_kind):
            question = next(
                (
                    made
                    for _ in range(_ATTEMPTS)
                    if (made := make(describer, rng)) is not None and made.text not in found
                ),
                None,
            )
            if question is not None:
                found[question.text] = question
    return list(found.values())


def _asked(rng: Rng, frames: tuple[str, ...], phrase: str) -> str:
    text = frames[int(rng.integers(len(frames)))].format(phrase)
    vowel = phrase[0] in 'aeiou'
    return text.replace(f' a {phrase}', f' an {phrase}') if vowel else text


def _count(d: Describer, rng: Rng) -> SceneQuestion | None:
    phrase = describe(d, rng)
    if not phrase.sure:
        return None
    return SceneQuestion(_asked(rng, _COUNTS, phrase.many), 'count', len(phrase.targets))


def _present(d: Describer, rng: Rng) -> SceneQuestion | None:
    phrase = describe(d, rng)
    if not phrase.sure or not phrase.targets:
        return None
    return SceneQuestion(_asked(rng, _ONES, phrase.one), 'present', len(phrase.targets))


def _absent(d: Describer, rng: Rng) -> SceneQuestion | None:
    makers = (no_colour, no_combination, no_combination, no_class)
    phrase = makers[int(rng.integers(len(makers)))](d, rng)
    return None if phrase is None else SceneQuestion(_asked(rng, _ONES, phrase), 'absent', 0)
