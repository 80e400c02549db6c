"""Read what an object is for: "something to drink from", "where do I put the apple?".

A sentence about use has an anchor: an activity ("drink"), a part ("with pages") or a group
("crockery"). Around it lies a clause of contents, people and times, which is taken out of the
sentence; `language` parses what remains ("something red … left of the book").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from segzero_ros.reasoning.attributes.affordances import (
    ACTIVITIES,
    ANY_OBJECT,
    CONTENTS,
    GOES_INTO,
    Kinds,
    NO_CONTENTS,
)
from segzero_ros.reasoning.attributes.scanner import Token
from segzero_ros.reasoning.attributes.words import Part

# Roles of words that mean something only in a sentence about use.
_ROLES = ('activity', 'content', 'part', 'group', 'aside')
_ANCHORS = ('activity', 'group')
# Verbs that are also said to a robot: "put", "go", "hold" ask for a use only after a head.
_WEAK = ('put', 'go', 'hold')
_HEADS = (
    'what', "what's", 'where', 'which', 'something', 'anything', 'somewhere', 'everything',
    'place', 'food', 'who', 'that', 'whatever',
)  # fmt: skip
_SURFACES = ('on', 'in', 'into', 'onto', 'upon')
_PREPOSITIONS = (*_SURFACES, 'from', 'out', 'with')
# What begins a word on the circumstances, which is not the verb's object.
_ADJUNCTS = (
    *_PREPOSITIONS, 'for', 'to', 'at', 'by', 'during', 'before', 'after', 'while', 'when',
)  # fmt: skip
_DRINKS = ('drink', 'drinks')
_HAVING = ('has', 'have', 'having', 'with', 'need', 'needs', 'wants', 'got')
_SILENT = ('skip', 'article', 'aside', 'of', 'in')
_REFERENCES = ('relation', 'place', 'extreme', 'from', 'except', 'in', 'of')
_OPERANDS = ('noun', 'colour', 'tone', 'shape', 'size', 'number', 'all', 'extreme')


@dataclass(frozen=True)
class Use:
    """What an object should be for.

    Attributes:
        kinds: the shapes that serve, best first; a string of several serve equally well.
        purpose: in words: "to drink from".
        ignored: unknown words beside the activity that do not decide what serves.
        unknown: words without which nothing can be said.
        problem: why the sentence cannot be read although its words are known, else empty.
    """

    kinds: Kinds = ()
    purpose: str = ''
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    problem: str = ''


@dataclass
class _Clause:
    """The words of the clause while they are collected."""

    activities: list[str] = field(default_factory=list)
    parts: list[Kinds] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    content_words: list[str] = field(default_factory=list)
    nouns: list[Token] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    things: bool = False
    adjunct: bool = False
    preposition: str = ''
    ends_on: bool = False

    def add(self, token: Token) -> None:
        """Collect one word."""
        role, name = token.part.role, token.part.name
        if role == 'activity':
            self.activities.append(name)
        elif role == 'skip' and token.text in _WEAK:
            self.activities.append('hold' if token.text == 'hold' else 'put')
        elif role in ('part', 'group'):
            self.parts.append(tuple(name.split(',')))
        elif role == 'content':
            self.contents.append(name)
            self.content_words.append(token.text)
        elif role == 'noun' and name:
            self.nouns.append(token)
        elif role == 'noun':
            self.things = True
        elif role == 'unknown':
            self.ignored.append(token.text)
            if not self.adjunct:
                self.objects.append(token.text)
        if role in ('activity', 'content', 'part', 'group'):
            self.used.append(token.text)


def take_use(tokens: Sequence[Token]) -> tuple[Use | None, list[Token]]:
    """Return what the sentence says about use, and the sentence without it.

    Args:
        tokens: the whole sentence.

    Returns:
        None and the tokens themselves, words about use as unknown ones, if it is about no use.
    """
    tokens = _with_drinks(tokens)
    anchor = _anchor(tokens)
    if anchor is None:
        return None, _as_unknown(tokens)
    clause = _Clause()
    place = any(token.text == 'where' for token in tokens[:anchor])
    before = _left(tokens[:anchor], clause, place=place)
    clause.add(tokens[anchor])
    after = _right(tokens[anchor + 1 :], clause)
    use = _resolved(clause)
    if use is None and place and clause.nouns and not clause.ignored:
        return Use(problem=f'I do not know where a {clause.nouns[0].text} goes.'), []
    if use is None:
        return None, _as_unknown(tokens)
    if any(token.part.role == 'not' for token in tokens):
        return Use(problem='I can tell what serves for something, not what does not.'), []
    return use, [*before, *after]


def _with_drinks(tokens: Sequence[Token]) -> list[Token]:
    """Tell "a drink" from "to drink"."""
    told = list(tokens)
    active = any(t.part.role == 'activity' and t.text not in _DRINKS for t in tokens)
    for index, token in enumerate(tokens[1:], start=1):
        if token.text in _DRINKS and tokens[index - 1].part.role in ('article', 'aside', 'tone'):
            part = Part('content', 'drink') if active else Part('activity', 'thirst')
            told[index] = token._replace(part=part)
    return told


def _as_unknown(tokens: Iterable[Token]) -> list[Token]:
    return [
        token._replace(part=token.part._replace(role='unknown'))
        if token.part.role in _ROLES
        else token
        for token in tokens
    ]


def _anchor(tokens: Sequence[Token]) -> int | None:
    """Return the index of the word that makes it a sentence about use."""
    head = False
    weak = None
    having = False
    for index, token in enumerate(tokens):
        role = token.part.role
        if role in _ANCHORS:
            if role == 'group' or ACTIVITIES[token.part.name].kinds or head:
                return index
        elif role == 'part' and having:
            return index
        if role == 'skip' and token.text in _WEAK and head and weak is None:
            weak = index
        head = head or token.text.split()[0] in _HEADS or role == 'noun'
        having = token.text in _HAVING or (having and role in ('article', 'skip', 'tone'))
    if weak is None:
        # "Something for tea", "what do I have my tea in?"
        content = next((i for i, t in enumerate(tokens) if t.part.role == 'content'), None)
        told = [token.text for token in tokens[:content]]
        last = [token.text for token in tokens if token.part.role != 'comma'][-1:]
        if content and head and ('for' in told or ('have' in told and last[0] in _PREPOSITIONS)):
            return content
        return None
    return weak


def _left(tokens: Sequence[Token], clause: _Clause, *, place: bool) -> list[Token]:
    """Return the words before the anchor without those of the clause.

    With `place`, nouns are what goes there: "where does the pen go?".
    """
    kept: list[Token] = []
    for index, token in enumerate(tokens):
        role = token.part.role
        if role in _ROLES or (place and role in _OPERANDS and role != 'all'):
            clause.add(token)
            compound = tokens[index + 1 : index + 2] and tokens[index + 1].part.role == 'noun'
            _drop_end(kept, colours=role == 'content' and not compound)
        else:
            kept.append(token)
    _drop_end(kept)
    return kept


def _drop_end(kept: list[Token], *, colours: bool = False) -> None:
    """Remove what belonged to a word of the clause: its article, "red" of "red wine"."""
    while colours and kept and kept[-1].part.role in ('colour', 'tone'):
        kept.pop()
    while kept and kept[-1].part.role in ('article', 'of', 'in', 'relation', 'and', 'except'):
        kept.pop()


def _right(tokens: Sequence[Token], clause: _Clause) -> list[Token]:
    """Return the words after the anchor that are not part of the clause."""
    for index, token in enumerate(tokens):
        if _leaves(tokens, index, clause):
            return list(tokens[index:])
        clause.add(token)
        clause.adjunct = clause.adjunct or token.text in _ADJUNCTS
        if token.part.role != 'comma':
            clause.ends_on = token.text in _SURFACES
        if token.text in _PREPOSITIONS:
            clause.preposition = token.text
    return []


def _leaves(tokens: Sequence[Token], index: int, clause: _Clause) -> bool:
    """Whether the clause ends before a word, and a condition on the object begins."""
    role, text = tokens[index].part.role, tokens[index].text
    following = tokens[index + 1 :]
    operand = next((token for token in following if token.part.role not in _SILENT), None)
    plain = operand is not None and operand.part.role in _OPERANDS
    if role in ('place', 'extreme', 'from'):
        return True
    if role in _REFERENCES and not _takes_contents(clause):
        # "Left of the box" is a condition, "before going to sleep" is not.
        direct = next((t for t in following if t.part.role not in ('skip', 'article')), None)
        return (
            direct is not None and direct.part.role in _OPERANDS and (role != 'of' or text == 'on')
        )
    if text in ('that', 'which') and following:
        return following[0].text in ('is', 'are', 'stands', 'lies', 'sits') and plain
    if role in ('colour', 'tone', 'shape', 'size'):
        # "To write with, red" but not "to pour red wine into".
        return operand is None or operand.part.role not in ('content', 'unknown', 'noun', 'comma')
    if role in ('and', 'comma') and not _takes_contents(clause):
        return bool(following) and following[0].part.role == 'article' and plain
    return False


def _takes_contents(clause: _Clause) -> bool:
    """Whether a noun that follows may be what is put into the object."""
    waiting = not clause.contents and not clause.nouns
    return waiting and any(not ACTIVITIES[name].kinds for name in clause.activities)


def _resolved(clause: _Clause) -> Use | None:
    """Return the use; None if the clause does not say one."""
    activities = [_variant(name, clause) for name in clause.activities]
    if not _object_fits(activities, clause):
        return None
    own = [name for name in activities if not ACTIVITIES[name].contents]
    kinds: Kinds = ()
    purpose = ''
    for name in own:
        kinds = _both(kinds, ACTIVITIES[name].kinds)
        purpose = purpose or ACTIVITIES[name].purpose
    if not own:
        kinds, purpose = _by_contents(activities, clause)
    for part in clause.parts:
        kinds = _both(kinds, part)
    if not kinds:
        return None
    if not activities and clause.ignored:
        return Use(unknown=tuple(clause.ignored))
    return Use(kinds, purpose or f'with {clause.used[0]}', tuple(dict.fromkeys(clause.ignored)))


def _object_fits(activities: list[str], clause: _Clause) -> bool:
    """Whether the verb means the activity of the table with its object: no "play the guitar"."""
    if not activities:
        return True
    name = activities[0]
    if name == 'eat' and not clause.preposition:
        # "Something to eat" is food; soup needs a bowl.
        return any(content in ('soup', 'spoon food') for content in clause.contents)
    if name in ANY_OBJECT:
        return True
    return not clause.objects and not (clause.contents and name in NO_CONTENTS)


def _by_contents(activities: list[str], clause: _Clause) -> tuple[Kinds, str]:
    """Return the shapes for the contents, or for the activity alone, and the purpose."""
    first = ACTIVITIES[activities[0]] if activities else None
    stored = first is not None and first.contents == 'stored'
    kinds: Kinds = ()
    for name in clause.contents:
        content = CONTENTS[name]
        kinds = _both(kinds, content.stored if stored else content.served)
    if not clause.contents and first and not first.kinds:
        if clause.nouns:
            kinds = GOES_INTO.get(clause.nouns[0].part.name, ())
        elif clause.things and not clause.ignored:
            # "Something to keep toys in", "where do I put this thing?"
            kinds = CONTENTS['goods'].stored
    if first is None:
        return kinds, f'for {clause.content_words[0]}' if clause.contents else ''
    if first.kinds:
        return _both(kinds or first.kinds, first.kinds), first.purpose
    return kinds, first.purpose


def _variant(name: str, clause: _Clause) -> str:
    """Return the activity by its preposition: "write on", "pour from", "drink" (something)."""
    some = clause.preposition or clause.contents or clause.objects
    if name == 'drink' and clause.used[0] in _DRINKS and not some:
        return 'thirst'
    if name == 'write' and clause.ends_on:
        return 'write_on'
    return 'pour_out' if name == 'pour' and clause.preposition in ('from', 'out') else name


def _both(kinds: Kinds, others: Kinds) -> Kinds:
    """Return the shapes that serve both, in the order of the first; the first if none does."""
    if not kinds:
        return others
    allowed = {kind for tier in others for kind in tier.split()}
    tiers = (' '.join(kind for kind in tier.split() if kind in allowed) for tier in kinds)
    return tuple(tier for tier in tiers if tier) or kinds
