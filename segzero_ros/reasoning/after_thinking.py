"""Read an answer that may come after reasoning of any length, as thinking models write it.

`</think>` ends the reasoning. `<think>` may be missing: the chat templates of thinking models
write it into the prompt. So words without a tag are reasoning or the sentence before an answer,
and what looks like an answer may be a draft; which of them is known at the end only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from segzero_ros.reasoning.answers import AnswerReader, Grammar, Increment
from segzero_ros.reasoning.stream_parser import held_back, ReasoningText
from segzero_ros.types import Grounding, MalformedAnswer

_OPEN, _CLOSE = '<think>', '</think>'
_ANSWER, _ANSWER_END = '<answer>', '</answer>'
_FENCE = '```'


class AfterThinking:
    """Reports the reasoning while it is streamed, and reads what follows it at the end."""

    def __init__(self, answer: AnswerReader, grammar: Grammar, thinking: bool = False) -> None:
        """Start an empty answer.

        Args:
            answer: an unused reader for what follows the reasoning.
            grammar: of the answer.
            thinking: whether the prompt ends inside the reasoning.
        """
        self._answer_reader = answer
        self._begins = grammar.begins
        self._markers = _markers_of(grammar)
        # `thinking`; `words`, which may be reasoning; `answer`, which may be a draft; `done`.
        self._stage = 'thinking' if thinking else 'words'
        self._text: list[str] = []
        self._pending = ''
        self._words = ReasoningText()
        # The possible answer so far, and whether a tag said that the reasoning is over.
        self._answer: list[str] = []
        self._is_over = False

    @property
    def text(self) -> str:
        """All text fed so far."""
        return ''.join(self._text)

    @property
    def streamed(self) -> str:
        """What `feed` returned as reasoning so far."""
        return ''.join(self._words.pieces)

    @property
    def complete(self) -> bool:
        """Whether the answer is closed; further text cannot change it."""
        return self._stage == 'done'

    def feed(self, delta: str) -> Increment:
        """Take a further piece of the text; return the reasoning that it added."""
        self._text.append(delta)
        self._pending += delta
        words = ''
        while self._pending and self._stage != 'done':
            marker, piece = self._cut()
            words += self._put(piece)
            if not marker:
                break
            words += self._enter(marker)
        return Increment(words, ())

    def finish(self, generated_tokens: int = 0) -> Grounding:
        """Return the result of the whole text.

        Raises:
            MalformedAnswer: it cannot be parsed, or it ends in the reasoning; the error carries
                the text.
        """
        self._put(self._pending)
        self._pending = ''
        answer = ''.join(self._answer)
        if self._stage == 'thinking':
            raise MalformedAnswer('it ends before the reasoning does', self.text)
        if not self._is_over and self._is_draft(answer):
            raise MalformedAnswer('it ends where its reasoning may not be over', self.text)
        if not answer.startswith(_ANSWER):
            # With the words before it, which may say how many there are, or that there are none.
            answer = self.text.rpartition(_CLOSE)[2]
        self._answer_reader.feed(answer)
        try:
            found = self._answer_reader.finish(generated_tokens)
        except MalformedAnswer as error:
            raise MalformedAnswer(error.reason, self.text) from None
        return replace(found, reasoning=self.streamed, raw_answer=self.text)

    def _cut(self) -> tuple[str, str]:
        """Cut the pending text at its first marker, or before what may become one."""
        markers = self._markers[self._stage]
        found = [(at, mark) for mark in markers if (at := self._pending.find(mark)) >= 0]
        marker = min(found)[1] if found else ''
        end = min(found)[0] if found else len(self._pending) - held_back(markers, self._pending)
        piece, self._pending = self._pending[:end], self._pending[end + len(marker) :]
        return marker, piece

    def _put(self, piece: str) -> str:
        """Add a piece to what it belongs to; return the reasoning that it added."""
        if self._stage == 'answer':
            self._answer.append(piece)
            return ''
        return self._words.add(piece) if self._stage != 'done' else ''

    def _enter(self, marker: str) -> str:
        """Change the stage at a marker; return the reasoning that turned out to be such."""
        if marker == _ANSWER_END:
            self._answer.append(marker)
            self._stage = 'done'
            return ''
        if marker in self._begins and marker != _ANSWER:
            self._stage = 'answer'
            self._answer.append(marker)
            return ''
        # What looked like an answer was a draft in the reasoning.
        draft = self._words.add(''.join(self._answer) + '\n')
        self._answer = []
        self._stage = 'thinking' if marker == _OPEN else 'words'
        self._is_over = marker in (_CLOSE, _ANSWER)
        if marker == _ANSWER:
            self._stage = 'answer'
            self._answer.append(marker)
        return draft

    def _is_draft(self, answer: str) -> bool:
        """Return whether what looks like an answer may be one that the reasoning weighs.

        Reasoning that was cut off goes on behind it. An answer after a sentence is fenced, or the
        last thing in the text.
        """
        if self.text.lstrip().startswith(self._begins):
            return False
        if answer.startswith(_FENCE):
            return answer.count(_FENCE) < 2
        return answer.startswith(('[', '{')) and not answer.rstrip(' \n\t.').endswith((']', '}'))


def _markers_of(grammar: Grammar) -> Mapping[str, tuple[str, ...]]:
    """Return what may end each stage."""
    tag = (_ANSWER,) if grammar.tagged else ()
    return MappingProxyType(
        {
            'thinking': (_CLOSE, *tag),
            'words': (_CLOSE, _OPEN, *tag, *grammar.begins),
            'answer': (_CLOSE, *tag, *((_ANSWER_END,) if tag else ())),
        }
    )
