"""Last stage: match a request's phrases to regions, and record each step for the prose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
import math

from segzero_ros.reasoning.attributes.measures import (
    apart,
    between,
    MEASURES,
    position_fit,
    RELATIONS,
)
from segzero_ros.reasoning.attributes.phrases import Phrase, Pick, Quality, Relation, Request
from segzero_ros.reasoning.attributes.regions import Region, View

# The fit from which on a region matches, and from which on it may match.
FITS = 0.5
_MAY_FIT = 0.3


@dataclass(frozen=True, eq=False)
class Candidate:
    """A region with its fit to the conditions so far, 0 to 1."""

    region: Region
    fit: float


@dataclass(frozen=True, eq=False)
class Step:
    """One condition of the query, and the regions that remain after it.

    Attributes:
        condition: the sentence's own part: a Quality, Relation, Pick or Phrase (for its noun, for
            an exclusion, and for the final choice).
        kind: the kind of condition.
        count_before: number of regions before it.
        remaining: the regions after it, best first.
        anchors: the regions that a relation refers to.
    """

    condition: Quality | Relation | Pick | Phrase
    kind: str
    count_before: int
    remaining: tuple[Candidate, ...]
    anchors: tuple[Region, ...] = ()


@dataclass(frozen=True, eq=False)
class Match:
    """The regions that match a phrase in a view.

    Attributes:
        phrase: the phrase.
        chosen: the regions, best first.
        steps: the conditions applied.
        fitting: number of matching regions before the final choice.
        problem: why nothing could be chosen, a whole sentence; else empty.
    """

    phrase: Phrase
    chosen: tuple[Region, ...]
    steps: tuple[Step, ...] = field(default=())
    fitting: int = 0
    problem: str = ''


class NoDepth(Exception):
    """The query asks for what needs depth, but the frame has none; the text is a sentence."""


def answer(view: View, request: Request) -> tuple[Match, ...]:
    """Match each of a request's phrases."""
    return tuple(find(view, phrase) for phrase in request.phrases)


def find(view: View, phrase: Phrase) -> Match:
    """Match a phrase in a view; never returns a region that does not fit."""
    search = _Search(view, phrase)
    try:
        return search.run()
    except NoDepth as error:
        return search.failed(str(error))


