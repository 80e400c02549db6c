"""Sentences mean what they say: checked from the objects' truth, not as they were made."""

from __future__ import annotations

from collections import Counter
import re

import numpy as np
import pytest

from segzero_ros.simulation import make_scene, Scene, Sentence

SMALL = {'width': 320, 'height': 240}
COLOURS = {
    'crimson': 'red', 'scarlet': 'red', 'teal': 'turquoise', 'navy': 'blue', 'violet': 'purple',
    'grey': 'gray', 'orange-coloured': 'orange',
}  # fmt: skip
COLOURS |= {name: name for name in (
    'red', 'orange', 'yellow', 'green', 'turquoise', 'blue', 'purple', 'pink', 'brown', 'black',
    'gray', 'white')}  # fmt: skip
SHADES = 'dark|light|navy|crimson|scarlet'
NOUNS = {
    'box': 'box', 'block': 'box', 'can': 'can', 'tin': 'can', 'ball': 'ball', 'sphere': 'ball',
    'cone': 'cone', 'mug': 'mug', 'cup': 'mug', 'bowl': 'bowl', 'plate': 'plate',
    'bottle': 'bottle', 'book': 'book', 'pencil': 'pen', 'stick': 'pen', 'cylinder': 'can',
}  # fmt: skip


@pytest.fixture(scope='module')
def asked() -> list[tuple[Scene, Sentence]]:
    scenes = [make_scene(seed, **SMALL) for seed in range(100, 125)]
    return [(scene, sentence) for scene in scenes for sentence in scene.sentences]


def of_kind(asked: list[tuple[Scene, Sentence]], kind: str) -> list[tuple[Scene, Sentence]]:
    return [(scene, sentence) for scene, sentence in asked if sentence.kind == kind]


def colour_in(text: str) -> str | None:
    """Return the one colour named in a sentence."""
    found = {COLOURS[word] for word in re.findall(r'[a-z-]+', text.lower()) if word in COLOURS}
    return found.pop() if len(found) == 1 else None


def noun_in(text: str) -> str | None:
    """Return the one class named in a sentence, singular or plural."""
    words = re.findall(r'[a-z]+', text.removeprefix('Can you see').lower())
    stems = {stem for word in words for stem in (word, word[:-1], word[:-2])}
    # 'Can you see …?' names no can.
    found = {NOUNS[stem] for stem in stems if stem in NOUNS}
    return found.pop() if len(found) == 1 else None


def plain(scene: Scene, text: str) -> list[int]:
    """Return the objects that have the colour and the class that a sentence names."""
    colour, noun = colour_in(text), noun_in(text)
    return [
        index
        for index, item in enumerate(scene.objects)
        if not item.clutter
        and item.area
        and colour in (None, item.colour)
        and noun in (None, item.kind)
    ]


@pytest.mark.slow
def test_every_kind_is_asked_often(asked: list[tuple[Scene, Sentence]]) -> None:
    counts = Counter(sentence.kind for _, sentence in asked)
    kinds = {'colour', 'shape', 'size', 'position', 'relation', 'ordinal', 'plural', 'depth'}
    assert set(counts) == kinds | {'none'}
    assert min(counts.values()) >= 20, counts
    difficulties = {sentence.difficulty for _, sentence in asked}
    assert difficulties == {'easy', 'relation', 'composed', 'none'}


@pytest.mark.slow
def test_sentences_of_a_scene_differ_and_are_varied(asked: list[tuple[Scene, Sentence]]) -> None:
    texts = [(scene.seed, sentence.kind, sentence.text) for scene, sentence in asked]
    assert len(set(texts)) == len(texts)
    assert len({text for _, _, text in texts}) > 0.8 * len(texts)


@pytest.mark.slow
def test_targets_can_be_seen(asked: list[tuple[Scene, Sentence]]) -> None:
    for scene, sentence in asked:
        assert bool(sentence.targets) == (sentence.kind != 'none')
        for index in sentence.targets:
            item = scene.objects[index]
            assert item.visible >= 0.4
            assert item.area > 90
            assert not item.clutter


@pytest.mark.slow
def test_a_named_colour_is_that_of_the_objects_meant(asked: list[tuple[Scene, Sentence]]) -> None:
    chosen = [pair for kind in ('colour', 'plural') for pair in of_kind(asked, kind)]
    for scene, sentence in chosen:
        if re.search(SHADES, sentence.text):
            assert set(sentence.targets) <= set(plain(scene, sentence.text))
        else:
            assert list(sentence.targets) == plain(scene, sentence.text), sentence
    assert len(chosen) > 80


@pytest.mark.slow
def test_no_colour_is_asked_for_where_another_could_be_meant(
    asked: list[tuple[Scene, Sentence]],
) -> None:
    alike = {
        'red': 'orange brown', 'orange': 'red brown yellow', 'pink': 'red purple',
        'purple': 'blue pink', 'gray': 'black white', 'white': 'gray', 'turquoise': 'green',
    }  # fmt: skip
    seen = 0
    for scene, sentence in [*of_kind(asked, 'colour'), *of_kind(asked, 'plural')]:
        colour = colour_in(sentence.text)
        if noun_in(sentence.text) is None and colour in alike:
            there = {item.colour for item in scene.objects if not item.clutter}
            seen += 1
            assert not any(name in there for name in alike[colour].split() if name != colour)
    assert seen > 3


