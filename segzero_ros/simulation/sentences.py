"""Queries about a scene with their targets, computed from the ground truth.

Random attempts are made for each kind until there are enough unambiguous sentences. Margins are
fractions of the image's width and height.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from segzero_ros.simulation import colours
from segzero_ros.simulation.describing import (
    ANYTHING,
    COLOUR_WORDS,
    Describer,
    NOUNS,
    Phrase,
    SHAPES,
    Truth,
)
from segzero_ros.simulation.relations import extreme, ORDINALS, position, relate, RELATIONS
from segzero_ros.simulation.scenes import Scene, Sentence

Rng = np.random.Generator

# Sentences of each kind, and random ones that are tried for them.
_PER_KIND = 3
_ATTEMPTS = 250

_ONE = (
    'the {}', 'the {}', 'the {}', 'find the {}', 'where is the {}?', 'show me the {}',
    'pick up the {}', 'please segment the {}', 'point at the {}', 'I need the {}',
    'Can you see the {}?', 'give me the {}, please',
)  # fmt: skip
_MANY = ('{}', '{}', 'find {}', 'show me {}', 'please segment {}', 'point at {}')
# Objects that are in no scene.
# Nouns that the embedded default does not know, and no scene has.
STRANGERS = ('banana', 'scissors', 'laptop', 'teddy bear', 'key', 'spoon', 'flower', 'shoe')


def with_sentences(scene: Scene, rng: Rng, per_kind: int = _PER_KIND) -> Scene:
    """Return the scene with up to `per_kind` distinct sentences of each kind."""
    describer = Describer(scene)
    made: list[Sentence] = []
    for kind, ask in KINDS.items():
        texts: set[str] = set()
        for _ in range(_ATTEMPTS):
            sentence = ask(describer, rng)
            if sentence is None or sentence.text in texts:
                continue
            texts.add(sentence.text)
            made.append(replace(sentence, kind=kind, text=_spoken(rng, sentence.text, kind)))
            if len(texts) == per_kind:
                break
    return replace(scene, sentences=tuple(made))


def _spoken(rng: Rng, text: str, kind: str) -> str:
    """Return a description as a spoken request."""
    if text.startswith('something'):
        return text
    return _pick(rng, _MANY if kind == 'plural' else _ONE).format(text)


def _pick(rng: Rng, words: tuple[str, ...] | list[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _sentence(
    text: str, targets: tuple[int, ...], properties: int, relation: bool = False
) -> Sentence:
    if not targets:
        difficulty = 'none'
    elif relation and properties < 3:
        difficulty = 'relation'
    else:
        difficulty = 'easy' if properties <= 1 else 'composed'
    return Sentence(text, '', difficulty, targets)


def _any_object(d: Describer, rng: Rng) -> int:
    return int(rng.integers(len(d.objects)))


def describe(d: Describer, rng: Rng, generic: float = 0.3) -> Phrase:
    """Return a phrase that is true for some object: a noun, a colour, a shape, or both."""
    index = _any_object(d, rng)
    nouns = d.nouns_of(index)
    if rng.random() < generic or not nouns:
        bare = d.noun(_pick(rng, list(ANYTHING)))
        return d.coloured(_pick(rng, d.words_of(index)), bare)
    bare = d.noun(_pick(rng, nouns))
    return d.coloured(_pick(rng, d.words_of(index)), bare) if rng.random() < 0.6 else bare


def _category(d: Describer, rng: Rng) -> Phrase:
    """Return a phrase that may be true for several objects."""
    if rng.random() < 0.35:
        return d.noun(_pick(rng, list(ANYTHING)))
    return describe(d, rng, generic=0.4)


def _colour(d: Describer, rng: Rng) -> Sentence | None:
    index = _any_object(d, rng)
    word = _pick(rng, d.words_of(index))
    nouns = d.nouns_of(index)
    bare = d.noun(_pick(rng, nouns if nouns and rng.random() < 0.5 else list(ANYTHING)))
    phrase = d.coloured(word, bare)
    if not phrase.unique:
        return None
    if bare.properties == 0 and rng.random() < 0.3:
        return Sentence(f'something {word}', '', 'easy', phrase.targets)
    return _sentence(phrase.one, phrase.targets, phrase.properties)


def _shape(d: Describer, rng: Rng) -> Sentence | None:
    if rng.random() < 0.4:
        phrase = d.noun(_pick(rng, list(NOUNS)))
    else:
        phrase = d.shaped(_pick(rng, list(SHAPES)), _pick(rng, list(ANYTHING)))
    return _sentence(phrase.one, phrase.targets, 1) if phrase.unique else None


def _size(d: Describer, rng: Rng) -> Sentence | None:
    phrase = _category(d, rng)
    if not phrase.sure or len(phrase.targets) < 2:
        return None
    large = rng.random() < 0.6
    index = _by_size(d, phrase.targets, large)
    if index is None:
        return None
    if len(phrase.targets) == 2 and phrase.properties:
        word = _pick(rng, ('larger', 'bigger', 'big') if large else ('smaller', 'small', 'little'))
    else:
        word = _pick(rng, ('largest', 'biggest') if large else ('smallest', 'tiniest'))
    return _sentence(f'{word} {phrase.one}', (index,), phrase.properties + 1)


def _by_size(d: Describer, members: tuple[int, ...], large: bool) -> int | None:
    """Return the largest or smallest of some objects, if it is so in the image and in space."""
    sign = 1.0 if large else -1.0
    best = None
    for values, ratio in ((d.area, 1.35), (d.whole_area, 1.35), (d.bulk, 1.15)):
        order = sorted(members, key=lambda i: -sign * values[i])
        first, second = values[order[0]], values[order[1]]
        if max(first, second) < ratio * min(first, second) or best not in (None, order[0]):
            return None
        best = order[0]
    return best


def _position(d: Describer, rng: Rng) -> Sentence | None:
    phrase = _category(d, rng)
    if rng.random() < 0.6:
        words, index = extreme(d, rng, phrase)
    else:
        words, index = position(d, rng, phrase)
    if index is None:
        return None
    return _sentence(words, (index,), phrase.properties + 1)


def _relation(d: Describer, rng: Rng) -> Sentence | None:
    phrase, name = _category(d, rng), _pick(rng, list(RELATIONS))
    found = _anchored(d, rng, phrase, name)
    if found is None:
        return None
    words, truth = found
    related = replace(phrase, truth=np.minimum(phrase.truth, truth))
    # The relation is redundant if the phrase alone is unique.
    if not related.unique or len(phrase.targets) < 2:
        return None
    text = f'{phrase.one} {words}'
    return _sentence(text, related.targets, phrase.properties + 1, relation=True)


def _anchored(d: Describer, rng: Rng, phrase: Phrase, name: str) -> tuple[str, Truth] | None:
    """Return a relation's text and truth to one or two unambiguous reference objects."""
    anchors: list[Phrase] = []
    for _ in range(2 if name == 'between' else 1):
        anchor = describe(d, rng)
        if not anchor.unique or any(anchor.targets == other.targets for other in anchors):
            return None
        anchors.append(anchor)
    wording = _pick(rng, RELATIONS[name])
    truth = relate(d, name, [anchor.targets[0] for anchor in anchors], phrase)
    return wording.format(*(f'the {anchor.one}' for anchor in anchors)), truth


