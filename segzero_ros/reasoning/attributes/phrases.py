"""The parsed query.

A Request is one or more Phrases ("the red ball and the two boxes"); a Phrase is a noun with
Qualities that things have or lack, Relations to other phrases, and Picks that choose among the
remaining candidates ("the second largest").
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quality:
    """Something that a thing is or is not.

    Attributes:
        kind: `colour`, `shape`, `size` or `place`.
        names: any of these will do; keys of the kind's own table.
        word: how the sentence says it.
        negated: the thing must not be so.
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
        word: how the sentence says it.
    """

    measure: str
    sign: int
    rank: int
    word: str


@dataclass(frozen=True)
class Relation:
    """Where a thing is, or how large, as seen from others.

    Attributes:
        kind: a key of `measures.RELATIONS`.
        word: how the sentence says it.
        others: what it is seen from; one phrase, two for `between`.
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
        text: its words as the sentence has them, without the article.
        noun: what is asked for, in the singular; a generic word if the sentence has none.
        kind: the shape that the noun implies, a key of the shapes' table; empty for things.
        qualities: all of these must fit.
        picks: applied in this order to what fits.
        relations: all of these must hold.
        exclusions: what must not be among the answer.
        count: how many are asked for; 0 for all that fit.
        plural: whether the sentence speaks of several.
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
        """What it is called: "dark red ball"."""
        said = [q.word for q in self.qualities if q.kind != 'place' and not q.negated]
        return ' '.join([*said, self.noun])


@dataclass(frozen=True)
class Request:
    """A sentence that has been read.

    Attributes:
        phrases: what is asked for; the answer holds what fits any of them.
        counting: whether the sentence asks how many there are.
        unknown: the words that matter and that nobody here understands, in their order.
        problem: why the sentence cannot be answered although its words are known, else empty.
    """

    phrases: tuple[Phrase, ...] = ()
    counting: bool = False
    unknown: tuple[str, ...] = field(default=())
    problem: str = ''
