"""Parse a checkpoint's answer into reasoning and objects, while it is streamed or afterwards.

There are two parsers. `strict` accepts what the checkpoint's published code accepts and returns
the same numbers; `repair` also accepts what is unambiguous (code fences, single quotes, a trailing
comma, numbers as text, words or names around the list, a list cut off by the token limit) and adds
a note. Neither invents a box: text without an answer raises `MalformedAnswer`. Parsing takes time
linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
import json
import re
from typing import Any, Literal, NamedTuple, Protocol

from segzero_ros.reasoning.answer_entries import objects_in
from segzero_ros.reasoning.base import ignore, OnObject, OnText
from segzero_ros.reasoning.stream_parser import (
    ObjectScanner,
    ReasoningText,
    ThinkAnswerSplitter,
)
from segzero_ros.reasoning.written_counts import written_count
from segzero_ros.types import GroundedObject, Grounding, MalformedAnswer

AnswerParser = Literal['repair', 'strict']
Scale = tuple[float, float]

# What parsing untrusted JSON can raise; RecursionError for its nesting.
UNREADABLE = (TypeError, KeyError, IndexError, ValueError, OverflowError, RecursionError)

_EMPTY_LIST = re.compile(r'\[\s*\]')
_BRACKET = re.compile(r'[\[{]')
_END_OF_THINKING = '</think>'


class Unreadable(Exception):
    """The strict parser found no answer; the message is the reason."""


@dataclass(frozen=True)
class Grammar:
    """The answer format of one family of checkpoints.

    Attributes:
        read: the published parser of the whole text; raises what that raises.
        read_object: parses one JSON object, leniently but with the published numbers.
        split: returns the objects of an entry that may hold several.
        tagged: reasoning is in `<think>`, the answer in `<answer>`.
        single: the answer is one object, not a list.
        thinks: reasoning of any length may come before the answer, and `</think>` ends it; the
            opening tag may be missing.
        begins: what an answer may begin with, where `thinks`.
    """

    read: Callable[[str, Scale], list[GroundedObject]]
    read_object: Callable[[Mapping[str, Any], Scale], GroundedObject]
    tagged: bool = True
    single: bool = False
    thinks: bool = False
    begins: tuple[str, ...] = ('```', '[', '{')
    split: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda item: [item]


class Increment(NamedTuple):
    """What a further piece of text added: reasoning, and objects that it closed."""

    reasoning: str
    objects: tuple[GroundedObject, ...]


class Reader(Protocol):
    """Parses one answer, fed in any pieces."""

    @property
    def text(self) -> str:
        """All text fed so far."""
        ...

    @property
    def streamed(self) -> str:
        """What `feed` returned as words so far."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the answer is closed; further text cannot change it."""
        ...

    def feed(self, delta: str) -> Increment:
        """Parse a further piece of the text; return what it added."""
        ...

    def finish(self, generated_tokens: int = 0) -> Grounding:
        """Return the result of the whole text.

        Raises:
            MalformedAnswer: it cannot be parsed; the error carries the text.
        """
        ...