def _ordinal(d: Describer, rng: Rng) -> Sentence | None:
    phrase = _category(d, rng)
    if not phrase.sure or len(phrase.targets) < 3:
        return None
    number = int(rng.integers(2, min(len(phrase.targets), 4) + 1))
    side = _pick(rng, ('left', 'right'))
    order = sorted(phrase.targets, key=lambda i: d.x[i] if side == 'left' else -d.x[i])
    places = d.x[order]
    gaps = np.abs(np.diff(places))
    around = gaps[max(0, number - 2) : number]
    if (around < 0.05).any() or not _same_by_border(d, order, number - 1, side):
        return None
    if len(order) == 3 and number == 2 and rng.random() < 0.4 and gaps.min() > 0.07:
        return _sentence(f'middle {phrase.one}', (order[1],), phrase.properties + 1)
    text = f'{ORDINALS[number]} {phrase.one} from the {side}'
    return _sentence(text, (order[number - 1],), phrase.properties + 1)


def _plural(d: Describer, rng: Rng) -> Sentence | None:
    phrase = describe(d, rng, generic=0.45)
    count = len(phrase.targets)
    if not phrase.sure or count < 2:
        return None
    texts = [f'all {phrase.many}', f'all the {phrase.many}', f'every {phrase.one}']
    if count == 2:
        texts.append(f'both {phrase.many}')
    elif count < len(_NUMBERS):
        texts.append(f'the {_NUMBERS[count]} {phrase.many}')
    difficulty = 'easy' if phrase.properties <= 1 else 'composed'
    return Sentence(_pick(rng, texts), '', difficulty, phrase.targets)


