"""The embedded default: finds what colours, shapes, sizes, places and relations say; no weights.

The sentence is read into conditions (`attributes.language`), the frame into regions
(`attributes.regions`), the conditions choose among the regions (`attributes.matching`), and prose
says how (`attributes.prose`). What it cannot read it names, and then answers with no object: it
never guesses one.
"""

from __future__ import annotations

import json

from segzero_ros.reasoning.attributes import prose
from segzero_ros.reasoning.attributes.language import read
from segzero_ros.reasoning.attributes.matching import find, Match
from segzero_ros.reasoning.attributes.phrases import Request
from segzero_ros.reasoning.attributes.regions import look, Region, View
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, Query


class AttributeReasoner:
    """Answers in milliseconds on any computer; keeps the regions of the last frame."""

    name = 'attributes'
    # For milliseconds; and who finds nothing then spares a segmenter on the CPU its work.
    leaves_processors_free = False

    def __init__(self) -> None:
        self._seen: tuple[Frame, View] | None = None

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """See Reasoner.reason; raises only Cancelled."""
        telling = _Telling(on_text, cancelled)
        request = read(query.text)
        telling.checkpoint()
        if request.unknown or request.problem:
            reason = prose.unreadable(request)
            telling.say(reason)
            return telling.grounding((), reason)
        telling.say(f'I look for {", and ".join(map(prose.sought, request.phrases))}.')
        view = self._look(frame, telling)
        telling.say(prose.overview(view))
        objects: list[GroundedObject] = []
        matches = []
        for phrase in request.phrases:
            match = find(view, phrase)
            matches.append(match)
            for sentence in prose.findings(match, view):
                telling.say(sentence)
            for found in _grounded(match, objects):
                objects.append(found)
                on_object(found)
        return telling.grounding(tuple(objects), _note(request, matches, view, telling))

    def close(self) -> None:
        """Forget the last frame."""
        self._seen = None

    def _look(self, frame: Frame, telling: _Telling) -> View:
        if self._seen is None or self._seen[0] is not frame:
            self._seen = frame, look(frame, telling.checkpoint)
        return self._seen[1]


class _Telling:
    """The reasoning as it is told."""

    def __init__(self, on_text: OnText, cancelled: IsCancelled) -> None:
        self._on_text = on_text
        self._cancelled = cancelled
        self._sentences: list[str] = []

    def checkpoint(self) -> None:
        """Stop if somebody asked for it."""
        if self._cancelled():
            raise Cancelled(' '.join(self._sentences))

    def say(self, sentence: str) -> None:
        """Tell one sentence."""
        self.checkpoint()
        self._on_text(f' {sentence}' if self._sentences else sentence)
        self._sentences.append(sentence)

    def grounding(self, objects: tuple[GroundedObject, ...], note: str) -> Grounding:
        """Return everything that was told, written as VisionReasoner writes it."""
        self.checkpoint()
        reasoning = ' '.join(self._sentences)
        answer = [
            {
                'bbox_2d': [round(value) for value in found.box],
                'point_2d': [round(value) for value in found.points[0]],
            }
            for found in objects
        ]
        raw = f'<think>{reasoning}</think><answer>{json.dumps(answer)}</answer>'
        return Grounding(reasoning, objects, raw, note=note)


def _grounded(match: Match, before: list[GroundedObject]) -> list[GroundedObject]:
    """Return a match's objects that no earlier phrase has named."""
    known = {found.box for found in before}
    return [
        _grounded_region(region, match.phrase.label)
        for region in match.chosen
        if region.box not in known
    ]


def _grounded_region(region: Region, label: str) -> GroundedObject:
    return GroundedObject(region.box, (region.point,), label)


def _note(request: Request, matches: list[Match], view: View, telling: _Telling) -> str:
    """Return what a person should know besides the objects; say the count that was asked for."""
    notes = []
    if request.counting:
        count = prose.counted(matches, view)
        telling.say(count)
        notes.append(count)
    for match in matches:
        notes.append(prose.remark(match) if match.chosen else prose.not_found(match, view))
    return ' '.join(note for note in notes if note)