class AnswerReader:
    """Parses one answer, fed in any pieces; the result does not depend on how it is split."""

    def __init__(
        self,
        grammar: Grammar,
        scale: Scale,
        parser: AnswerParser = 'repair',
        label: str = '',
        *,
        counts: bool = False,
    ) -> None:
        """Start an empty answer.

        Args:
            grammar: the answer format.
            scale: source pixels per answered unit, (x, y).
            parser: `repair` or `strict`.
            label: for objects to which the model gives no label.
            counts: whether to read the number that the model wrote beside the objects.
        """
        if parser not in ('repair', 'strict'):
            raise ValueError(f"The answer parser is 'repair' or 'strict', not {parser!r}")
        self._grammar = grammar
        self._scale = scale
        self._strict = parser == 'strict'
        self._label = label
        self._counts = counts
        self._text: list[str] = []
        self._splitter = ThinkAnswerSplitter(grammar.tagged)
        self._reasoning_text = ReasoningText()
        self._scanner = ObjectScanner()
        self._outside: list[str] = []
        self._answer: list[str] = []
        self._objects: list[GroundedObject] = []
        self._unreadable = 0
        # Objects after the one that a single answer has.
        self._surplus = 0

    @property
    def text(self) -> str:
        """All text fed so far."""
        return ''.join(self._text)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return ''.join(self._reasoning_text.pieces)

    @property
    def streamed(self) -> str:
        """What `feed` returned as reasoning so far."""
        return self.reasoning

    @property
    def complete(self) -> bool:
        """Whether the answer is closed; further text cannot change it."""
        return self._splitter.stage == 'done'

    def feed(self, delta: str) -> Increment:
        """Parse a further piece of the text; return the reasoning and the objects that it added.

        A strict reader returns objects only when the whole answer is closed, because the published
        code accepts all of it or nothing.
        """
        self._text.append(delta)
        was_complete = self.complete
        words, objects = self._take(self._splitter.feed(delta))
        if self._strict and self.complete and not was_complete:
            objects = self._strict_objects()
        return Increment(words, tuple(objects))

    def finish(self, generated_tokens: int = 0) -> Grounding:
        """Return the result of the whole text.

        Raises:
            MalformedAnswer: it cannot be parsed; the error carries the text.
        """
        self._take(self._splitter.flush())
        count = written_count(self.text) if self._counts else None
        try:
            objects, note = self._finished()
        except MalformedAnswer:
            # "There are three cups." answers how many there are, also without a list.
            if count is None or self._unreadable or self._scanner.depth or self._is_list():
                raise
            objects, note = [], 'The model wrote a number and gave no objects.'
        return Grounding(
            self.reasoning, tuple(objects), self.text, generated_tokens, note, count=count
        )

    def _finished(self) -> tuple[list[GroundedObject], str]:
        """Return the objects of the whole text and the note on what was repaired."""
        reason = ''
        published: list[GroundedObject] = []
        try:
            published = self._read_published(self._published_text())
        except Unreadable as error:
            reason = str(error)
            if self._strict:
                raise MalformedAnswer(reason, self.text) from None
        return (published, '') if self._strict else self._repaired(published, reason)

    def _published_text(self) -> str:
        """Return what the published code is given: without tags no drafts in the reasoning."""
        if self._strict or self._grammar.tagged or not self._splitter.started_thinking:
            return self.text
        return self.text.rpartition(_END_OF_THINKING)[2]

    def _take(self, pieces: list[tuple[str, str]]) -> tuple[str, list[GroundedObject]]:
        words, objects = '', []
        for stage, piece in pieces:
            if stage in ('thinking', 'thought'):
                words += self._reasoning_text.add(piece)
            elif stage == 'answering':
                self._answer.append(piece)
                objects += self._scan(piece)
            elif stage in ('before', 'between'):
                self._outside.append(piece)
        return words, objects

    def _scan(self, text: str) -> list[GroundedObject]:
        if self._strict:
            return []
        found = []
        for raw in self._scanner.feed(text):
            for item in self._entries(raw):
                try:
                    read = self._labelled(self._grammar.read_object(item, self._scale))
                except UNREADABLE:
                    self._unreadable += 1
                    continue
                if self._grammar.single and self._objects:
                    self._surplus += 1
                    continue
                found.append(read)
                self._objects.append(read)
        return found

    def _entries(self, raw: str) -> list[dict[str, Any]]:
        try:
            return [each for item in objects_in(raw) for each in self._grammar.split(item)]
        except UNREADABLE:
            self._unreadable += 1
            return []

    def _labelled(self, found: GroundedObject) -> GroundedObject:
        return found if found.label else replace(found, label=self._label)

    def _read_published(self, text: str) -> list[GroundedObject]:
        """Return the objects of the published parser; raise Unreadable with the reason."""
        try:
            return [self._labelled(found) for found in self._grammar.read(text, self._scale)]
        except json.JSONDecodeError as error:
            raise Unreadable(f'not valid JSON ({error})') from None
        except KeyError as error:
            raise Unreadable(f'{error} is missing') from None
        except UNREADABLE as error:
            raise Unreadable(str(error) or type(error).__name__) from None

    def _strict_objects(self) -> list[GroundedObject]:
        try:
            return self._read_published(self.text)
        except Unreadable:
            return []

    def _repaired(
        self, published: list[GroundedObject], reason: str
    ) -> tuple[list[GroundedObject], str]:
        """Return the objects and the note on what was repaired."""
        if not self._answer:
            self._scan(self._loose_answer(reason))
        if not reason and self._agrees_with(published):
            return published, self._surplus_note()
        if self._objects or self._is_empty_list():
            return self._objects, self._repair_note(reason)
        raise MalformedAnswer(reason or 'no object in it can be read', self.text)

    def _agrees_with(self, published: list[GroundedObject]) -> bool:
        """Return whether the answer has what the published code reads in the whole text."""
        if self._objects:
            return self._objects == published
        if self._grammar.single:
            # It stands in the reasoning.
            return not published
        return bool(published) or self._grammar.tagged or not self._unreadable

    def _loose_answer(self, reason: str) -> str:
        """Return the text to take for the answer where none is tagged."""
        if self._splitter.stage == ('thinking' if self._grammar.tagged else 'thought'):
            raise MalformedAnswer('it ends before the reasoning does', self.text)
        loose = ''.join(self._outside)
        self._answer.append(loose)
        return loose

    def _is_empty_list(self) -> bool:
        answer = ''.join(self._answer)
        empty = len(_EMPTY_LIST.findall(answer))
        return (
            not self._unreadable
            and not self._scanner.depth
            and empty > 0
            and answer.count('[') == empty
        )

    def _is_list(self) -> bool:
        found = _BRACKET.search(''.join(self._answer))
        return found is not None and found.group() == '['

    def _is_cut_off(self) -> bool:
        """Return whether the text ends inside of an object, or of the list around them."""
        if self._scanner.depth:
            return True
        after = ''.join(self._answer).rpartition('}')[2]
        return self._is_list() and not self.complete and ']' not in after

    def _surplus_note(self) -> str:
        if not self._surplus:
            return ''
        return f'The model gave {self._surplus} more objects, but it was taught to give one.'

    def _repair_note(self, reason: str) -> str:
        reason = reason or 'the published code reads something else in it'
        notes = [f'The answer was repaired: {reason}.']
        if surplus := self._surplus_note():
            notes.append(surplus)
        if self._is_cut_off():
            notes.append(f'It is cut off; {len(self._objects)} complete objects are kept.')
        if self._unreadable:
            notes.append(f'{self._unreadable} entries could not be read and are left out.')
        return ' '.join(notes)