def _same_by_border(d: Describer, order: list[int], place: int, side: str) -> bool:
    """Return whether counting by borders finds the same object as counting by centres."""
    corner = 0 if side == 'left' else 2
    sign = 1.0 if side == 'left' else -1.0
    borders = {i: sign * d.objects[i].box[corner] / d.scene.labels.shape[1] for i in order}
    own = borders[order[place]]
    return all(borders[i] < own - 0.015 for i in order[:place]) and all(
        borders[i] > own + 0.015 for i in order[place + 1 :]
    )


_NUMBERS = ('', 'one', 'two', 'three', 'four', 'five', 'six')


def _depth(d: Describer, rng: Rng) -> Sentence | None:
    phrase = _category(d, rng)
    if not phrase.sure or len(phrase.targets) < 2:
        return None
    near = rng.random() < 0.5
    order = sorted(phrase.targets, key=lambda i: d.range[i] if near else -d.range[i])
    if abs(d.range[order[1]] - d.range[order[0]]) < 0.06:
        return None
    one = phrase.one
    if near:
        texts = [f'nearest {one}', f'closest {one}', f'{one} closest to the camera']
    else:
        texts = [f'farthest {one}', f'most distant {one}', f'{one} farthest from the camera']
    return _sentence(_pick(rng, texts), (order[0],), phrase.properties + 1)


def _none(d: Describer, rng: Rng) -> Sentence | None:
    make = (no_colour, no_combination, no_combination, no_class, _no_relation, _no_ordinal)
    text = make[int(rng.integers(len(make)))](d, rng)
    return None if text is None else _sentence(text, (), 0)


def no_colour(d: Describer, rng: Rng) -> str | None:
    """Return a generic noun with a colour that nothing in the image has, or None."""
    word = _pick(rng, list(COLOUR_WORDS))
    phrase = d.coloured(word, d.noun(_pick(rng, list(ANYTHING))))
    name = COLOUR_WORDS[word][0]
    # The table and the wall must not have that colour either.
    height, width = d.scene.labels.shape
    around = d.scene.frame.image[d.scene.labels <= 0][:: height * width // 400 + 1] / 255.0
    middle = colours.mix(np.random.default_rng(0), name).rgb
    if phrase.truth.any() or (colours.differences(middle, around) < 30).any():
        return None
    return phrase.one


def no_combination(d: Describer, rng: Rng) -> str | None:
    """Return a colour and a noun that no one object has together, or None."""
    index, other = _any_object(d, rng), _any_object(d, rng)
    nouns = d.nouns_of(other)
    if not nouns:
        return None
    phrase = d.coloured(_pick(rng, d.words_of(index)), d.noun(_pick(rng, nouns)))
    return None if phrase.truth.any() else phrase.one


def no_class(d: Describer, rng: Rng) -> str | None:
    """Return a noun of an absent class, or None."""
    if rng.random() < 0.4:
        return _pick(rng, STRANGERS)
    phrase = d.noun(_pick(rng, list(NOUNS)))
    return None if phrase.truth.any() else phrase.one


def _no_relation(d: Describer, rng: Rng) -> str | None:
    phrase, name = describe(d, rng), _pick(rng, ('left', 'right', 'behind', 'front'))
    if not phrase.unique:
        return None
    found = _anchored(d, rng, phrase, name)
    if found is None or found[1][phrase.targets[0]] != 0:
        return None
    return f'{phrase.one} {found[0]}'


def _no_ordinal(d: Describer, rng: Rng) -> str | None:
    phrase = describe(d, rng)
    number = len(phrase.targets) + 1
    if not phrase.sure or not 2 <= number <= 5:
        return None
    return f'{ORDINALS[number]} {phrase.one} from the {_pick(rng, ("left", "right"))}'


KINDS: dict[str, Callable[[Describer, Rng], Sentence | None]] = {
    'colour': _colour,
    'shape': _shape,
    'size': _size,
    'position': _position,
    'relation': _relation,
    'ordinal': _ordinal,
    'plural': _plural,
    'depth': _depth,
    'none': _none,
}
