"""The vocabulary of the attribute reasoner: single words and their roles in a query.

Tables only; idioms of several words are in `scanner`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from segzero_ros.reasoning.attributes.affordances import use_words


class Part(NamedTuple):
    """The role of a word or an idiom.

    Attributes:
        role: `skip`, `article`, `all`, `number`, `ordinal`, `colour`, `tone`, `shape`, `noun`,
            `size`, `extreme`, `place`, `from`, `relation`, `not`, `except`, `but`, `and`, `or`,
            `comma`, `count`, `in`, `of`, `activity`, `content`, `part`, `group`, `aside` (see
            `affordances`) or `unknown`.
        name: which of its role.
        sign: for measures 1 for the largest and -1 for the smallest; the value of a number.
        plural: whether the word is plural.
    """

    role: str
    name: str = ''
    sign: int = 0
    plural: bool = False


_SKIPPED = """
please kindly can could would will shall should may might do does did is are was were be am
been being it its it's that's what's where's there's here's who's i'm i'd we'd you'd let's lets
i we you me us he she they them my your our their show find get give pick grab take hand bring
pass point fetch reach hold lift touch grasp segment mark mask highlight outline select choose
identify locate detect track follow look looking see seen tell say name want need like wish
help try go move put search spot recognise recognize indicate picked what where who how there
here to at for up out off now just only exactly then so too well if whether really quite very
rather robot hey hi hello ok okay yes thanks thank sir have has having had with located placed
lying lies standing stands sitting sits situated positioned found visible colour color coloured
colored colours colors shade hue shaped sized size kind sort type looks appears seems called as
about possible whose that which
"""

_COLOURS = {
    'red': 'red scarlet crimson ruby vermilion reddish',
    'dark red': 'maroon burgundy',
    'orange': 'orange',
    'yellow': 'yellow golden gold amber mustard yellowish',
    'green': 'green emerald lime olive greenish',
    'turquoise': 'turquoise cyan teal aqua aquamarine',
    'blue': 'blue azure cobalt sapphire indigo bluish',
    'dark blue': 'navy',
    'purple': 'purple violet lilac lavender mauve purplish',
    'pink': 'pink magenta fuchsia pinkish',
    'brown': 'brown tan bronze copper brownish',
    'beige': 'beige cream ivory khaki',
    'white': 'white whitish',
    'grey': 'grey gray silver silvery greyish grayish',
    'black': 'black blackish',
}
_TONES = {
    'light': 'light pale pastel faint',
    'dark': 'dark deep dim',
    'bright': 'bright vivid brilliant',
}
_NOUNS = {
    '': 'thing object item something anything piece part region area spot patch toy one element',
    'ball': 'ball sphere orb globe marble',
    'box': 'box cube block carton brick package parcel case packet cuboid',
    'can': 'can tin cylinder',
    'cone': 'cone pyramid',
    'mug': 'mug cup teacup beaker tumbler goblet',
    'bowl': 'bowl basin',
    'plate': 'plate saucer dish coaster',
    'bottle': 'bottle flask carafe',
    'book': 'book notebook booklet paperback novel hardback textbook',
    'stick': 'stick pen pencil biro ballpoint marker rod bar crayon straw chopstick skewer baton',
    'round': 'circle disc disk',
    'square': 'square',
    'rectangular': 'rectangle',
    'triangular': 'triangle',
}
_SHAPES = {
    'round': 'round circular rounded',
    'spherical': 'spherical globular',
    'square': 'square squarish cubic cubical',
    'rectangular': 'rectangular boxy oblong',
    'long': 'long elongated lengthy thin slim narrow slender skinny',
    'flat': 'flat',
    'tall': 'tall high upright',
    'short': 'short stubby squat low',
    'wide': 'wide broad thick fat',
    'triangular': 'triangular pointed pointy conical tapered',
    'cylindrical': 'cylindrical tubular',
}
_SIZES = {
    'big': 'big large huge giant enormous massive',
    'small': 'small little tiny mini miniature',
    'medium': 'medium average',
}
_EXTREMES: dict[tuple[str, int], str] = {
    ('size', 1): 'largest biggest hugest bigger larger greatest',
    ('size', -1): 'smallest tiniest littlest smaller tinier',
    ('length', 1): 'longest longer',
    ('length', -1): 'shortest shorter',
    ('height', 1): 'tallest taller',
    ('thickness', -1): 'thinnest thinner slimmest narrowest slimmer narrower',
    ('thickness', 1): 'thickest thicker fattest widest wider broadest',
    ('roundness', 1): 'roundest rounder',
    ('flatness', 1): 'flattest flatter',
    ('brightness', 1): 'brightest lightest palest brighter lighter paler',
    ('brightness', -1): 'darkest darker',
    ('x', -1): 'leftmost',
    ('x', 1): 'rightmost',
    ('y', -1): 'topmost uppermost highest upmost',
    ('y', 1): 'bottommost lowest lowermost undermost',
    ('depth', -1): 'nearest closest nearer closer frontmost foremost',
    ('depth', 1): 'farthest furthest rearmost backmost hindmost farther further',
    ('centrality', 1): 'centermost centremost middlemost',
}
_PLACES = {
    'left': 'left lefthand',
    'right': 'right righthand',
    'top': 'top upper',
    'bottom': 'bottom lower',
    'centre': 'centre center middle central',
    'corner': 'corner corners',
    'front': 'front foreground',
    'back': 'back background',
}
_NAMED = {
    'colour': _COLOURS,
    'tone': _TONES,
    'shape': _SHAPES,
    'size': _SIZES,
    'place': _PLACES,
}
_NUMBERS = 'zero one two three four five six seven eight nine ten eleven twelve'
_ORDINALS = 'first second third fourth fifth sixth seventh eighth ninth tenth'
_SMALL = {
    'article': 'the a an this those these any another some',
    'all': 'all every each several many various',
    'not': "not non isn't aren't isnt neither never no",
    'except': 'except besides excluding without',
    'but': 'but',
    'and': 'and plus & nor also',
    'or': 'or either',
    'comma': ', . ; ? ! :',
    'count': 'count',
    'in': 'in',
    'of': 'of from on',
}


@cache
def words() -> dict[str, Part]:
    """Return every known single word, lower-case, with its role."""
    table = {word: Part(*use) for word, use in use_words().items() if ' ' not in word}
    table |= {word: Part('skip') for word in _SKIPPED.split()}
    for role, spelt in _SMALL.items():
        table |= {word: Part(role) for word in spelt.split()}
    for kind, spelt in _NOUNS.items():
        for noun in spelt.split():
            table[noun] = Part('noun', kind)
            table[plural_of(noun)] = Part('noun', kind, plural=True)
    table |= dict.fromkeys(('everything', 'stuff'), Part('noun', plural=True))
    for role, names in _NAMED.items():
        for name, spelt in names.items():
            table |= {word: Part(role, name) for word in spelt.split()}
    for (measure, sign), spelt in _EXTREMES.items():
        table |= {word: Part('extreme', measure, sign) for word in spelt.split()}
    for rank, word in enumerate(_ORDINALS.split(), start=1):
        table[word] = table[f'{rank}{_ending(rank)}'] = Part('ordinal', sign=rank)
    table['last'] = Part('ordinal', sign=-1)
    for value, word in enumerate(_NUMBERS.split()):
        table[str(value)] = Part('number', sign=value)
        if word != 'one':
            table[word] = Part('number', sign=value)
    return table | {'both': Part('number', sign=2), 'single': Part('number', sign=1)}


def plural_of(noun: str) -> str:
    """Return the plural of a noun, by its ending."""
    if noun.endswith('y') and noun[-2:-1] not in tuple('aeiou'):
        return f'{noun[:-1]}ies'
    return noun + ('es' if noun.endswith(('s', 'x', 'sh', 'ch')) else 's')


def singular_of(noun: str) -> str:
    """Return the singular of a noun: a noun known here, or by the ending where it is not."""
    part = words().get(noun)
    known = part is not None and part.role == 'noun'
    if noun in ('everything', 'stuff') or (known and part is not None and not part.plural):
        return noun
    if noun.endswith(('xes', 'shes', 'ches', 'sses')):
        return noun[:-2]
    if noun.endswith('ies') and len(noun) > 4:
        return f'{noun[:-3]}y'
    return noun[:-1] if noun.endswith('s') and not noun.endswith(('ss', 'us', 'is')) else noun


def number_word(value: int) -> str:
    """Return a number in words up to twelve, else in digits."""
    words_for = _NUMBERS.split()
    return words_for[value] if 0 <= value < len(words_for) else str(value)


def _ending(rank: int) -> str:
    return {1: 'st', 2: 'nd', 3: 'rd'}.get(rank, 'th')
