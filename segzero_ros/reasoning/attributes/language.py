"""Parse a query into a Request: which objects, with which qualities, where, how many.

A recursive descent parser over the scanner's tokens. Each token is consumed once and the nesting
of relations is limited, so that time is linear and the stack is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from segzero_ros.reasoning.attributes.phrases import Phrase, Pick, Quality, Relation, Request
from segzero_ros.reasoning.attributes.scanner import scan, Token
from segzero_ros.reasoning.attributes.uses import take_use, Use
from segzero_ros.reasoning.attributes.words import singular_of

# Nested relations and words in a sentence: what a person still follows.
_MAX_DEPTH = 4
_MAX_WORDS = 150
_JOINTS = ('and', 'or', 'comma', 'but')
_QUALITIES = ('shape', 'size', 'place')
_HEADS = ('relation', 'except')
# Nouns that name no object.
_NOBODYS = ('everything', 'stuff', 'anything', 'something', 'one', 'ones')
_WHERE = ('in ', 'on ', 'at ', 'to ', 'towards ', 'toward ', 'near ')


# Cached, because a standing query repeats the same text.
@lru_cache(maxsize=32)
def parse_query(text: str) -> Request:
    """Parse a query.

    Args:
        text: any text.

    Returns:
        The request; with `unknown` or `problem` set where it cannot be answered.
    """
    use, tokens = take_use(scan(text))
    unknown = tuple(dict.fromkeys(token.text for token in tokens if token.part.role == 'unknown'))
    unknown += use.unknown if use else ()
    if unknown:
        return Request(unknown=unknown)
    if use and use.problem:
        return Request(problem=use.problem)
    if len(tokens) > _MAX_WORDS:
        return Request(problem=f'The sentence has more than {_MAX_WORDS} words.')
    counting = any(token.part.role == 'count' for token in tokens)
    try:
        phrases = _Parser(tokens, counting).phrases()
    except _TooDeep:
        return Request(problem=f'The sentence nests more than {_MAX_DEPTH} relations.')
    if use is not None:
        first = phrases[0] if phrases else Phrase('thing', count=0)
        phrases = (_for_use(first, use, tokens), *phrases[1:])
        return Request(phrases, counting, ignored=use.ignored)
    if not phrases:
        return Request(problem='The sentence names nothing that I could look for.')
    return Request(phrases, counting)


def _for_use(phrase: Phrase, use: Use, tokens: list[Token]) -> Phrase:
    """Return a phrase of objects that serve; all of them unless one is asked for."""
    if phrase.kind and any(phrase.kind in tier.split() for tier in use.kinds):
        # "The mug that I drink from": the noun says it.
        return phrase
    quality = Quality('use', use.kinds, use.purpose)
    article = next((token.text for token in tokens if token.part.role == 'article'), '')
    told = any(token.part.role == 'number' for token in tokens)
    one = (article == 'the' and phrase.count == 1) or told or phrase.picks or phrase.plural
    text = f'{phrase.text} {use.purpose}'
    count = phrase.count if one else 0
    return replace(phrase, text=text, qualities=(*phrase.qualities, quality), count=count)


class _TooDeep(Exception):
    """The relations are nested too deeply."""


@dataclass
class _Draft:
    """A phrase while it is being parsed."""

    start: int
    noun: Token | None = None
    nouns_plural: bool = False
    article: bool = False
    qualities: list[Quality] = field(default_factory=list)
    joined_by: list[str] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    exclusions: list[Phrase] = field(default_factory=list)
    count: int | None = None
    rank: tuple[int, str] | None = None
    tone: Token | None = None
    negated: bool = False
    joint: str = ''

    @property
    def empty(self) -> bool:
        """Whether the phrase has no condition yet."""
        content = (
            self.noun or self.qualities or self.picks or self.relations or self.rank or self.tone
        )
        return not content and self.count is None and not self.exclusions


class _Parser:
    def __init__(self, tokens: list[Token], counting: bool) -> None:
        self._tokens = tokens
        self._counting = counting
        self._at = 0

    def phrases(self) -> tuple[Phrase, ...]:
        """Parse all phrases."""
        drafts: list[tuple[_Draft, Phrase]] = []
        while self._at < len(self._tokens):
            draft = self._draft(0)
            if not draft.empty:
                drafts.append((draft, self._finish(draft)))
            if self._at < len(self._tokens):
                self._at += 1  # the joint that ended the phrase
        return self._with_shared_nouns(drafts)

    def _with_shared_nouns(self, drafts: list[tuple[_Draft, Phrase]]) -> tuple[Phrase, ...]:
        """Give "the red" of "the red and the blue ball" its noun."""
        shared = Phrase('')
        phrases: list[Phrase] = []
        for draft, phrase in reversed(drafts):
            if draft.noun is None and shared.kind and draft.article:
                phrases.append(replace(phrase, noun=shared.noun, kind=shared.kind))
            else:
                phrases.append(phrase)
                shared = phrase
        return tuple(reversed(phrases))

    def _draft(self, depth: int) -> _Draft:
        """Parse one phrase up to the joint that ends it, or to the end."""
        if depth > _MAX_DEPTH:
            raise _TooDeep
        draft = _Draft(self._at)
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            role = token.part.role
            if role in _JOINTS and self._ends_here(draft, depth):
                break
            if role == 'noun' and self._is_another(draft, token):
                self._at -= 1
                break
            self._at += 1
            if role in _JOINTS and not self._is_exception(role):
                draft.joint = 'and' if role == 'but' else role
            elif not self._take_relation(draft, token, depth):
                self._take(draft, token)
        return draft

    def _ends_here(self, draft: _Draft, depth: int) -> bool:
        """Whether the joint at hand begins a phrase of its own."""
        joint = self._tokens[self._at].part.role
        following = self._tokens[self._at + 1 :]
        roles = [token.part.role for token in following]
        if joint == 'but' and roles[:1] != ['not']:
            return False
        first = next((role for role in roles if role != 'skip'), '')
        if first in _HEADS or (first == 'in' and depth):
            return depth > 0
        span: list[Token] = []
        for token in following:
            if token.part.role in (*_JOINTS, *_HEADS):
                break
            span.append(token)
        nouns = [token.part.name for token in span if token.part.role == 'noun']
        if joint == 'comma' and span and not any(nouns) and depth == 0 and draft.noun:
            return any(token.part.role == 'noun' and token.text != 'one' for token in span)
        if draft.noun is not None:
            return bool(nouns) or first == 'article'
        return first == 'article' and not draft.empty

    def _is_exception(self, role: str) -> bool:
        """Whether a "but" takes something away: "all but the red one", not "red but not round"."""
        return role == 'but' and self._next() in ('article', 'noun', 'colour', 'shape')

    def _is_another(self, draft: _Draft, token: Token) -> bool:
        """Whether a noun after the phrase's own noun names something else."""
        noun = draft.noun
        if noun is None or not token.part.name or not noun.part.name:
            return False
        return noun.part.name != token.part.name and self._at - 1 > draft.start

    def _take_relation(self, draft: _Draft, token: Token, depth: int) -> bool:
        """Parse a relation or exception with its phrases; False if the token is neither."""
        role, name = token.part.role, token.part.name
        if role == 'extreme' and name == 'depth' and draft.noun and self._next() == 'article':
            role, name = 'relation', 'near' if token.part.sign < 0 else 'far'
        elif role == 'in' and self._next() in ('article', 'noun'):
            role, name = 'relation', 'in'
        elif role == 'of' and token.text == 'on' and self._next() in ('article', 'noun', 'colour'):
            role, name = 'relation', 'on'
        elif role == 'but' or (role == 'not' and self._next() in ('article', 'noun')):
            role = 'except'
        if role == 'except':
            draft.exclusions.extend(self._others(depth, several=True))
        elif role == 'relation':
            others = self._others(depth, several=name == 'between')
            if others:
                draft.relations.append(Relation(name, token.text, others, draft.negated))
            draft.negated = False
        else:
            return False
        return True

    def _others(self, depth: int, *, several: bool) -> tuple[Phrase, ...]:
        """Parse the phrases of a relation; with `several`, across an "and" as well."""
        others: list[Phrase] = []
        while self._at < len(self._tokens):
            draft = self._draft(depth + 1)
            if not draft.empty:
                others.append(self._finish(draft))
            if not several or len(others) > 1 or self._here() not in ('and', 'or'):
                break
            self._at += 1
        return tuple(others)

    def _take(self, draft: _Draft, token: Token) -> None:
        """Add one describing word to the phrase."""
        role, name, sign, plural = token.part
        if role == 'article':
            draft.article = True
            draft.negated = False
        elif role == 'not':
            draft.negated = True
        elif role in ('number', 'of_number'):
            if role == 'number' or not (draft.picks or draft.rank or draft.qualities):
                draft.count = sign
        elif role == 'all':
            draft.count = 0
        elif role == 'ordinal':
            draft.rank = (sign, token.text)
        elif role in ('extreme', 'from'):
            _take_pick(draft, token)
        elif role == 'tone':
            _add_tone(draft)
            draft.tone = token
        elif role == 'colour':
            _add_colour(draft, token)
        elif name == 'centre' and draft.noun is None and not token.text.startswith(_WHERE):
            draft.picks.append(Pick('middle', 1, 1, token.text))  # "the middle ball"
        elif role in _QUALITIES:
            _add_quality(draft, Quality(role, (name,), token.text, draft.negated))
        elif role == 'noun':
            _add_tone(draft)
            if draft.noun is None or name:
                draft.noun = token
            draft.nouns_plural |= plural
            if token.text == 'one' and draft.count is None:
                draft.count = 1  # "one of the red balls"
            draft.negated = False

    def _finish(self, draft: _Draft) -> Phrase:
        _add_tone(draft)
        if draft.rank:
            # "the second ball": people count from the left unless they say otherwise.
            rank, word = draft.rank
            draft.picks.append(_ranked('x', -1, rank, word))
        plural = draft.nouns_plural or (draft.count or 0) > 1 or draft.count == 0
        return Phrase(
            text=self._text(draft.start, self._at),
            noun=_singular(draft.noun),
            kind=draft.noun.part.name if draft.noun else '',
            qualities=_joined(draft, plural),
            picks=tuple(draft.picks),
            relations=tuple(draft.relations),
            exclusions=tuple(draft.exclusions),
            count=self._amount(draft, plural),
            plural=plural,
        )

    def _amount(self, draft: _Draft, plural: bool) -> int:
        if self._counting:
            return 0
        if draft.count is not None:
            return draft.count
        if draft.picks:
            return 1
        bare = draft.noun is None and not draft.article
        return 0 if plural or bare else 1

    def _text(self, start: int, end: int) -> str:
        silent = ('skip', 'article', 'comma', 'count', 'of', 'and', 'or')
        tokens = self._tokens[start:end]
        while tokens and tokens[0].part.role in silent:
            tokens = tokens[1:]
        while tokens and tokens[-1].part.role in (*silent, 'in'):
            tokens = tokens[:-1]
        return ' '.join(token.text for token in tokens)

    def _here(self) -> str:
        return self._tokens[self._at].part.role if self._at < len(self._tokens) else ''

    def _next(self) -> str:
        """Return the role of the next content word."""
        for token in self._tokens[self._at :]:
            if token.part.role != 'skip':
                return token.part.role
        return ''


