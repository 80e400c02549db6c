"""From sound to queries: utterances, their words, and whether they were meant for the robot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import unicodedata

from segzero_ros.speech.base import Recogniser, SECOND, Source, Utterance
from segzero_ros.speech.voice_activity import UtteranceSegmenter

# What may stand inside a word that goes on.
_APOSTROPHES = "'\u2019\u02bc`\u00b4"


class WakePhrase:
    """Tells what is meant for the robot.

    The phrase is found however it is written: recognisers write commas, capitals, hyphens and
    accents, or none (`Hey, Robo-Bot!` for `hey robobot`). What counts is letters and digits.

    Args:
        phrase: what has to be said before; empty: everything is meant.
        patience: seconds after the phrase alone in which the next utterance counts.
    """

    def __init__(self, phrase: str = '', patience: float = 8.0) -> None:
        self._phrase = ''.join(map(_bare, phrase))
        self._patience = patience
        self._until = -1.0

    def query(self, text: str, start: float, end: float) -> str:
        """Return what is meant for the robot, as it was written; empty when nothing is.

        Args:
            text: the words of an utterance.
            start: when it began, seconds.
            end: when it ended.
        """
        if not self._phrase:
            return ' '.join(text.split())
        rest = self._after_phrase(text)
        if rest is None:
            awake = start <= self._until
            self._until = -1.0
            return text if awake else ''
        self._until = -1.0 if rest else end + self._patience
        return rest

    def _after_phrase(self, text: str) -> str | None:
        """Return what follows the phrase; None for a text that does not begin with it."""
        left = self._phrase
        for place, character in enumerate(text):
            bare = _bare(character)
            if not left.startswith(bare):
                return None
            left = left[len(bare) :]
            if not left:
                return _next_words(text[place + 1 :])
        return None


def _bare(character: str) -> str:
    """Return a letter or digit without case and accent; empty for anything else."""
    parts = unicodedata.normalize('NFKD', character.casefold())
    return ''.join(part for part in parts if part.isalnum())


def _next_words(rest: str) -> str | None:
    """Return a text from its first letter or digit on; None if it goes on with the same word."""
    # An accent that is a character of its own belongs to the letter before.
    text = rest.lstrip(''.join(part for part in rest[:4] if unicodedata.combining(part)))
    word = text[1:] if text[:1] in _APOSTROPHES else text
    if word[:1].isalnum():
        return None
    first = next((place for place, one in enumerate(text) if one.isalnum()), len(text))
    return ' '.join(text[first:].split())


@dataclass(frozen=True)
class SpeechCallbacks:
    """Who hears what is said; all are called from the thread that listens."""

    on_query: Callable[[str], None]
    on_partial: Callable[[str], None]
    on_ignored: Callable[[str, str], None]


class RecogniserLoop:
    """Listens to a source until it ends.

    Attributes:
        speaking: whether somebody is being heard.
        utterances: how many were heard.
        seconds: of sound that was listened to.

    Args:
        recogniser: what tells the words.
        wake: what is meant for the robot.
        least_words: what has fewer words is taken for noise.
        longest: seconds of the longest utterance.
    """

    def __init__(
        self, recogniser: Recogniser, wake: WakePhrase, least_words: int = 2, longest: float = 15.0
    ) -> None:
        self._recogniser = recogniser
        self._wake = wake
        self._least_words = least_words
        self._longest = longest
        self._partial = ''
        self.speaking = False
        self.utterances = 0
        self.seconds = 0.0

    def run(self, source: Source, callbacks: SpeechCallbacks) -> None:
        """Listen; return when the sound has ended.

        Raises:
            SpeechError: there is no sound any more.
        """
        endpoints = UtteranceSegmenter(self._recogniser.detector(), self._longest)
        for block in source.blocks():
            self.seconds += len(block) / SECOND
            for piece in endpoints.feed(block):
                self._take(piece, callbacks)
        for utterance in endpoints.end():
            self._take(utterance, callbacks)

    def _take(self, piece: bytes | Utterance, callbacks: SpeechCallbacks) -> None:
        if isinstance(piece, Utterance):
            self._finish(piece, callbacks)
            return
        if not self.speaking:
            self.speaking, self._partial = True, ''
            self._recogniser.begin()
        said = self._recogniser.feed(piece)
        if said and said != self._partial:
            self._partial = said
            callbacks.on_partial(said)

    def _finish(self, utterance: Utterance, callbacks: SpeechCallbacks) -> None:
        self.speaking = False
        self.utterances += 1
        text = self._recogniser.end().strip()
        if not text:
            callbacks.on_ignored('', 'nothing was understood')
            return
        query = self._wake.query(text, utterance.start, utterance.start + utterance.seconds)
        if not query:
            callbacks.on_ignored(text, 'it was not meant for the robot')
        elif len(query.split()) < self._least_words:
            callbacks.on_ignored(text, f'a query has at least {self._least_words} words')
        else:
            callbacks.on_query(query)
