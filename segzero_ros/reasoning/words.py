"""Read an answer in words, with or without reasoning before it (task `answer`)."""

from __future__ import annotations

from segzero_ros.reasoning.answers import Increment
from segzero_ros.reasoning.stream_parser import held_back, ReasoningText
from segzero_ros.types import Grounding, MalformedAnswer

_END_OF_THINKING = '</think>'
_TAGS = ('<think>', _END_OF_THINKING, '<answer>', '</answer>')


class WordsReader:
    """Takes all text as it comes; what follows the last `</think>` is the answer.

    The opening tag may be missing: templates of thinking models write it into the prompt. Where
    there is `<answer>`, what is in it is the answer.
    """

    complete = False

    def __init__(self, thinking: bool = False) -> None:
        """Start an empty answer.

        Args:
            thinking: whether the prompt ends inside the reasoning.
        """
        self._thinking = thinking
        self._text: list[str] = []
        self._pending = ''
        self._words = ReasoningText()

    @property
    def text(self) -> str:
        """All text fed so far."""
        return ''.join(self._text)

    @property
    def streamed(self) -> str:
        """Reasoning and answer so far, without tags."""
        return ''.join(self._words.pieces)

    def feed(self, delta: str) -> Increment:
        """Take a further piece of the text; return it without tags."""
        self._text.append(delta)
        pending = self._pending + delta
        for tag in _TAGS:
            pending = pending.replace(tag, '\n')
        ready = len(pending) - held_back(_TAGS, pending)
        self._pending = pending[ready:]
        return Increment(self._words.add(pending[:ready]), ())

    def finish(self, generated_tokens: int = 0) -> Grounding:
        """Return the reasoning and the answer.

        Raises:
            MalformedAnswer: there is no answer; the error carries the text.
        """
        self._words.add(self._pending)
        self._pending = ''
        text = self.text
        reasoning, end, answer = text.rpartition(_END_OF_THINKING)
        before, tag, tagged = answer.rpartition('<answer>')
        if tag:
            reasoning, answer = f'{reasoning} {before}', tagged.partition('</answer>')[0]
        if not (end or tag) and (self._thinking or text.lstrip().startswith('<think>')):
            raise MalformedAnswer('it ends before the reasoning does', text)
        answer = _without_tags(answer)
        if not answer:
            raise MalformedAnswer('it is empty', text)
        return Grounding(_without_tags(reasoning), (), text, generated_tokens, answer=answer)


def _without_tags(text: str) -> str:
    for tag in _TAGS:
        text = text.replace(tag, ' ')
    return text.strip()
