"""Truth of descriptions for objects: yes (1), no (0) or ambiguous (0.5).

A sentence is made only if no object is at 0.5, so that it is unambiguous to people. A conjunction
is the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation import colours
from segzero_ros.simulation.scenes import Scene

Truth = NDArray[np.float64]
YES, MAYBE, NO = 1.0, 0.5, 0.0

# Objects below this visible fraction or area are ambiguous.
_MIN_VISIBLE = 0.45
_MIN_AREA = 0.0012  # of the image: 370 pixels of 640 × 480

# An object with a smaller fraction of its body's colour has no single colour.
_PLAIN = 0.62

# Noun: (plural, classes that it names, ambiguous classes).
NOUNS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    'box': ('boxes', ('box',), ('book',)),
    'block': ('blocks', ('box',), ('book',)),
    'can': ('cans', ('can',), ()),
    'tin': ('tins', ('can',), ()),
    'cylinder': ('cylinders', ('can',), ('mug', 'bottle', 'pen')),
    'ball': ('balls', ('ball',), ()),
    'sphere': ('spheres', ('ball',), ()),
    'cone': ('cones', ('cone',), ()),
    'mug': ('mugs', ('mug',), ()),
    'cup': ('cups', ('mug',), ('bowl',)),
    'bowl': ('bowls', ('bowl',), ('plate',)),
    'plate': ('plates', ('plate',), ('bowl',)),
    'bottle': ('bottles', ('bottle',), ()),
    'book': ('books', ('book',), ('box', 'napkin')),
    'pencil': ('pencils', ('pen',), ('cable',)),
    'stick': ('sticks', ('pen',), ('cable',)),
}
_EVERYTHING = ('box', 'can', 'ball', 'cone', 'mug', 'bowl', 'plate', 'bottle', 'book', 'pen')
ANYTHING: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    noun: (noun + 's', _EVERYTHING, ('napkin', 'cable')) for noun in ('object', 'thing', 'item')
}
# Shape adjective: classes that it fits, ambiguous classes.
SHAPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'round': (('ball',), ('plate', 'bowl', 'can', 'mug', 'cone', 'bottle', 'pen')),
    'spherical': (('ball',), ()),
    'circular': (('plate',), ('ball', 'bowl', 'can', 'mug', 'cone', 'bottle')),
    'cylindrical': (('can',), ('mug', 'bottle', 'pen')),
    'conical': (('cone',), ('bottle',)),
    'pointed': (('cone',), ('pen', 'bottle')),
    'flat': (('plate', 'book'), ('bowl', 'pen', 'napkin', 'box', 'cable')),
    'long': (('pen',), ('bottle', 'book', 'box', 'cable')),
    'thin': (('pen',), ('book', 'plate', 'bottle', 'cable', 'napkin')),
    'rectangular': (('box', 'book'), ('napkin',)),
}


@dataclass(frozen=True, eq=False)
class Phrase:
    """A description without its article, and its truth.

    Attributes:
        one: singular, as in 'red box'.
        many: plural.
        truth: for each object of the scene.
        properties: number of properties that it names.
    """

    one: str
    many: str
    truth: Truth
    properties: int

    @property
    def sure(self) -> bool:
        """Whether it is unambiguous."""
        return not (self.truth == MAYBE).any()

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the objects for which it is true."""
        return tuple(int(index) for index in np.flatnonzero(self.truth == YES))

    @property
    def unique(self) -> bool:
        """Whether it unambiguously means exactly one object."""
        return self.sure and len(self.targets) == 1


class Describer:
    """Descriptions of one scene's objects."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.objects = scene.objects
        height, width = scene.labels.shape
        self._least_area = _MIN_AREA * height * width
        # Maximum truth for each object: 0 for a hidden one, 0.5 for a barely visible one.
        self._certainty = np.array([self._certain(index) for index in range(len(self.objects))])
        self.x = np.array([item.centre[0] for item in self.objects]) / width
        self.y = np.array([item.centre[1] for item in self.objects]) / height
        self.area = np.array([float(item.area) for item in self.objects])
        self.whole_area = self.area / np.maximum([item.visible for item in self.objects], 1e-3)
        self.range = np.array([item.range for item in self.objects])
        sizes = np.array([item.pose.size for item in self.objects]).reshape(-1, 3)
        a, b, c = sizes.T
        self.bulk = np.sqrt((a * b + b * c + c * a) / 3)

    def _certain(self, index: int) -> float:
        item = self.objects[index]
        if item.kind == 'crumb' or item.area == 0:
            return NO
        clear = item.visible >= _MIN_VISIBLE and item.area >= self._least_area
        return YES if clear and not item.clutter else MAYBE

    def noun(self, noun: str) -> Phrase:
        """Return the phrase of a bare noun."""
        plural, sure, maybe = NOUNS[noun] if noun in NOUNS else ANYTHING[noun]
        truth = self.of_classes(sure, maybe)
        return Phrase(noun, plural, truth, int(noun in NOUNS))

    def shaped(self, adjective: str, noun: str) -> Phrase:
        """Return a phrase such as 'round thing'."""
        bare = self.noun(noun)
        truth = np.minimum(bare.truth, self.of_classes(*SHAPES[adjective]))
        return Phrase(f'{adjective} {noun}', f'{adjective} {bare.many}', truth, 1)

    def coloured(self, word: str, bare: Phrase) -> Phrase:
        """Return a phrase with a colour word in front."""
        truth = np.minimum(bare.truth, self.colour(word))
        return Phrase(f'{word} {bare.one}', f'{word} {bare.many}', truth, bare.properties + 1)

    def colour(self, word: str) -> Truth:
        """Return the truth of a colour word for each object."""
        name, shade = COLOUR_WORDS[word]
        truth = np.zeros(len(self.objects))
        for index, item in enumerate(self.objects):
            if item.colour == name and item.plain < _PLAIN:
                truth[index] = MAYBE
            elif item.colour == name:
                clash = {shade, item.shade} == {'light', 'dark'}
                truth[index] = YES if shade in (None, item.shade) else NO if clash else MAYBE
            elif name in colours.ALSO[item.colour] or name in item.accents:
                truth[index] = MAYBE
        return np.asarray(np.minimum(truth, self._certainty))

    def words_of(self, index: int) -> list[str]:
        """Return the colour words that are true for an object."""
        item = self.objects[index]
        words = colours.WORDS[item.colour]
        return [word for word, shade in words if shade in (None, item.shade)]

    def nouns_of(self, index: int) -> list[str]:
        """Return the nouns that name an object's class."""
        return [noun for noun, (_, sure, _) in NOUNS.items() if self.objects[index].kind in sure]

    def of_classes(self, sure: tuple[str, ...], maybe: tuple[str, ...]) -> Truth:
        """Return the truth for each object: 1 for the sure classes, 0.5 for the ambiguous ones."""
        truth = [
            YES if item.kind in sure else MAYBE if item.kind in maybe else NO
            for item in self.objects
        ]
        return np.asarray(np.minimum(np.array(truth), self._certainty))


COLOUR_WORDS: dict[str, tuple[str, str | None]] = {
    word: (name, shade) for name, words in colours.WORDS.items() for word, shade in words
}