@pytest.mark.slow
def test_a_shade_is_that_of_the_object_meant(asked: list[tuple[Scene, Sentence]]) -> None:
    shades = {'crimson': 'dark', 'navy': 'dark', 'dark': 'dark', 'light': 'light', 'scarlet': ''}
    seen = 0
    for scene, sentence in of_kind(asked, 'colour'):
        for word, shade in shades.items():
            if word in sentence.text:
                seen += 1
                assert {scene.objects[i].shade for i in sentence.targets} == {shade}
    assert seen > 5


@pytest.mark.slow
def test_the_largest_covers_most_and_the_smallest_least(
    asked: list[tuple[Scene, Sentence]],
) -> None:
    for scene, sentence in of_kind(asked, 'size'):
        (target,) = sentence.targets
        others = [i for i in plain(scene, sentence.text) if i != target]
        areas = [scene.objects[i].area for i in others if scene.objects[i].visible > 0.45]
        assert areas
        if re.search('largest|biggest|larger|bigger|big ', sentence.text):
            assert scene.objects[target].area > 1.25 * max(areas), sentence
        else:
            assert scene.objects[target].area < min(areas) / 1.25, sentence


@pytest.mark.slow
def test_the_utmost_is_the_utmost(asked: list[tuple[Scene, Sentence]]) -> None:
    sides = {
        r'leftmost|far left|left edge': (0, 1), r'rightmost|far right|right edge': (0, -1),
        r'topmost|top edge': (1, 1), r'lowest|bottom edge|bottom of': (1, -1),
    }  # fmt: skip
    seen: Counter[str] = Counter()
    for scene, sentence in of_kind(asked, 'position'):
        if re.search(SHADES, sentence.text):
            continue
        for pattern, (axis, sign) in sides.items():
            if re.search(pattern, sentence.text):
                seen[pattern] += 1
                centres = {
                    i: sign * scene.objects[i].centre[axis] for i in plain(scene, sentence.text)
                }
                assert min(centres, key=centres.__getitem__) in sentence.targets
    assert min(seen[pattern] for pattern in sides) >= 3, seen


@pytest.mark.slow
def test_the_nearest_is_nearest(asked: list[tuple[Scene, Sentence]]) -> None:
    for scene, sentence in of_kind(asked, 'depth'):
        ranges = {i: scene.objects[i].range for i in plain(scene, sentence.text)}
        near = not re.search('farthest|distant', sentence.text)
        best = (min if near else max)(ranges, key=ranges.__getitem__)
        assert (best,) == sentence.targets
        mask = scene.mask(best)
        others = np.isin(scene.labels, [scene.objects[i].id for i in ranges if i != best])
        nearer = np.median(scene.depth[mask]) < np.median(scene.depth[others])
        assert nearer == near


@pytest.mark.slow
def test_ordinals_count_from_their_side(asked: list[tuple[Scene, Sentence]]) -> None:
    numbers = {'second': 2, 'third': 3, 'fourth': 4}
    seen = 0
    for scene, sentence in of_kind(asked, 'ordinal'):
        found = re.search(r'(second|third|fourth) .* from the (left|right)', sentence.text)
        if found is None:
            assert 'middle' in sentence.text
            continue
        sign = 1 if found[2] == 'left' else -1
        order = sorted(
            plain(scene, sentence.text), key=lambda i: sign * scene.objects[i].centre[0]
        )
        if not re.search(SHADES, sentence.text):
            assert (order[numbers[found[1]] - 1],) == sentence.targets, sentence
            seen += 1
    assert seen > 15


@pytest.mark.slow
def test_what_is_left_of_something_lies_left_of_it(asked: list[tuple[Scene, Sentence]]) -> None:
    seen = 0
    for scene, sentence in of_kind(asked, 'relation'):
        found = re.search(r'(left|right) of the (.*?)[?,]?( please)?$', sentence.text)
        if not found:
            continue
        anchors = plain(scene, found[2])
        if len(anchors) == 1:
            seen += 1
            shift = scene.objects[sentence.targets[0]].centre[0]
            shift -= scene.objects[anchors[0]].centre[0]
            assert (shift < 0) == (found[1] == 'left'), sentence
    assert seen > 5


@pytest.mark.slow
def test_sentences_about_nothing_fit_nothing(asked: list[tuple[Scene, Sentence]]) -> None:
    simple = 0
    for scene, sentence in of_kind(asked, 'none'):
        colour, noun = colour_in(sentence.text), noun_in(sentence.text)
        related = re.search(' of | from |behind|front|above|below', sentence.text)
        if related or 'dark' in sentence.text or 'light' in sentence.text:
            continue
        if colour or noun:
            simple += 1
            assert plain(scene, sentence.text) == [] or re.search(
                'navy|crimson|scarlet', sentence.text
            ), sentence
    assert simple > 20


@pytest.mark.slow
def test_there_are_too_few_for_an_ordinal_that_means_nothing(
    asked: list[tuple[Scene, Sentence]],
) -> None:
    numbers = {'second': 2, 'third': 3, 'fourth': 4, 'fifth': 5}
    seen = 0
    for scene, sentence in of_kind(asked, 'none'):
        found = re.search('(second|third|fourth|fifth) .* from the', sentence.text)
        if found:
            seen += 1
            assert len(plain(scene, sentence.text)) < numbers[found[1]] or re.search(
                SHADES, sentence.text
            )
    assert seen > 3
