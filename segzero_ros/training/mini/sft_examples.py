"""SFT examples of the mini reasoner: reasoning and answer for each sentence about a scene.

The reasoning lists all objects that match the description, from left to right, then the reference
objects of a relation, then the targets; the answer has the targets' boxes and points.
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
# Requests in which "can" is not a tin and "point" not a location.
_ASKING = re.compile(r'\bcan you see\b|\bpoint at\b')
_COMPARED = ('size', 'position', 'relation', 'ordinal', 'depth')
# The name of a class that the query does not name.
_NAMES = {kinds[0]: noun for noun, (_, kinds, _) in reversed(NOUNS.items())}
_USES = 3
_MIRRORED = {'left': 'right', 'right': 'left', 'leftmost': 'rightmost', 'rightmost': 'leftmost'}


@dataclass(frozen=True)
class SftExample:
    """A query and the text of its answer.

    Attributes:
        kind: of the sentence.
        question: the query, as cleaned by the dialect.
        answer: the complete text, without the end token.
    """

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class _VisibleObject:
    """An object in the model's pixels: box (x1, y1, x2, y2) and inner point (x, y)."""

    box: tuple[int, int, int, int]
    point: tuple[int, int]


def examples_of(scene: RenderedScene, side: int, mirrored: bool = False) -> list[SftExample]:
    """Return examples for all sentences about a scene, and for affordances.

    Args:
        scene: the scene.
        side: of the model's square input, pixels.
        mirrored: whether the image is mirrored horizontally.
    """
    describer = Describer(_as_scene(scene))
    objects = [
        _visible_object(scene, index, side, mirrored) for index in range(len(scene.objects))
    ]
    uses = affordance_sentences(describer.scene, _USES)
    return [
        _example(describer, objects, sentence, mirrored) for sentence in (*scene.sentences, *uses)
    ]


def _as_scene(scene: RenderedScene) -> Scene:
    # Descriptions need only the image's size.
    nothing = np.zeros((HEIGHT, WIDTH), np.int16)
    return Scene(scene.seed, None, None, nothing, scene.objects, (0.0, 0.0, 1.0, 0.0))  # type: ignore[arg-type]


def _visible_object(scene: RenderedScene, index: int, side: int, mirrored: bool) -> _VisibleObject:
    scale = np.array([side / WIDTH, side / HEIGHT] * 3)
    values = np.rint(np.array([*scene.objects[index].box, *scene.points[index]]) * scale)
    x1, y1, x2, y2, x, y = (min(max(int(value), 0), side) for value in values)
    if mirrored:
        x1, x2, x = side - x2, side - x1, side - x
    return _VisibleObject((x1, y1, x2, y2), (x, y))


def _example(
    d: Describer, objects: list[_VisibleObject], sentence: Sentence, mirrored: bool
) -> SftExample:
    question = dialect_named('mini').question(sentence.text)
    if sentence.kind == USE:
        # For affordances the reasoning begins with the name of the object.
        phrases = [_NAMES[d.objects[sentence.targets[0]].kind]]
    else:
        phrases = phrases_in(question)
    parts = []
    for words in phrases:
        fitting = _fitting(d, words)
        parts.append(f'{words}:{_points(objects, fitting)}')
    compared = sentence.kind in _COMPARED or len(phrases) > 1
    if compared or (sentence.kind == 'none' and phrases and _fitting(d, phrases[0])):
        parts.append(f'so{_points(objects, sentence.targets)}')
    items = ', '.join(
        f'{{"bbox_2d": {list(objects[index].box)}, "point_2d": {list(objects[index].point)}}}'
        for index in _from_left(objects, sentence.targets)
    )
    if mirrored:
        question = ' '.join(_MIRRORED.get(word, word) for word in question.split(' '))
    answer = f'<think>{"; ".join(parts)}</think><answer>[{items}]</answer>'
    return SftExample(sentence.kind, question, answer)


def _points(objects: list[_VisibleObject], indices: tuple[int, ...]) -> str:
    ordered = _from_left(objects, indices)
    return ''.join(f' {list(objects[index].point)}' for index in ordered) or ' none'


def _from_left(objects: list[_VisibleObject], indices: tuple[int, ...]) -> list[int]:
    return sorted(indices, key=lambda index: objects[index].point)


def phrases_in(question: str) -> list[str]:
    """Return the descriptions in a query, such as 'dark red ball', in singular.

    The first is of the targets, further ones are of reference objects. A query without a known
    noun has one description, its last word.
    """
    words = _ASKING.sub('', question.lower()).replace(',', '').replace('?', '').split()
    if 'something' in words:
        return [' '.join(words[words.index('something') + 1 :]) + ' object']
    found = []
    for index, word in enumerate(words):
        noun = _PLURALS.get(word, word)
        if noun in NOUNS or noun in ANYTHING:
            found.append(' '.join([*_adjectives(words[:index]), noun]))
    return found or [words[-1]]


def _adjectives(words: list[str]) -> list[str]:
    if ' '.join(words[-2:]) in _PAIRED:
        return words[-2:]
    if words and (words[-1] in _COLOURS or words[-1] in SHAPES):
        return words[-1:]
    return []


def _fitting(d: Describer, words: str) -> tuple[int, ...]:
    """Return the objects that a description certainly fits."""
    *adjectives, noun = words.split()
    if noun not in NOUNS and noun not in ANYTHING:
        return ()
    adjective = ' '.join(adjectives)
    if adjective in SHAPES:
        return d.shaped(adjective, noun).targets
    bare = d.noun(noun)
    return d.coloured(adjective, bare).targets if adjective else bare.targets
