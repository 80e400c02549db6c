"""The kind of a question, and the noun phrase that it is about.

"How many red boxes are there?" counts "red boxes"; "is there a tin?" asks whether "a tin" exists;
"where is the mug?" asks for the position of "the mug"; "where do I put the apple?" asks for a
place. Everything else is a plain description of what to find. Only the frame of the question is
read here; `language.parse_query` reads the phrase. Time is linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import re
from typing import Literal
import unicodedata

from segzero_ros.reasoning.attributes.words import number_word, plural_of, singular_of
from segzero_ros.types import Box

Kind = Literal['count', 'exists', 'where', 'place', 'find']


@dataclass(frozen=True)
class Question:
    """A question without its frame.

    Attributes:
        kind: `count` (how many), `exists` (yes or no), `where` (the position of an object),
            `place` (where an object could be put) or `find` (a plain description).
        phrase: what a reasoner should find: "red boxes", "a tin", "the mug". For `place` and
            `find` the whole sentence as it was written.
    """

    kind: Kind
    phrase: str


_AUX = r'(?:do|does|did|should|can|could|would|shall|may|must|might|will)'
_BE = r"(?:is|are|isn't|aren't|was|were)"
_SEE = r'(?:see|spot|find|notice|recogni[sz]e|detect|make out|count)'
_ANY = r'(?:(?:any|some|one|at least one)(?: of)? |of )?(?:the |these |those )?'
_DETERMINER = r'(?:the|a|an|any|some|one|two|three|both|all|this|that|these|those|my|your|every)'
_TELL = r'(?:tell|say to|show|answer|inform)'

# Words before the question itself.
_OPENING = re.compile(
    r'(?:(?:please|hey|hi|hello|ok|okay|robot|so|and|well|now|then|excuse me|say|'
    rf'(?:(?:can|could|would|will) you )?(?:please )?{_TELL} (?:me|us)|'
    r'(?:(?:do|can|would|could) you (?:happen to )?)(?:know|say|tell)|'
    r"(?:i|we) (?:want|need|wish|would like) to know|(?:i'd|we'd) like to know|i wonder|"
    r'i am asking|i am wondering|check|let me know) )'
)
# The frames of questions, without their ends; the first that matches wins.
_FRAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))  # type: ignore[misc]
    for kind, pattern in (
        ('place', rf'where (?:{_AUX} |to )(?:[^ ]+ ){{0,6}}?(?:put|place|set|lay|drop|stow|store|'
         r'keep|leave|pour|go|belong|goes|belongs|fit)\b'),
        ('place', rf'(?:on|in|into|onto) (?:what|which [^ ]+) {_AUX} (?:[^ ]+ ){{1,4}}?'
         r'(?:put|place|set|lay|drop|stow|pour|go|belong)\b'),
        ('count', r'how many (?:of )?(?:the |these |those )?(?:different )?'),
        ('count', r"(?:(?:what is|what's|give|tell) )?(?:me )?(?:the )?(?:total )?"
         r'(?:number|count|amount) of (?:all )?(?:the )?'),
        ('count', r'count (?:up )?(?:all )?(?:of )?(?:the )?'),
        ('where', rf"(?:where's|where (?:exactly )?{_BE}|where (?:can|could|do|did) (?:you|i|we) "
         rf'{_SEE}) '),
        ('where', r"(?:(?:what is|what's|give me|describe) )?the (?:position|location|"
         r'whereabouts) of '),
        ('where', r'(?:on|at|in|to) (?:which|what) (?:side|part|place|direction|corner|spot)'
         rf'(?: of the [^ ]+)? (?:{_BE}|lies|lie|stands) '),
        ('exists', rf"(?:(?:if|whether) )?(?:{_BE} there|there (?:is|are)) {_ANY}"),
        ('exists', rf"(?:{_AUX}|don't|can't) (?:you|we|i) {_SEE} {_ANY}"),
        ('exists', rf'(?:(?:have|has) (?:you|we|i|it) (?:got )?|(?:do|does) (?:you|we|i|it|the '
         rf'[^ ]+) (?:have|contain|show|hold) ){_ANY}'),
        ('exists', rf'{_BE} (?=(?:any|some|one|none)\b)'),
        ('exists', rf'(?:if|whether) (?={_DETERMINER} )'),
        ('exists', rf'{_BE} (?={_DETERMINER} )'),
    )
)  # fmt: skip
# Questions that need an ending: "does a mug exist?", "the mug is where?".
_EXIST = re.compile(r'(?:does|do) (?:any |some )?')
_INNER = re.compile(
    rf' (?:(?:are|is) there|there (?:are|is)|(?:do|can|could|did) (?:you|we|i) {_SEE}|'
    rf'(?:do|can|could|did) (?:you|we|i) have|(?:can|could) be {_SEE}|(?:are|is) visible)(?= |$)'
)
_ENDS = tuple(
    tuple(end.split())
    for end in (
        'there', 'here', 'are', 'is', 'exist', 'exists', 'altogether', 'together', 'in total',
        'in all', 'all in all', 'at all', 'right now', 'now', 'please', 'present', 'visible',
        'to be seen', 'in sight', 'anywhere', 'somewhere', 'available', 'be seen', 'located',
        'do you count', 'do you spot', 'around', 'or not', 'thanks', 'thank you', 'standing',
        'lying', 'placed', 'positioned', 'at the moment', 'currently', 'in view', 'then',
    )
)  # fmt: skip
_DEFINITE = ('the', 'this', 'that', 'these', 'those', 'my', 'your', 'any', 'some', 'one', 'none')
_CONTEXTS = (
    'table', 'tabletop', 'desk', 'image', 'picture', 'photo', 'photograph', 'scene', 'frame',
    'view', 'screen', 'workbench',
)  # fmt: skip
_AROUND = ('on', 'in', 'at', 'across', 'within', 'inside')
# Words that end the noun and its adjectives.
_AFTER_NOUN = (
    'of', 'on', 'in', 'at', 'to', 'left', 'right', 'above', 'below', 'behind', 'before', 'beside',
    'near', 'next', 'between', 'under', 'over', 'from', 'that', 'which', 'who', 'with', 'without',
    'are', 'is', 'not', 'closest', 'nearest', 'farthest', 'furthest', 'larger', 'smaller',
    'bigger', 'for', 'and', 'or', 'inside', 'but', 'except', 'i', 'you', 'we', 'can',
)  # fmt: skip


def parse_question(text: str) -> Question:
    """Return the kind of a question, and its noun phrase.

    Args:
        text: any text.
    """
    plain = unicodedata.normalize('NFKC', text).lower().replace('\u2019', "'")
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", plain)
    sentence = ' '.join(words)
    start = 0
    while opening := _OPENING.match(sentence, start):
        start = opening.end()
    for kind, frame in _FRAMES:
        found = frame.match(sentence, start)
        if found is None:
            continue
        if kind == 'place':
            return Question(kind, text.strip())
        phrase = _without_end(_INNER.sub('', f' {sentence[found.end() :]}').split())
        if phrase and kind == 'count':
            # "of the boxes are red": the boxes that are red.
            phrase = re.sub(r'(?<!that)(?<!which) (is|are) ', r' that \1 ', phrase, count=1)
        if phrase:
            return Question(kind, phrase)
    return _by_its_end(sentence[start:]) or Question('find', text.strip())


def _by_its_end(sentence: str) -> Question | None:
    """Return a question that only its last word tells: "does a mug exist?"."""
    rest, _, last = sentence.rpartition(' ')
    begun = _EXIST.match(rest)
    if last in ('exist', 'appear') and begun:
        return Question('exists', rest[begun.end() :])
    if last == 'where' and rest.endswith((' is', ' are')):
        return Question('where', rest.rpartition(' ')[0])
    return None


def _without_end(words: list[str]) -> str:
    """Return a phrase without "… are there on the table, please"."""
    end = len(words)
    while end:
        size = next(
            (len(tail) for tail in _ENDS if tuple(words[end - len(tail) : end]) == tail), 0
        )
        if not size and words[end - 1] in _CONTEXTS:
            # "on the table", "in this picture"; but not "the left of the table".
            size = next((n for n in (2, 3) if end > n and words[end - n] in _AROUND), 0)
        if not size:
            break
        end -= size
    return ' '.join(words[:end])


def answer_sentence(question: Question, found: int, positions: Sequence[str] = ()) -> str:
    """Return the answer in words.

    Args:
        question: the question.
        found: number of objects found for its phrase.
        positions: for `where` and `place`, the position of each: "left of the blue box".
    """
    phrase = question.phrase
    if question.kind == 'find':
        listed = f': {"; ".join(positions)}' if positions else ''
        return f'I found {_number(found, "object")}{listed}.'
    if question.kind == 'place':
        if not positions:
            return 'I see no place for it.'
        return f'It could go {_or(positions)}.'
    if question.kind == 'where':
        return _where(phrase, found, positions)
    if question.kind == 'count':
        return f'There {"is" if found == 1 else "are"} {_number(found, phrase)}.'
    if phrase.split(' ', 1)[0] in _DEFINITE:
        # "Is the ball red?" has no noun phrase of its own.
        fits = 'fits' if found == 1 else 'fit'
        return f'Yes, {_number(found, "object")} {fits}.' if found else 'No, I see none.'
    if not found:
        nothing = f'no {_bare(phrase)}'.replace('no thing ', 'nothing ', 1)
        return f'No, there {"are" if _is_plural(phrase) else "is"} {nothing}.'
    return f'Yes, there {"is" if found == 1 else "are"} {_number(found, phrase)}.'


def _where(phrase: str, found: int, positions: Sequence[str]) -> str:
    bare = _bare(phrase)
    if not found:
        return f'I see no {bare}.'
    if found == 1 and positions and not _is_plural(phrase):
        return f'The {bare} is {positions[0]}.'
    listed = f': {"; ".join(positions)}' if positions else ''
    return f'I see {_number(found, phrase)}{listed}.'


def position_in_image(box: Box, width: int, height: int, distance: float | None = None) -> str:
    """Return an object's position in words: "at the left of the image, 0.6 m away".

    Args:
        box: x1, y1, x2, y2 in pixels.
        width: of the image, pixels.
        height: of the image, pixels.
        distance: from the camera, metres; None if unknown.
    """
    x, y = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    across = 'left' if x < 0.37 else 'right' if x > 0.63 else ''
    along = 'top' if y < 0.37 else 'bottom' if y > 0.63 else ''
    side = f'{along} {across}'.strip()
    where = f'at the {side} of the image' if side else 'in the middle of the image'
    return where if distance is None else f'{where}, {distance:.1f} m away'


def _number(count: int, phrase: str) -> str:
    """Return a count with its phrase: "two red boxes left of the mug", "no mugs"."""
    words = _bare(phrase).split()
    at = _head(words)
    noun = singular_of(words[at]) if words else ''
    if words:
        words[at] = noun if count == 1 else plural_of(noun)
    if count == 1:
        words = ['is' if word == 'are' else word for word in words]
    return ' '.join([number_word(count) if count else 'no', *words])


def _head(words: list[str]) -> int:
    """Return the index of the noun: the last word before "left of", "that is" and the like."""
    end = next((i for i, word in enumerate(words) if i and word in _AFTER_NOUN), len(words))
    return end - 1


def _is_plural(phrase: str) -> bool:
    words = _bare(phrase).split()
    return bool(words) and singular_of(words[_head(words)]) != words[_head(words)]


def _bare(phrase: str) -> str:
    """Return a phrase without its articles; "anything" is a thing."""
    words = phrase.split()
    while len(words) > 1 and re.fullmatch(_DETERMINER, words[0]):
        words = words[1:]
    if words and words[0] in ('anything', 'something'):
        words[0] = 'thing'
    return ' '.join(words)


def _or(items: Sequence[str]) -> str:
    return ' or '.join([', '.join(items[:-1]), items[-1]] if len(items) > 1 else items)
