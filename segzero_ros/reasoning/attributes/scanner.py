"""Split a query into known words and idioms.

Every pattern matches a bounded number of words, so scanning is linear in the query.
"""

from __future__ import annotations

from functools import cache
import re
from typing import NamedTuple
import unicodedata

from segzero_ros.reasoning.attributes.affordances import use_words
from segzero_ros.reasoning.attributes.words import Part, words


class Token(NamedTuple):
    """A word or idiom of the query, and its role."""

    text: str
    part: Part


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[,.;:?!&]")

_CONTEXT = (
    r'(?:(?:the|this|a|my|that|your) )?(?:table ?top|table|desk|image|picture|photo|photograph|'
    r'scene|frame|view|screen|floor|room|ground|surface|workbench|counter|camera image)'
)
_SIDE = r'(?:left|right|top|bottom|upper|lower|lefthand|righthand|centre|center|middle)'
_EDGE = r'(?: (?:edge|side|border|end|half|part|area|corner|hand side|hand corner|most))'
_VIEWER = r'(?:(?:to|from) )?(?:the )?(?:me|us|you|camera|robot|viewer|here|front)'
_MUCH = r'(?:farthest|furthest|far|most|closest|nearest|close)'
_TO = r'(?: to| on| at| towards| toward| in)?(?: the)?'
_END = r'(?= (?:[,.;:?!&]|and|or|of|in|on|but|is|are|that|which|please)(?: |$)|$)'

# Idioms and their roles; the first pattern that matches wins. Capitals stand for the patterns
# above.
_IDIOMS: tuple[tuple[str, Part], ...] = (
    (r'(?:can|could|will|would) (?:you|i|we|they|it|the robot|see|be)|'
     r'(?:you|i|we|what|how|it|robot) can|right (?:now|here|there)|over (?:here|there)|'
     r'as well(?! as)|all right|thank you|(?:in|of) (?:colou?r|shape|size)|for me|to me|'
     r'i would like|at all',
     Part('skip')),
    (r'can(?= (?:ACTIVITY|hold|go|put|be)(?: |$))', Part('skip')),
    (r'(?:farthest|furthest|most distant)(?: away)? from the (?P<away>SIDE)EDGE?(?: of CONTEXT)?',
     Part('extreme')),
    (r'MUCHTO (?P<side>SIDE)EDGE(?: of CONTEXT)?', Part('extreme')),
    (r'MUCHTO (?P<side>SIDE)(?: of CONTEXT)?END', Part('extreme')),
    (r'(?:(?:on|at|to|in) (?:the )?)?(?:very |far |most )+(?P<side>left|right|top|bottom|central)'
     r'EDGE?(?: of CONTEXT)?', Part('extreme')),
    (r'(?P<side>left|right|top|bottom|upper|lower) most', Part('extreme')),
    (r'(?:closest|nearest|close|near) VIEWEREND', Part('extreme', 'depth', -1)),
    (r'(?:farthest|furthest|most distant)(?: away)? VIEWER', Part('extreme', 'depth', 1)),
    (r'(?:(?:farthest|furthest) away|most distant)(?! (?:from|than))',
     Part('extreme', 'depth', 1)),
    (r'(?:counting |counted )?from (?:the )?(?P<side>left|right|top|bottom)EDGE?'
     r'(?: to (?:the )?SIDE)?END',
     Part('from')),
    (r'(?:counting |counted )?from (?:the )?(?:front|camera|here)', Part('from', 'depth', -1)),
    (r'(?:counting |counted )?from (?:the )?back', Part('from', 'depth', 1)),
    (r'(?:(?:to|on|at|in|by) )?(?:the )?(?P<beside>left|right)(?: hand)?(?: side)? (?:of|from) '
     r'(?!CONTEXT|(?:the |these |those )?(?:two|three|four|five|both|all))', Part('relation')),
    (r'(?:in )?the (?:middle|centre|center) of (?!CONTEXT)', Part('relation', 'between')),
    (r'(?:at|on) the top of (?!CONTEXT)', Part('relation', 'on')),
    (r'(?:in|from|of|on) (?:the |a )?(?:front|foreground) of CONTEXT', Part('place', 'front')),
    (r'(?:(?:on|at|in|to|towards|toward|near) )?(?:the )?(?P<place>SIDE(?: hand)?(?: SIDE)?)'
     r'(?P<edge>EDGE)?(?: of CONTEXT)?(?! (?:of|than) )', Part('place')),
    (r'(?:in|at|near) (?:a|the|one|one of the) corners?(?: of CONTEXT)?', Part('place', 'corner')),
    (r'(?:on|at|near|by|along) (?:the |an )?(?:edge|border|rim)(?: of CONTEXT)?',
     Part('place', 'edge')),
    (r'(?:in|at) (?:the )?(?:front|foreground)(?! of)', Part('place', 'front')),
    (r'(?:in|at) (?:the )?(?:back|background)(?! of)', Part('place', 'back')),
    (r'(?:lying |standing |sitting )?(?:on top of|on|in|of|at|from|across|over|within|inside|off) '
     r'CONTEXT',
     Part('skip')),
    (r'(?:(?:of |in |with |has |have )?the )?same colou?r (?:as|like)',
     Part('relation', 'same_colour')),
    (r'(?:in )?front of|before|(?:nearer|closer) than', Part('relation', 'in_front')),
    (r'behind|(?:in|at) (?:the )?back of|(?:farther|further)(?: away)? than',
     Part('relation', 'behind')),
    (r'above|over|higher(?: up)? than', Part('relation', 'above')),
    (r'below|beneath|underneath|under|lower(?: down)? than', Part('relation', 'below')),
    (r'(?:right |directly |immediately |just )?(?:next to|near to|nearby|near by|near|beside|'
     r'close to|by|adjacent to|alongside|closest to|nearest to|nearer to|closer to|touching|'
     r'around|in the vicinity of)', Part('relation', 'near')),
    (r'(?:farthest|furthest|farther|further|far)(?: away)? from|away from',
     Part('relation', 'far')),
    (r'(?:halfway |in )?between|among|amid', Part('relation', 'between')),
    (r'on top of|upon|atop|onto', Part('relation', 'on')),
    (r'inside of|inside|within|into', Part('relation', 'in')),
    (r'(?:larger|bigger|greater) than', Part('relation', 'larger')),
    (r'smaller than', Part('relation', 'smaller')),
    (r'how many|(?:the )?(?:number|count) of', Part('count')),
    (r'except for|other than|apart from|aside from|rather than', Part('except')),
    (r'of (?:the |these |those )?(?P<number>two|three|four|five|six|seven|eight)',
     Part('of_number')),
    (r'(?:a )?(?:couple|pair) of', Part('number', sign=2)),
    (r'as well as|together with|along with', Part('and')),
    (r'(?P<like>ball|box|stick|cone|cylinder|disc|pen|cube) (?:shaped|like)', Part('shape')),
    (r'(?:medium|mid|middle|average) sized', Part('size', 'medium')),
)  # fmt: skip

