"""What the small reasoner should say about a scene: what it compares, then what it means.

The thought names every object that the description fits, from left to right, then those that a
relation is told to, then the objects meant; the answer has their boxes and points. Imports
`scenes`, `simulation`, `reasoning.dialects` and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
import re

import numpy as np

from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.simulation import colours
from segzero_ros.simulation.affordances import affordance_sentences
from segzero_ros.simulation.affordances import KIND as USE
from segzero_ros.simulation.describing import ANYTHING, Describer, NOUNS, SHAPES
from segzero_ros.simulation.scenes import Scene, Sentence
from segzero_ros.training.mini.rendered_scenes import HEIGHT, RenderedScene, WIDTH

_PLURALS = {plural: noun for noun, (plural, _, _) in (NOUNS | ANYTHING).items()}
_COLOURS = {word for words in colours.WORDS.values() for word, _ in words}
_PAIRED = {word for word in _COLOURS if ' ' in word}
# Words in which "can" is no tin, and "point" no place.
_ASKING = re.compile(r'\bcan you see\b|\bpoint at\b')
_COMPARED = ('size', 'position', 'relation', 'ordinal', 'depth')
# What a class is called where it is not named in the question.
_NAMES = {kinds[0]: noun for noun, (_, kinds, _) in reversed(NOUNS.items())}
_USES = 3
_MIRRORED = {'left': 'right', 'right': 'left', 'leftmost': 'rightmost', 'rightmost': 'leftmost'}


@dataclass(frozen=True)
class SftExample:
    """A question and the text that answers it.

    Attributes:
        kind: of the sentence.
        question: as the dialect cleans it.
        answer: the whole text, without the end token.
    """

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class _VisibleObject:
    """An object in the model's pixels: box (x1, y1, x2, y2) and inner point (x, y)."""

    box: tuple[int, int, int, int]
    point: tuple[int, int]


def examples_of(kept: RenderedScene, side: int, mirrored: bool = False) -> list[SftExample]:
    """Return an example for every sentence about a scene, and for what its things are for.

    Args:
        kept: the scene.
        side: of the square that the model sees, pixels.
        mirrored: whether the picture is shown with left and right exchanged.
    """
    describer = Describer(_as_scene(kept))
    shown = [_shown(kept, index, side, mirrored) for index in range(len(kept.objects))]
    uses = affordance_sentences(describer.scene, _USES)
    return [
        _example(describer, shown, sentence, mirrored) for sentence in (*kept.sentences, *uses)
    ]


def _as_scene(kept: RenderedScene) -> Scene:
    # Describing needs the picture's size only.
    nothing = np.zeros((HEIGHT, WIDTH), np.int16)
    return Scene(kept.seed, None, None, nothing, kept.objects, (0.0, 0.0, 1.0, 0.0))  # type: ignore[arg-type]


def _shown(kept: RenderedScene, index: int, side: int, mirrored: bool) -> _VisibleObject:
    scale = np.array([side / WIDTH, side / HEIGHT] * 3)
    values = np.rint(np.array([*kept.objects[index].box, *kept.points[index]]) * scale)
    x1, y1, x2, y2, x, y = (min(max(int(value), 0), side) for value in values)
    if mirrored:
        x1, x2, x = side - x2, side - x1, side - x
    return _VisibleObject((x1, y1, x2, y2), (x, y))


def _example(
    d: Describer, shown: list[_VisibleObject], sentence: Sentence, mirrored: bool
) -> SftExample:
    question = dialect_named('mini').question(sentence.text)
    if sentence.kind == USE:
        # What things are for is all that there is to know: the thought begins with their name.
        phrases = [_NAMES[d.objects[sentence.targets[0]].kind]]
    else:
        phrases = phrases_in(question)
    parts = []
    for words in phrases:
        fitting = _fitting(d, words)
        parts.append(f'{words}:{_points(shown, fitting)}')
    compared = sentence.kind in _COMPARED or len(phrases) > 1
    if compared or (sentence.kind == 'none' and phrases and _fitting(d, phrases[0])):
        parts.append(f'so{_points(shown, sentence.targets)}')
    items = ', '.join(
        f'{{"bbox_2d": {list(shown[index].box)}, "point_2d": {list(shown[index].point)}}}'
        for index in _from_left(shown, sentence.targets)
    )
    if mirrored:
        question = ' '.join(_MIRRORED.get(word, word) for word in question.split(' '))
    answer = f'<think>{"; ".join(parts)}</think><answer>[{items}]</answer>'
    return SftExample(sentence.kind, question, answer)


def _points(shown: list[_VisibleObject], indices: tuple[int, ...]) -> str:
    ordered = _from_left(shown, indices)
    return ''.join(f' {list(shown[index].point)}' for index in ordered) or ' none'


def _from_left(shown: list[_VisibleObject], indices: tuple[int, ...]) -> list[int]:
    return sorted(indices, key=lambda index: shown[index].point)


def phrases_in(question: str) -> list[str]:
    """Return the descriptions in a question, such as 'dark red ball', in singular.

    The first is of the objects meant; further ones of those that a relation is told to. A question
    without a known noun is one description as it stands.
    """
    words = _ASKING.sub('', question.lower()).replace(',', '').replace('?', '').split()
    if 'something' in words:
        return [' '.join(words[words.index('something') + 1 :]) + ' object']
    found = []
    for place, word in enumerate(words):
        noun = _PLURALS.get(word, word)
        if noun in NOUNS or noun in ANYTHING:
            found.append(' '.join([*_adjectives(words[:place]), noun]))
    return found or [words[-1]]


def _adjectives(words: list[str]) -> list[str]:
    if ' '.join(words[-2:]) in _PAIRED:
        return words[-2:]
    if words and (words[-1] in _COLOURS or words[-1] in SHAPES):
        return words[-1:]
    return []


def _fitting(d: Describer, words: str) -> tuple[int, ...]:
    """Return the objects that a description surely fits."""
    *adjectives, noun = words.split()
    if noun not in NOUNS and noun not in ANYTHING:
        return ()
    adjective = ' '.join(adjectives)
    if adjective in SHAPES:
        return d.shaped(adjective, noun).targets
    bare = d.noun(noun)
    return d.coloured(adjective, bare).targets if adjective else bare.targets
