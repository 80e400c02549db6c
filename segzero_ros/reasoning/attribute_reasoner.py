"""The embedded default: queries by colour, shape, size, position and relation, without weights.

The query is parsed into conditions (`attributes.language`), the frame is segmented into regions
(`attributes.regions`), the conditions select regions (`attributes.matching`), and
`attributes.prose` writes the reasoning. For a query with unknown words it names them and returns
no object; it never guesses one. Questions that count, ask yes or no or ask where
(`attributes.questions`) are also answered in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import json
import math

from segzero_ros.reasoning.attributes import prose
from segzero_ros.reasoning.attributes.language import parse_query
from segzero_ros.reasoning.attributes.matching import find, Match
from segzero_ros.reasoning.attributes.phrases import Request
from segzero_ros.reasoning.attributes.questions import (
    answer_sentence,
    parse_question,
    position_in_image,
    Question,
)
from segzero_ros.reasoning.attributes.regions import find_regions, Region, View
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, Query, Task


class AttributeReasoner:
    """Answers in milliseconds on any computer; caches the regions of the last frame."""

    name = 'attributes'
    # It runs for milliseconds, and without objects a segmenter on the CPU need not run at all.
    leaves_processors_free = False
    reads_marks = False

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
        writer = _ReasoningWriter(on_text, cancelled)
        question = parse_question(query.text)
        request = _request(query, question)
        in_words = query.task is Task.ANSWER
        writer.checkpoint()
        if request.unknown or request.problem:
            reason = prose.unreadable(request)
            if in_words:
                no = 'No, none that I can tell.' if question.kind == 'exists' else 'I cannot tell.'
                return replace(writer.answer(f'{no} {reason}', reason), unanswered=True)
            writer.write(reason)
            return writer.grounding((), reason)
        writer.write(f'I look for {", and ".join(map(prose.target_of, request.phrases))}.')
        if request.ignored:
            writer.write(prose.ignored(request))
        view = self._look(frame, writer)
        writer.write(prose.overview(view))
        objects: list[GroundedObject] = []
        matches = []
        for phrase in request.phrases:
            match = find(view, phrase)
            matches.append(match)
            for sentence in prose.findings(match, view):
                writer.write(sentence)
            for found in _grounded(match, objects):
                objects.append(found)
                if not in_words:
                    on_object(found)
        if in_words:
            notes = [prose.ignored(request)]
            if question.kind == 'count':
                notes.append(prose.shape_warning(matches, view))
            return writer.answer(_in_words(question, matches, frame, view), _joined(notes))
        return writer.grounding(tuple(objects), _note(request, matches, view, writer))

    def close(self) -> None:
        """Forget the last frame."""
        self._seen = None

    def _look(self, frame: Frame, writer: _ReasoningWriter) -> View:
        if self._seen is None or self._seen[0] is not frame:
            self._seen = frame, find_regions(frame, writer.checkpoint)
        return self._seen[1]


class _ReasoningWriter:
    """The reasoning while it is written."""

    def __init__(self, on_text: OnText, cancelled: IsCancelled) -> None:
        self._on_text = on_text
        self._cancelled = cancelled
        self._sentences: list[str] = []

    def checkpoint(self) -> None:
        """Raise Cancelled if the query was cancelled."""
        if self._cancelled():
            raise Cancelled(' '.join(self._sentences))

    def write(self, sentence: str) -> None:
        """Write one sentence."""
        self.checkpoint()
        self._on_text(f' {sentence}' if self._sentences else sentence)
        self._sentences.append(sentence)

    def answer(self, words: str, note: str = '') -> Grounding:
        """Write the answer in words, and return it."""
        reasoning = ' '.join(self._sentences)
        self.write(words)
        raw = f'<think>{reasoning}</think><answer>{words}</answer>'
        return Grounding(reasoning, (), raw, note=note, answer=words)

    def grounding(self, objects: tuple[GroundedObject, ...], note: str) -> Grounding:
        """Return the answer, in VisionReasoner's format."""
        self.checkpoint()
        reasoning = ' '.join(self._sentences)
        answer = [
            {
                'bbox_2d': [round(value) for value in found.box or ()],
                'point_2d': [round(value) for value in found.points[0]],
            }
            for found in objects
        ]
        raw = f'<think>{reasoning}</think><answer>{json.dumps(answer)}</answer>'
        return Grounding(reasoning, objects, raw, note=note)


def _request(query: Query, question: Question) -> Request:
    """Return the parsed query, as its task wants it."""
    request = parse_query(query.text)
    framed = question.kind in ('count', 'exists', 'where')
    if framed and (query.task is not Task.SEGMENT or request.unknown or request.problem):
        phrase = parse_query(question.phrase)
        if phrase.phrases or not request.phrases:
            request = phrase
    counting = query.task is Task.COUNT or (query.task is Task.ANSWER and framed)
    if not counting or question.kind == 'where':
        return request
    # All of them count, also of "a mug".
    phrases = (replace(p, count=p.count if p.picks else 0) for p in request.phrases)
    return replace(request, phrases=tuple(phrases), counting=query.task is Task.COUNT)


def _in_words(question: Question, matches: list[Match], frame: Frame, view: View) -> str:
    """Return the answer to a question in words."""
    chosen = [region for match in matches for region in match.chosen]
    regions = list(dict.fromkeys(chosen))
    positions = [
        position_in_image(
            region.box,
            frame.width,
            frame.height,
            region.distance if math.isfinite(region.distance) else None,
        )
        for region in regions
    ]
    if question.kind == 'find':
        # "What colour is the box?"
        named = (prose.name_of(region, view) for region in regions)
        positions = [f'{name} {where}' for name, where in zip(named, positions, strict=True)]
    return answer_sentence(question, len(regions), positions)


def _grounded(match: Match, before: list[GroundedObject]) -> list[GroundedObject]:
    """Return a match's objects without those of earlier phrases."""
    known = {found.box for found in before}
    return [
        _grounded_region(region, match.phrase.label)
        for region in match.chosen
        if region.box not in known
    ]


def _grounded_region(region: Region, label: str) -> GroundedObject:
    return GroundedObject(region.box, (region.point,), label)


def _note(request: Request, matches: list[Match], view: View, writer: _ReasoningWriter) -> str:
    """Return the note for the user, and write the count if the query asks for one."""
    notes = [prose.ignored(request)]
    if request.counting:
        count = prose.counted(matches, view)
        writer.write(count)
        notes += [count, prose.shape_warning(matches, view)]
    for match in matches:
        notes.append(prose.count_note(match) if match.chosen else prose.not_found(match, view))
    return _joined(notes)


def _joined(notes: Iterable[str]) -> str:
    return ' '.join(note for note in notes if note)