_LIKE = {
    'ball': 'round', 'disc': 'round', 'box': 'rectangular', 'cube': 'square', 'stick': 'long',
    'pen': 'long', 'cone': 'triangular', 'cylinder': 'cylindrical',
}  # fmt: skip
_SIDES = {
    'left': 'left', 'lefthand': 'left', 'right': 'right', 'righthand': 'right', 'top': 'top',
    'upper': 'top', 'bottom': 'bottom', 'lower': 'bottom', 'centre': 'centre', 'center': 'centre',
    'middle': 'centre', 'central': 'centre',
}  # fmt: skip
_TOWARDS = {
    'left': ('x', -1), 'right': ('x', 1), 'top': ('y', -1), 'bottom': ('y', 1),
    'centre': ('centrality', 1),
}  # fmt: skip


def scan(text: str) -> list[Token]:
    """Cut a sentence into words and idioms; unknown words come out with the role `unknown`."""
    plain = unicodedata.normalize('NFKC', text).lower().replace('\u2019', "'")
    pieces = _WORD.findall(plain)
    sentence = ' '.join(pieces)
    tokens: list[Token] = []
    position = 0
    while position < len(sentence):
        token = _idiom_at(sentence, position) or _word_at(sentence, position)
        tokens.append(token)
        position += len(token.text) + 1
    return tokens


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Part], ...]:
    pieces = {
        'CONTEXT': _CONTEXT, 'SIDE': _SIDE, 'EDGE': _EDGE, 'VIEWER': _VIEWER, 'MUCH': _MUCH,
        'TO': _TO, 'END': _END,
    }  # fmt: skip
    uses = use_words()
    pieces['ACTIVITY'] = '|'.join(word for word, (role, _) in uses.items() if role == 'activity')
    idioms = tuple((word, Part(*use)) for word, use in uses.items() if ' ' in word)
    compiled = []
    for pattern, part in (*idioms, *_IDIOMS):
        for name, piece in pieces.items():
            pattern = pattern.replace(name, piece)
        compiled.append((re.compile(rf'(?:{pattern})(?:(?<= )|(?= |$))'), part))
    return tuple(compiled)


def _idiom_at(sentence: str, position: int) -> Token | None:
    for pattern, part in _patterns():
        found = pattern.match(sentence, position)
        if found:
            return Token(found.group().rstrip(), _resolved(part, found))
    return None


def _resolved(part: Part, found: re.Match[str]) -> Part:
    """Return the part, completed from the idiom's named groups."""
    groups = {name: text for name, text in found.groupdict().items() if text}
    if 'side' in groups or 'away' in groups:
        measure, sign = _TOWARDS[_SIDES[groups.get('side') or groups['away']]]
        return part._replace(name=measure, sign=-sign if 'away' in groups else sign)
    if 'beside' in groups:
        return part._replace(name=f'{groups["beside"]}_of')
    if 'place' in groups:
        return part._replace(name=_place(groups['place'], groups.get('edge', '')))
    if 'number' in groups:
        return part._replace(sign=words()[groups['number']].sign)
    if 'like' in groups:
        return part._replace(name=_LIKE[groups['like']])
    return part


def _place(sides: str, edge: str) -> str:
    """Return `left`, `top right`, `centre` … from "right hand upper" and the like."""
    named = {_SIDES[word] for word in sides.split() if word != 'hand'}
    across = next((side for side in ('left', 'right') if side in named), '')
    along = next((side for side in ('top', 'bottom') if side in named), '')
    name = f'{along} {across}'.strip() or 'centre'
    return f'{name} edge' if 'edge' in edge or 'border' in edge else name


def _word_at(sentence: str, position: int) -> Token:
    end = sentence.find(' ', position)
    word = sentence[position:] if end < 0 else sentence[position:end]
    table = words()
    return Token(word, table.get(word) or table.get(word.removesuffix("'s")) or Part('unknown'))
