"""From sound to queries: utterances, their words, and whether they were meant for the robot.

Imports the rest of the room, whose engines are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segzero_ros.speech.endpoints import Endpoints
from segzero_ros.speech.hearing import Recogniser, SECOND, Source, Utterance


class Wake:
    """Tells what is meant for the robot.

    Args:
        phrase: what has to be said before; empty: everything is meant.
        patience: seconds after the phrase alone in which the next utterance counts.
    """

    def __init__(self, phrase: str = '', patience: float = 8.0) -> None:
        self._words = phrase.lower().split()
        self._patience = patience
        self._until = -1.0

    def query(self, text: str, start: float, end: float) -> str:
        """Return what is meant for the robot; empty when nothing is.

        Args:
            text: the words of an utterance.
            start: when it began, seconds.
            end: when it ended.
        """
        words = text.split()
        count = len(self._words)
        if words[:count] != self._words:
            awake = start <= self._until
            self._until = -1.0
            return text if awake else ''
        rest = ' '.join(words[count:])
        self._until = end + self._patience if count and not rest else -1.0
        return rest


@dataclass(frozen=True)
class Hearers:
    """Who hears what is said; all are called from the thread that listens."""

    on_query: Callable[[str], None]
    on_partial: Callable[[str], None]
    on_ignored: Callable[[str, str], None]


class Listening:
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
        self, recogniser: Recogniser, wake: Wake, least_words: int = 2, longest: float = 15.0
    ) -> None:
        self._recogniser = recogniser
        self._wake = wake
        self._least_words = least_words
        self._longest = longest
        self._partial = ''
        self.speaking = False
        self.utterances = 0
        self.seconds = 0.0

    def run(self, source: Source, hearers: Hearers) -> None:
        """Listen; return when the sound has ended.

        Raises:
            SpeechError: there is no sound any more.
        """
        endpoints = Endpoints(self._longest)
        for block in source.blocks():
            self.seconds += len(block) / SECOND
            for piece in endpoints.feed(block):
                self._take(piece, hearers)
        for utterance in endpoints.end():
            self._take(utterance, hearers)

    def _take(self, piece: bytes | Utterance, hearers: Hearers) -> None:
        if isinstance(piece, Utterance):
            self._finish(piece, hearers)
            return
        if not self.speaking:
            self.speaking, self._partial = True, ''
            self._recogniser.begin()
        said = self._recogniser.feed(piece)
        if said and said != self._partial:
            self._partial = said
            hearers.on_partial(said)

    def _finish(self, utterance: Utterance, hearers: Hearers) -> None:
        self.speaking = False
        self.utterances += 1
        text = self._recogniser.end().strip()
        if not text:
            hearers.on_ignored('', 'nothing was understood')
            return
        query = self._wake.query(text, utterance.start, utterance.start + utterance.seconds)
        if not query:
            hearers.on_ignored(text, 'it was not meant for the robot')
        elif len(query.split()) < self._least_words:
            hearers.on_ignored(text, f'a query has at least {self._least_words} words')
        else:
            hearers.on_query(query)