class StreamReporter:
    """Reports an answer to callbacks while it is streamed: each word and object once."""

    def __init__(
        self, reader: Reader, on_text: OnText = ignore, on_object: OnObject = ignore
    ) -> None:
        self._reader = reader
        self._on_text = on_text
        self._on_object = on_object
        self._objects_reported = 0

    @property
    def text(self) -> str:
        """All text fed so far."""
        return self._reader.text

    @property
    def complete(self) -> bool:
        """Whether the answer is closed; further text cannot change it."""
        return self._reader.complete

    def feed(self, delta: str) -> None:
        """Take a further piece of the model's text."""
        words, objects = self._reader.feed(delta)
        self._report(words, objects)

    def finish(self, generated_tokens: int = 0) -> Grounding:
        """Report the rest and return what the whole text says.

        Raises:
            MalformedAnswer: it cannot be read; the error carries the text.
        """
        reported = len(self._reader.streamed)
        grounding = self._reader.finish(generated_tokens)
        objects = grounding.objects[self._objects_reported :]
        self._report(self._reader.streamed[reported:], objects)
        return grounding

    def _report(self, words: str, objects: tuple[GroundedObject, ...]) -> None:
        if words:
            self._on_text(words)
        for found in objects:
            self._on_object(found)
        self._objects_reported += len(objects)