class _Search:
    """The search for one phrase."""

    def __init__(self, view: View, phrase: Phrase) -> None:
        self._view = view
        self._phrase = phrase
        self._steps: list[Step] = []
        self._remaining = [Candidate(region, 1.0) for region in view.regions]
        self._less_fitting = 0

    def run(self) -> Match:
        """Apply noun, qualities, relations, exclusions and picks, in this order."""
        phrase = self._phrase
        if phrase.kind:
            self._keep(phrase, 'noun', lambda region: region.shape.fit(phrase.kind))
        for quality in self._in_order(phrase.qualities):
            self._apply_quality(quality)
        for relation in phrase.relations:
            problem = self._apply_relation(relation)
            if problem:
                return self.failed(problem)
        for exclusion in phrase.exclusions:
            self._apply_exclusion(exclusion)
        fitting = len(self._remaining) + self._less_fitting
        for pick in phrase.picks:
            self._apply_pick(pick)
        chosen = self._choose()
        return Match(phrase, chosen, tuple(self._steps), fitting)

    def failed(self, problem: str) -> Match:
        """Return a match without regions, with the reason."""
        return Match(self._phrase, (), tuple(self._steps), 0, problem)

    def _in_order(self, qualities: tuple[Quality, ...]) -> list[Quality]:
        """Order: properties (colour, shape) before comparisons among those that have them."""
        order = ('colour', 'use', 'shape', 'size', 'place')
        return sorted(qualities, key=lambda quality: order.index(quality.kind))

    def _keep(
        self,
        condition: Quality | Relation | Phrase,
        kind: str,
        fit: Callable[[Region], float],
        anchors: tuple[Region, ...] = (),
        least: float = FITS,
    ) -> None:
        fits = [(candidate, fit(candidate.region)) for candidate in self._remaining]
        remaining = [Candidate(old.region, old.fit * new) for old, new in fits if new >= least]
        self._remaining, count_before = remaining, len(self._remaining)
        self._steps.append(Step(condition, kind, count_before, tuple(remaining), anchors))

    def _apply_quality(self, quality: Quality) -> None:
        if quality.kind == 'size':
            self._keep(
                quality, 'size', _size_fit(self._remaining, quality, self._phrase, self._view)
            )
            return
        if quality.kind == 'place' and self._means_one and not quality.negated:
            self._apply_place(quality)
            return

        if quality.kind == 'use':
            self._apply_use(quality)
            return

        def fit(region: Region) -> float:
            if quality.kind == 'place':
                best = max(position_fit(region, name) for name in quality.names)
            elif quality.kind == 'colour':
                best = max(region.colour.fit(name) for name in quality.names)
            else:
                best = max(region.shape.fit(name) for name in quality.names)
            return 1.0 - best if quality.negated else best

        self._keep(quality, quality.kind, fit)
        if quality.kind == 'colour' and not self._remaining:
            self._try_parts(quality)

    def _apply_use(self, quality: Quality) -> None:
        """Keep the regions of the first shape that serves and is there."""
        if not self._view.has_depth:
            # By outline alone, three in five would be the wrong thing.
            raise NoDepth(
                'There is no depth image with this picture, so I cannot tell what a thing is good '
                'for.'
            )
        for rank, tier in enumerate(quality.names):
            fits = {c.region: max(map(c.region.shape.fit, tier.split())) for c in self._remaining}
            if any(fit >= FITS for fit in fits.values()):
                found = replace(quality, names=(tier,))
                self._keep(found, 'second use' if rank else 'use', fits.__getitem__)
                return
        self._keep(quality, 'use', lambda region: 0.0)

    @property
    def _means_one(self) -> bool:
        """Whether the phrase means one region and has no pick that chooses it."""
        return self._phrase.count == 1 and not self._phrase.plural and not self._phrase.picks

    def _apply_place(self, quality: Quality) -> None:
        """Keep the best one: "the ball on the left" means one of those on the left."""
        fits = [
            (max(position_fit(candidate.region, name) for name in quality.names), candidate)
            for candidate in self._remaining
        ]
        possible = [pair for pair in fits if pair[0] >= _MAY_FIT]
        count_before, self._remaining = len(self._remaining), []
        if possible:
            best = max(possible, key=lambda pair: pair[0] * pair[1].fit)
            self._remaining = [Candidate(best[1].region, best[0] * best[1].fit)]
            self._less_fitting = sum(pair[0] >= FITS and pair is not best for pair in possible)
        self._steps.append(Step(quality, 'best', count_before, tuple(self._remaining)))

    def _try_parts(self, quality: Quality) -> None:
        """If no region has the colour, try parts of regions, unless a noun names the shape."""
        named = self._phrase.kind or any(q.kind == 'use' for q in self._phrase.qualities)
        if named or quality.negated or len(self._steps) > 1:
            return
        parts = [part for name in quality.names for part in self._view.parts(name)]
        self._remaining = [Candidate(part, part.colour.fit(quality.names[0])) for part in parts]
        if parts:
            self._steps.append(Step(quality, 'part', len(parts), tuple(self._remaining)))

    def _apply_exclusion(self, exclusion: Phrase) -> None:
        others = find(self._view, _every(exclusion)).chosen
        self._keep(exclusion, 'except', lambda region: float(region not in others))

    def _apply_relation(self, relation: Relation) -> str:
        anchors: list[Region] = []
        for other in relation.others:
            found = find(self._view, other)
            if not found.chosen:
                return found.problem or f'I see no {other.text} that it could be measured from.'
            anchors.extend(found.chosen)
        if relation.kind == 'between' and len(anchors) < 2:
            return f'Between needs two things, but I see only one {relation.others[0].text}.'
        if relation.kind in ('near', 'far'):
            self._apply_nearness(relation, anchors)
            return ''
        rate = RELATIONS[relation.kind]

        def fit(region: Region) -> float:
            if region in anchors:
                return 0.0
            if relation.kind == 'between':
                best = between(region, anchors[0], anchors[1], self._view)
            else:
                best = min(rate(region, anchor, self._view) for anchor in anchors)
            return 1.0 - best if relation.negated else best

        least = FITS if self._phrase.plural else 0.1
        self._keep(relation, 'relation', fit, tuple(anchors), least)
        if self._means_one:
            self._best_only()
        return ''

    def _best_only(self) -> None:
        """Keep the best-fitting one, for a singular phrase."""
        if self._remaining:
            self._less_fitting = len(self._remaining) - 1
            self._remaining = [max(self._remaining, key=lambda candidate: candidate.fit)]

    def _apply_nearness(self, relation: Relation, anchors: list[Region]) -> None:
        def away(region: Region) -> float:
            return min(apart(region, anchor, self._view) for anchor in anchors)

        others = [candidate for candidate in self._remaining if candidate.region not in anchors]
        others.sort(key=lambda candidate: away(candidate.region))
        if relation.kind == 'far':
            others.reverse()
        if self._phrase.plural and not self._phrase.count and relation.kind == 'near':
            others = [candidate for candidate in others if away(candidate.region) < 0.25]
        elif others:
            others = others[: max(self._phrase.count, 1)]
        count_before, self._remaining = len(self._remaining), others
        self._steps.append(Step(relation, 'relation', count_before, tuple(others), tuple(anchors)))

    def _apply_pick(self, pick: Pick) -> None:
        measure = MEASURES.get(pick.measure)
        count_before = len(self._remaining)
        if pick.measure == 'middle':
            ordered = sorted(self._remaining, key=lambda candidate: candidate.region.centre[0])
            self._remaining = [ordered[len(ordered) // 2]] if len(ordered) > 2 else []
        elif measure is not None:
            if pick.measure == 'depth' and not self._view.has_depth:
                raise NoDepth(
                    'There is no depth image with this picture, so I cannot tell what is nearer.'
                )
            known = [c for c in self._remaining if math.isfinite(measure(c.region))]
            ordered = sorted(known, key=lambda c: -pick.sign * measure(c.region))
            last = pick.rank - 1 + max(self._phrase.count, 1)
            self._remaining = ordered[pick.rank - 1 : last]
        self._steps.append(Step(pick, 'pick', count_before, tuple(self._remaining)))

    def _choose(self) -> tuple[Region, ...]:
        """Return as many regions as the phrase asks for."""
        count = self._phrase.count
        left = self._remaining
        if not self._phrase.picks:
            # Best fit first; about equal ones by area.
            left = sorted(left, key=lambda c: (-round(c.fit, 1), -c.region.area))
        if count:
            left = left[:count]
        return tuple(candidate.region for candidate in left)


def _every(phrase: Phrase) -> Phrase:
    return Phrase(
        phrase.text, phrase.noun, phrase.kind, phrase.qualities, phrase.picks, phrase.relations,
        phrase.exclusions, 0 if not phrase.picks else phrase.count, True,
    )  # fmt: skip


def _size_fit(
    candidates: list[Candidate], quality: Quality, phrase: Phrase, view: View
) -> Callable[[Region], float]:
    """Return the fit of a size word, relative to the candidates."""
    name = quality.names[0]
    areas = sorted(candidate.region.area for candidate in candidates)
    everything = sorted(region.area for region in view.regions)
    sign = -1.0 if quality.negated else 1.0
    if len(areas) < 2:
        # A single candidate is compared with all other regions.
        median = everything[len(everything) // 2] if everything else 1.0
        limits = {'big': (0.25, math.inf), 'small': (0.0, 4.0), 'medium': (0.3, 3.0)}[name]
        low, high = (limit * median for limit in limits)
        return lambda region: float(low <= region.area <= high)
    if name == 'medium':
        middle = areas[len(areas) // 2]
        return lambda region: float(region.area == middle)
    sign *= 1.0 if name == 'big' else -1.0
    if phrase.plural:
        limit = math.sqrt(areas[0] * areas[-1])
        return lambda region: float(sign * (region.area - limit) >= 0)
    best = areas[-1] if sign > 0 else areas[0]
    return lambda region: float(region.area == best)
