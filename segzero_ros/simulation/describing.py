"""Which words are true of which objects: yes, no, or "somebody might say so".

Truth is 1, 0 or 0.5 for each object; a sentence is only asked when no object is at 0.5, so a
person who looks at the picture finds it unambiguous. `and` is the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation import colours
from segzero_ros.simulation.scenes import Scene

Truth = NDArray[np.float64]
YES, MAYBE, NO = 1.0, 0.5, 0.0

# Object too hidden or too small to ask about, or to be sure that a person counts it.
_LEAST_VISIBLE = 0.45
_LEAST_AREA = 0.0012  # of the picture: 370 pixels of 640 × 480

# An object with less than this share in its body's colour is of no one colour.
_PLAIN = 0.62

# Noun: (plural, classes that it names, classes that somebody might call so).
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
# Adjective of shape: classes that it fits, classes that somebody might say it of.
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
    """A description without its article, and what it is true of.

    Attributes:
        one: singular, as in 'red box'.
        many: plural.
        truth: for each object of the scene.
        properties: how many properties it names.
    """

    one: str
    many: str
    truth: Truth
    properties: int

    @property
    def sure(self) -> bool:
        """Whether nobody could see it otherwise."""
        return not (self.truth == MAYBE).any()

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the objects that it is true of."""
        return tuple(int(index) for index in np.flatnonzero(self.truth == YES))

    @property
    def unique(self) -> bool:
        """Whether it surely means exactly one object."""
        return self.sure and len(self.targets) == 1


class Describer:
    """The words that fit one scene's objects."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.objects = scene.objects
        height, width = scene.labels.shape
        self._least_area = _LEAST_AREA * height * width
        # The most that can be said of each object: nothing of what is gone, "maybe" of a corner.
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
        clear = item.visible >= _LEAST_VISIBLE and item.area >= self._least_area
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
        """Return a phrase with a word for a colour in front."""
        truth = np.minimum(bare.truth, self.colour(word))
        return Phrase(f'{word} {bare.one}', f'{word} {bare.many}', truth, bare.properties + 1)

    def colour(self, word: str) -> Truth:
        """Return of which objects a word for a colour is true."""
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
        """Return the colour words that are true of an object."""
        item = self.objects[index]
        words = colours.WORDS[item.colour]
        return [word for word, shade in words if shade in (None, item.shade)]

    def nouns_of(self, index: int) -> list[str]:
        """Return the nouns that name an object's class."""
        return [noun for noun, (_, sure, _) in NOUNS.items() if self.objects[index].kind in sure]

    def of_classes(self, sure: tuple[str, ...], maybe: tuple[str, ...]) -> Truth:
        """Return which objects are of the sure classes, and which may pass for one of them."""
        truth = [
            YES if item.kind in sure else MAYBE if item.kind in maybe else NO
            for item in self.objects
        ]
        return np.asarray(np.minimum(np.array(truth), self._certainty))


COLOUR_WORDS: dict[str, tuple[str, str | None]] = {
    word: (name, shade) for name, words in colours.WORDS.items() for word, shade in words
}
