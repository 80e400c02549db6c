"""Audio source for chunks that are pushed by another thread, such as from a topic."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import threading

from segzero_ros.speech.base import SECOND, SpeechError
from segzero_ros.speech.pcm import Converter, Encoding

# Maximum seconds of buffered audio; then the oldest is dropped.
MAX_BUFFERED = 10.0
# After this time without audio, as much silence is inserted.
_GAP = 0.5
_MAX_BLOCK = round(_GAP * SECOND)

_Chunk = tuple[bytes, Encoding]


class PushedSource:
    """Passes chunks from one thread as blocks to another.

    A pause of the sender counts as silence, which ends an utterance but not the stream.

    Attributes:
        dropped: seconds of audio that were dropped because the buffer was full.
    """

    def __init__(self) -> None:
        self.dropped = 0.0
        self._changed = threading.Condition()
        self._chunks: deque[_Chunk] = deque()
        self._buffered = 0.0
        self._error = ''
        self._closed = False

    def put(self, data: bytes, encoding: Encoding) -> None:
        """Add a chunk."""
        with self._changed:
            self._chunks.append((data, encoding))
            self._buffered += encoding.seconds(data)
            while self._buffered > MAX_BUFFERED and len(self._chunks) > 1:
                self.dropped += self._drop_oldest()
            self._changed.notify()

    def fail(self, error: str) -> None:
        """End `blocks` with an error."""
        with self._changed:
            self._error = error
            self._changed.notify()

    @property
    def ended(self) -> bool:
        """Whether the source is closed or has failed."""
        return self._closed or bool(self._error)

    def blocks(self) -> Iterator[bytes]:
        """Yield the audio when it arrives."""
        converter, written = None, None
        while not self._closed:
            chunk = self._next()
            if chunk is None:
                yield bytes(_MAX_BLOCK)
                continue
            data, encoding = chunk
            if converter is None or encoding != written:
                converter, written = Converter(encoding), encoding
            sound = converter.convert(data)
            for at in range(0, len(sound), _MAX_BLOCK):
                yield sound[at : at + _MAX_BLOCK]

    def close(self) -> None:
        """Stop `blocks`."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _next(self) -> _Chunk | None:
        """Wait for a chunk; return None after a gap."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._error or self._closed, _GAP)
            if self._error:
                raise SpeechError(self._error)
            if not self._chunks:
                return None
            chunk = self._chunks[0]
            self._drop_oldest()
            return chunk

    def _drop_oldest(self) -> float:
        """Drop the oldest chunk; return its duration."""
        seconds = self._chunks[0][1].seconds(self._chunks[0][0])
        self._chunks.popleft()
        # Reset an empty buffer, as floating-point sums drift.
        self._buffered = self._buffered - seconds if self._chunks else 0.0
        return seconds
