"""Split streamed text into reasoning, answer and the objects in it.

The result does not depend on how the text is split into pieces; time is linear in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# The tags that end each stage, and the stage that each of them begins.
_TAGGED = {
    'before': ('<think>', '<answer>'),
    'thinking': ('</think>', '<answer>'),
    'between': ('<answer>',),
    'answering': ('</answer>',),
}
_PLAIN = {'thinking': ('<think>', '```', '[', '{'), 'thought': ('</think>',)}
_NEXT = {
    '<think>': 'thinking',
    '</think>': 'between',
    '<answer>': 'answering',
    '</answer>': 'done',
}


@dataclass
class ThinkAnswerSplitter:
    """Splits streamed text into reasoning and answer.

    Attributes:
        tagged: whether the text has `<think>` and `<answer>` tags. Without, an answer begins with
            its first bracket or fence outside of `<think>`.
        stage: `before`, `thinking`, `between`, `answering` or `done`; without tags `thought`
            inside of `<think>`, `thinking` around it, and `answering`.
        started_thinking: whether reasoning was ever opened.
    """

    tagged: bool
    stage: str = ''
    started_thinking: bool = False
    _pending: str = ''

    def __post_init__(self) -> None:
        self.stage = 'before' if self.tagged else 'thinking'

    def feed(self, text: str) -> list[tuple[str, str]]:
        """Return (stage, piece) for all text whose stage is certain."""
        self._pending += text
        pieces = []
        while self._pending:
            markers = (_TAGGED if self.tagged else _PLAIN).get(self.stage, ())
            piece, marker = self._take(markers)
            if piece:
                pieces.append((self.stage, piece))
            if not marker:
                break
            self._enter(marker)
        return pieces

    def flush(self) -> list[tuple[str, str]]:
        """Return what was held back as the possible beginning of a tag."""
        held, self._pending = self._pending, ''
        return [(self.stage, held)] if held else []

    def _enter(self, marker: str) -> None:
        self.started_thinking |= marker == '<think>'
        if self.tagged:
            self.stage = _NEXT[marker]
        elif marker in ('<think>', '</think>'):
            self.stage = 'thought' if marker == '<think>' else 'thinking'
        else:
            self.stage = 'answering'
            # The opening bracket belongs to the answer.
            self._pending = marker + self._pending

    def _take(self, markers: tuple[str, ...]) -> tuple[str, str]:
        """Cut the pending text at its first marker, or before what may become one."""
        found = [(at, mark) for mark in markers if (at := self._pending.find(mark)) >= 0]
        if found:
            at, marker = min(found)
            piece, self._pending = self._pending[:at], self._pending[at + len(marker) :]
            return piece, marker
        held = held_back(markers, self._pending)
        cut = len(self._pending) - held
        piece, self._pending = self._pending[:cut], self._pending[cut:]
        return piece, ''


def held_back(markers: tuple[str, ...], text: str) -> int:
    """Return how many characters at the text's end may be the beginning of a marker.

    Args:
        markers: the texts that mark a stage.
        text: not containing a whole marker.
    """
    longest = max(map(len, markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in markers):
            return length
    return 0


@dataclass
class ReasoningText:
    """The reasoning without surrounding whitespace, in pieces."""

    pieces: list[str] = field(default_factory=list)
    _whitespace: list[str] = field(default_factory=list)

    def add(self, text: str) -> str:
        """Return the text to report now: whitespace waits until something follows it."""
        words = text.rstrip()
        if not words:
            if self.pieces:
                self._whitespace.append(text)
            return ''
        piece = ''.join(self._whitespace) + words if self.pieces else words.lstrip()
        self._whitespace = [text[len(words) :]]
        self.pieces.append(piece)
        return piece


@dataclass
class ObjectScanner:
    """Finds `{…}` in an answer as the braces close; braces in strings do not count."""

    depth: int = 0
    _parts: list[str] = field(default_factory=list)
    _quote: str = ''
    _escaped: bool = False
    _before: str = ''

    def feed(self, text: str) -> list[str]:
        """Return the text of each object that closes in this piece."""
        closed = []
        start = 0
        for index, char in enumerate(text):
            if self._step(char):
                if self.depth == 1 and char == '{':
                    start = index
                elif self.depth == 0:
                    closed.append(''.join((*self._parts, text[start : index + 1])))
                    self._parts = []
        if self.depth:
            self._parts.append(text[start:])
        return closed

    def _step(self, char: str) -> bool:
        """Take one character; return whether it opened or closed a brace."""
        if self._quote:
            if self._escaped:
                self._escaped = False
            elif char == '\\':
                self._escaped = True
            elif char == self._quote:
                self._quote = ''
                self._before = char
            return False
        before, self._before = self._before, self._before if char.isspace() else char
        if char == '{':
            self.depth += 1
            return True
        if not self.depth:
            return False
        if char == '}':
            self.depth -= 1
            return True
        # An apostrophe opens a string only where JSON would begin one.
        if char == '"' or (char == "'" and before in '{[,:'):
            self._quote = char
        return False
