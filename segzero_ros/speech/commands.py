"""Random commands, to build the language model of a small recogniser.

Such a recogniser misunderstands most commands with a model of general English, but few with a
model of commands. The words are those of the `attributes` reasoner, and the user's own nouns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from segzero_ros.reasoning.attributes.words import plural_of, words

Rng = np.random.Generator
InDictionary = Callable[[str], bool]

# Words that an English dictionary may lack, in ARPAbet.
PRONUNCIATIONS = {
    'bottommost': 'B AA T AH M M OW S T',
    'cubical': 'K Y UW B IH K AH L',
    'cuboid': 'K Y UW B OY D',
    'cuboids': 'K Y UW B OY D Z',
    'flattest': 'F L AE T AH S T',
    'frontmost': 'F R AH N T M OW S T',
    'fuchsia': 'F Y UW SH AH',
    'greyish': 'G R EY IH SH',
    'hindmost': 'HH AY N D M OW S T',
    'leftmost': 'L EH F T M OW S T',
    'lowermost': 'L OW ER M OW S T',
    'middlemost': 'M IH D AH L M OW S T',
    'orbs': 'AO R B Z',
    'paler': 'P EY L ER',
    'rearmost': 'R IH R M OW S T',
    'rightmost': 'R AY T M OW S T',
    'roundest': 'R AW N D AH S T',
    'topmost': 'T AA P M OW S T',
}
_REQUESTS = (
    'find', 'where is', 'show me', 'pick up', 'please segment', 'segment', 'point at', 'i need',
    'can you see', 'give me', 'bring me', 'is there', 'grab', 'look for', 'please find', 'track',
)  # fmt: skip
_SIDES = ('left', 'right', 'top', 'bottom')
_PLACES = (
    'on the left', 'on the right', 'on the left side', 'on the right side', 'on the far left',
    'on the far right', 'at the top', 'at the bottom', 'at the front', 'at the back',
    'in the middle', 'in the center', 'in the middle of the picture', 'in the corner',
    'closest to the camera', 'nearest to the camera', 'farthest from the camera',
    'closest to me', 'farthest from me', 'closest to the bottom of the picture',
    *(f'{near} to the {side} edge' for near in ('nearest', 'closest') for side in _SIDES),
    *(f'{at} the {end} {side}{corner}' for at in ('at', 'in')
      for end in ('top', 'bottom', 'upper', 'lower') for side in ('left', 'right')
      for corner in ('', ' corner')),
)  # fmt: skip
_RELATIONS = (
    'left of', 'right of', 'to the left of', 'to the right of', 'behind', 'in front of', 'above',
    'below', 'under', 'on top of', 'next to', 'near', 'beside', 'close to', 'closest to',
    'nearest to', 'larger than', 'bigger than', 'smaller than',
)  # fmt: skip
# Relative frequency of the first words of each meaning, by their position.
_FREQUENCY = {0: 16, 1: 6, 2: 3}
# Generic nouns, which are more frequent than others.
_GENERIC_NOUNS = ('thing', 'object')


class Commands:
    """Generates random commands.

    Attributes:
        unpronounceable: nouns of the user with a word of unknown pronunciation.

    Args:
        in_dictionary: whether the recogniser's dictionary has a word.
        nouns: the user's own nouns, such as `teddy bear`; singular.
    """

    def __init__(self, in_dictionary: InDictionary, nouns: Iterable[str] = ()) -> None:
        self._in_dictionary = in_dictionary
        own = [' '.join(noun.lower().split()) for noun in nouns if noun.strip()]
        self.unpronounceable = tuple(noun for noun in own if not self._is_pronounceable(noun))
        own = [noun for noun in own if noun not in self.unpronounceable]
        self._own = own
        self._one = self._words('noun', plural=False)
        self._many = self._words('noun', plural=True)
        self._own_many = [many for noun in own if self._is_pronounceable(many := plural_of(noun))]
        roles = ('colour', 'tone', 'shape', 'size', 'extreme', 'ordinal', 'number')
        self._by_role = {role: self._words(role) for role in roles}

    def draw(self, rng: Rng) -> str:
        """Return a command in lower case, without punctuation."""
        request = _pick(rng, _REQUESTS) if rng.random() < 0.5 else ''
        please = 'please' if rng.random() < 0.05 else ''
        return ' '.join(f'{request} {self._things(rng)} {please}'.split())

    def _things(self, rng: Rng) -> str:
        kind = rng.random()
        if kind < 0.3:
            return self._single(rng)
        if kind < 0.45:
            return self._several(rng)
        if kind < 0.6:
            return f'{self._single(rng)} {_pick(rng, _PLACES)}'
        if kind < 0.63:
            ordinal = _pick(rng, self._by_role['ordinal'])
            return f'the {ordinal} {self._looks(rng)} {self._noun(rng)} from the {_side(rng)}'
        if kind < 0.9:
            return f'{self._single(rng)} {_pick(rng, _RELATIONS)} {self._single(rng)}'
        if kind < 0.93:
            return f'{self._single(rng)} between {self._single(rng)} and {self._single(rng)}'
        if kind < 0.96:
            return f'how many {self._looks(rng)} {self._nouns(rng)}'
        return f'something {_pick(rng, self._by_role["colour"])}'

    def _single(self, rng: Rng) -> str:
        article = _pick(rng, ('the', 'the', 'the', 'the', 'a', ''))
        degree = ''
        if rng.random() < 0.3:
            degree = _pick(rng, self._by_role[_pick(rng, ('size', 'extreme', 'extreme'))])
        return f'{article} {degree} {self._looks(rng)} {self._noun(rng)}'

    def _several(self, rng: Rng) -> str:
        number = _pick(rng, self._by_role['number'])
        how = _pick(rng, ('all', 'all the', 'both', 'both', 'the', f'the {number}', number))
        return f'{how} {self._looks(rng)} {self._nouns(rng)}'

    def _looks(self, rng: Rng) -> str:
        colour = _pick(rng, self._by_role['colour']) if rng.random() < 0.55 else ''
        tone = _pick(rng, self._by_role['tone']) if colour and rng.random() < 0.1 else ''
        shape = _pick(rng, self._by_role['shape']) if rng.random() < 0.15 else ''
        return f'{tone} {shape} {colour}'

    def _noun(self, rng: Rng) -> str:
        if rng.random() < 0.25:
            return _pick(rng, _GENERIC_NOUNS)
        return _pick(rng, self._own if self._own and rng.random() < 0.3 else self._one)

    def _nouns(self, rng: Rng) -> str:
        own = self._own_many and rng.random() < 0.2
        return _pick(rng, self._own_many if own else self._many)

    def _words(self, role: str, *, plural: bool | None = None) -> list[str]:
        """Return the words of a role; the first words of each meaning several times."""
        found: list[str] = []
        counts: Counter[tuple[str, int]] = Counter()
        for word, part in words().items():
            wanted = part.role == role and plural in (None, part.plural)
            if wanted and word.isalpha() and self._is_pronounceable(word):
                meaning = (part.name, part.sign)
                found += [word] * _FREQUENCY.get(counts[meaning], 1)
                counts[meaning] += 1
        return found

    def _is_pronounceable(self, phrase: str) -> bool:
        return all(self._in_dictionary(word) or word in PRONUNCIATIONS for word in phrase.split())


def _pick(rng: Rng, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _side(rng: Rng) -> str:
    return _pick(rng, _SIDES)
