"""Recogniser loop: from audio to queries, with a wake phrase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import unicodedata

from segzero_ros.speech.base import Recogniser, SECOND, Source, Utterance
from segzero_ros.speech.voice_activity import UtteranceSegmenter

# Characters that may be inside a word.
_APOSTROPHES = "'\u2019\u02bc`\u00b4"


class WakePhrase:
    """Detects utterances for the robot by a wake phrase.

    Only letters and digits are compared, because recognisers differ in punctuation, case and
    accents (`Hey, Robo-Bot!` matches `hey robobot`).

    Args:
        phrase: before each query; empty to accept every utterance.
        timeout: seconds after the phrase alone in which the next utterance is accepted.
    """

    def __init__(self, phrase: str = '', timeout: float = 8.0) -> None:
        self._phrase = ''.join(map(_normalised, phrase))
        self._timeout = timeout
        self._until = -1.0

    def query(self, text: str, start: float, end: float) -> str:
        """Return the query in an utterance; empty if it was not for the robot.

        Args:
            text: of the utterance.
            start: of the utterance, seconds.
            end: of the utterance, seconds.
        """
        if not self._phrase:
            return ' '.join(text.split())
        rest = self._after_phrase(text)
        if rest is None:
            awake = start <= self._until
            self._until = -1.0
            return text if awake else ''
        self._until = -1.0 if rest else end + self._timeout
        return rest

    def _after_phrase(self, text: str) -> str | None:
        """Return the text after the phrase; None if it does not start with the phrase."""
        left = self._phrase
        for index, character in enumerate(text):
            normalised = _normalised(character)
            if not left.startswith(normalised):
                return None
            left = left[len(normalised) :]
            if not left:
                return _next_words(text[index + 1 :])
        return None


def _normalised(character: str) -> str:
    """Return a letter or digit without case and accent; empty for other characters."""
    parts = unicodedata.normalize('NFKD', character.casefold())
    return ''.join(part for part in parts if part.isalnum())


def _next_words(rest: str) -> str | None:
    """Return a text from its first letter or digit on; None if the last word continues."""
    # A combining accent belongs to the letter before it.
    text = rest.lstrip(''.join(part for part in rest[:4] if unicodedata.combining(part)))
    word = text[1:] if text[:1] in _APOSTROPHES else text
    if word[:1].isalnum():
        return None
    first = next((index for index, one in enumerate(text) if one.isalnum()), len(text))
    return ' '.join(text[first:].split())


@dataclass(frozen=True)
class SpeechCallbacks:
    """Callbacks of the recogniser loop, called from its thread."""

    on_query: Callable[[str], None]
    on_partial: Callable[[str], None]
    on_ignored: Callable[[str, str], None]


class RecogniserLoop:
    """Recognises a source until it ends.

    Attributes:
        speaking: whether there is speech now.
        utterances: number of utterances.
        seconds: of processed audio.

    Args:
        recogniser: recognises utterances.
        wake: the wake phrase.
        min_words: utterances with fewer words are ignored as noise.
        max_utterance: maximum duration of an utterance, seconds.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        wake: WakePhrase,
        min_words: int = 2,
        max_utterance: float = 15.0,
    ) -> None:
        self._recogniser = recogniser
        self._wake = wake
        self._min_words = min_words
        self._max_utterance = max_utterance
        self._partial = ''
        self.speaking = False
        self.utterances = 0
        self.seconds = 0.0

    def run(self, source: Source, callbacks: SpeechCallbacks) -> None:
        """Run until the source ends.

        Args:
            source: of the audio.
            callbacks: for queries, preliminary text and ignored utterances.

        Raises:
            SpeechError: the source has failed.
        """
        segmenter = UtteranceSegmenter(self._recogniser.detector(), self._max_utterance)
        for block in source.blocks():
            self.seconds += len(block) / SECOND
            for piece in segmenter.feed(block):
                self._take(piece, callbacks)
        for utterance in segmenter.end():
            self._take(utterance, callbacks)

    def _take(self, piece: bytes | Utterance, callbacks: SpeechCallbacks) -> None:
        if isinstance(piece, Utterance):
            self._finish(piece, callbacks)
            return
        if not self.speaking:
            self.speaking, self._partial = True, ''
            self._recogniser.begin()
        text = self._recogniser.feed(piece)
        if text and text != self._partial:
            self._partial = text
            callbacks.on_partial(text)

    def _finish(self, utterance: Utterance, callbacks: SpeechCallbacks) -> None:
        self.speaking = False
        self.utterances += 1
        text = self._recogniser.end().strip()
        if not text:
            callbacks.on_ignored('', 'nothing was recognised')
            return
        query = self._wake.query(text, utterance.start, utterance.start + utterance.seconds)
        if not query:
            callbacks.on_ignored(text, 'it does not start with the wake phrase')
        elif len(query.split()) < self._min_words:
            callbacks.on_ignored(text, f'a query has at least {self._min_words} words')
        else:
            callbacks.on_query(query)
