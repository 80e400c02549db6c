"""Sound that somebody hands over in pieces, whenever there is some, such as a topic's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import threading

from segzero_ros.speech.base import SECOND, SpeechError
from segzero_ros.speech.pcm import Converter, Encoding

# Sound that nobody has taken is kept for so many seconds; then the oldest goes.
KEPT = 10.0
# After so many seconds in which nothing came, so much silence is heard.
_GAP = 0.5
_LONGEST = round(_GAP * SECOND)

_Piece = tuple[bytes, Encoding]


class PushedSource:
    """Pieces from one thread become blocks in another.

    Who sends nothing is silent, and so ends a sentence but not the sound.

    Attributes:
        dropped: seconds of sound that came faster than they were taken.
    """

    def __init__(self) -> None:
        self.dropped = 0.0
        self._news = threading.Condition()
        self._pieces: deque[_Piece] = deque()
        self._kept = 0.0
        self._error = ''
        self._closed = False

    def put(self, data: bytes, encoding: Encoding) -> None:
        """Take the next piece."""
        with self._news:
            self._pieces.append((data, encoding))
            self._kept += encoding.seconds(data)
            while self._kept > KEPT and len(self._pieces) > 1:
                self.dropped += self._forget_oldest()
            self._news.notify()

    def fail(self, error: str) -> None:
        """Let `blocks` end with an error."""
        with self._news:
            self._error = error
            self._news.notify()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._closed or bool(self._error)

    def blocks(self) -> Iterator[bytes]:
        """Give the sound as it comes."""
        converter, written = None, None
        while not self._closed:
            piece = self._next()
            if piece is None:
                yield bytes(_LONGEST)
                continue
            data, encoding = piece
            if converter is None or encoding != written:
                converter, written = Converter(encoding), encoding
            sound = converter.convert(data)
            for at in range(0, len(sound), _LONGEST):
                yield sound[at : at + _LONGEST]

    def close(self) -> None:
        """Take no more."""
        with self._news:
            self._closed = True
            self._news.notify()

    def _next(self) -> _Piece | None:
        """Wait for a piece; None where none comes."""
        with self._news:
            self._news.wait_for(lambda: self._pieces or self._error or self._closed, _GAP)
            if self._error:
                raise SpeechError(self._error)
            if not self._pieces:
                return None
            piece = self._pieces[0]
            self._forget_oldest()
            return piece

    def _forget_oldest(self) -> float:
        """Drop the oldest piece; return its seconds."""
        seconds = self._pieces[0][1].seconds(self._pieces[0][0])
        self._pieces.popleft()
        # Exact where nothing is left: sums of many small numbers drift.
        self._kept = self._kept - seconds if self._pieces else 0.0
        return seconds