def _take_pick(draft: _Draft, token: Token) -> None:
    _, measure, sign, _ = token.part
    rank, word = draft.rank or (1, '')
    draft.rank = None
    draft.picks.append(_ranked(measure, sign, rank, f'{word} {token.text}'.strip()))


def _ranked(measure: str, sign: int, rank: int, word: str) -> Pick:
    """Return the pick; the last from the left is the first from the right."""
    return Pick(measure, -sign, 1, word) if rank < 0 else Pick(measure, sign, rank, word)


def _add_tone(draft: _Draft) -> None:
    """A tone without a colour ("the dark one") is a quality of its own."""
    if draft.tone is not None:
        tone = draft.tone
        draft.tone = None
        _add_quality(draft, Quality('colour', (tone.part.name,), tone.text, draft.negated))


def _add_colour(draft: _Draft, token: Token) -> None:
    names, word = (token.part.name,), token.text
    if draft.tone is not None:
        names, word = (f'{draft.tone.part.name} {token.part.name}',), f'{draft.tone.text} {word}'
        draft.tone = None
    _add_quality(draft, Quality('colour', names, word, draft.negated))


def _add_quality(draft: _Draft, quality: Quality) -> None:
    draft.qualities.append(quality)
    draft.joined_by.append(draft.joint)
    draft.joint = ''


def _joined(draft: _Draft, plural: bool) -> tuple[Quality, ...]:
    """Merge alternatives: "red or blue", and "red and blue" in a plural phrase."""
    merged: list[Quality] = []
    for quality, joint in zip(draft.qualities, draft.joined_by, strict=True):
        last = merged[-1] if merged else None
        alternative = joint == 'or' or (joint in ('and', 'comma') and plural)
        if (
            last and alternative and last.kind == quality.kind
            and not last.negated and not quality.negated
        ):  # fmt: skip
            word = f'{last.word} or {quality.word}'
            merged[-1] = replace(last, names=last.names + quality.names, word=word)
        else:
            merged.append(quality)
    return tuple(merged)


def _singular(noun: Token | None) -> str:
    if noun is None or noun.text in _NOBODYS:
        return 'thing'
    return singular_of(noun.text)
