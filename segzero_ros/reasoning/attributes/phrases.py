"""The parsed query.

A Request is one or more Phrases ("the red ball and the two boxes"); a Phrase is a noun with
Qualities that things have or lack, Relations to other phrases, and Picks that choose among the
remaining candidates ("the second largest").
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quality:
    """A property that a thing has or lacks.

    Attributes:
        kind: `colour`, `shape`, `size`, `place` or `use`.
        names: alternatives; keys of the kind's own table. For `use` shapes, best first: the next
            one counts only where there is none of the one before.
        word: the query's word.
        negated: the thing must not have it.
    """

    kind: str
    names: tuple[str, ...]
    word: str
    negated: bool = False


@dataclass(frozen=True)
class Pick:
    """A choice along one measure.

    Attributes:
        measure: a key of `measures.MEASURES`.
        sign: 1 for the largest value, -1 for the smallest.
        rank: 1 for the first.
        word: the query's word.
    """

    measure: str
    sign: int
    rank: int
    word: str


@dataclass(frozen=True)
class Relation:
    """A relation in position, size or colour to other phrases.

    Attributes:
        kind: a key of `measures.RELATIONS`.
        word: the query's word.
        others: the reference phrases; one, or two for `between`.
        negated: the relation must not hold.
    """

    kind: str
    word: str
    others: tuple[Phrase, ...]
    negated: bool = False


@dataclass(frozen=True)
class Phrase:
    """One noun phrase.

    Attributes:
        text: its words in the query, without the article.
        noun: in the singular; a generic word if the query has none.
        kind: the shape that the noun implies, a key of the shapes' table; empty for generic nouns.
        qualities: all of these must fit.
        picks: applied in this order to the remaining candidates.
        relations: all of these must hold.
        exclusions: phrases whose matches are excluded.
        count: how many objects are queried; 0 for all that match.
        plural: whether the phrase is plural.
    """

    text: str
    noun: str = 'thing'
    kind: str = ''
    qualities: tuple[Quality, ...] = ()
    picks: tuple[Pick, ...] = ()
    relations: tuple[Relation, ...] = ()
    exclusions: tuple[Phrase, ...] = ()
    count: int = 1
    plural: bool = False

    @property
    def label(self) -> str:
        """The label of its objects: "dark red ball"."""
        told = [q for q in self.qualities if q.kind != 'place' and not q.negated]
        words = [q.word for q in told if q.kind != 'use']
        return ' '.join([*words, self.noun, *(q.word for q in told if q.kind == 'use')])


@dataclass(frozen=True)
class Request:
    """A parsed query.

    Attributes:
        phrases: the answer holds the matches of all of them.
        counting: whether the query asks how many there are.
        unknown: the unknown content words, in order.
        ignored: unknown words that do not decide what is meant, in order.
        problem: why the query cannot be answered although its words are known, else empty.
    """

    phrases: tuple[Phrase, ...] = ()
    counting: bool = False
    unknown: tuple[str, ...] = field(default=())
    problem: str = ''
    ignored: tuple[str, ...] = ()
