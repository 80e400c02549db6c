"""Segmentation of an audio stream into utterances."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from segzero_ros.speech.base import SECOND, SpeechDetector, Utterance

# Shortest pause that ends an utterance, seconds.
PAUSE = 0.6
# Audio to keep from before the detection, seconds: speech often starts softly.
_BEFORE = 0.6


class UtteranceSegmenter:
    """Splits a stream into utterances.

    Args:
        detector: a new voice activity detector for the stream.
        max_utterance: maximum duration of an utterance, seconds.
    """

    def __init__(self, detector: SpeechDetector, max_utterance: float = 15.0) -> None:
        self._max_bytes = round(max_utterance * SECOND)
        self._detector = detector
        # Bytes of silence that end an utterance, in addition to the detector's own lag.
        self._pause = (PAUSE - detector.lag) * SECOND
        frame = self._frame = detector.frame_bytes
        self._rest = b''
        self._before: deque[bytes] = deque(maxlen=max(1, round(_BEFORE * SECOND / frame)))
        self._sound = bytearray()
        self._silence = 0
        self._processed = 0
        self.speaking = False

    def feed(self, sound: bytes) -> Iterator[bytes | Utterance]:
        """Process a block; yield the chunks of an utterance, and the utterance at its end."""
        sound = self._rest + sound
        whole = len(sound) - len(sound) % self._frame
        self._rest = sound[whole:]
        for at in range(0, whole, self._frame):
            yield from self._take(sound[at : at + self._frame])

    def end(self) -> Iterator[Utterance]:
        """Yield the utterance at the end of the stream, if any."""
        if self.speaking:
            yield self._finish()

    def _take(self, frame: bytes) -> Iterator[bytes | Utterance]:
        is_speech = self._detector.is_speech(frame)
        self._processed += len(frame)
        if not self.speaking:
            self._before.append(frame)
            if is_speech:
                self.speaking, self._silence = True, 0
                self._sound = bytearray(b''.join(self._before))
                self._before.clear()
                yield bytes(self._sound)
            return
        self._sound += frame
        self._silence = 0 if is_speech else self._silence + len(frame)
        yield frame
        if self._silence >= self._pause or len(self._sound) >= self._max_bytes:
            yield self._finish()

    def _finish(self) -> Utterance:
        sound, self._sound = bytes(self._sound), bytearray()
        self.speaking = False
        return Utterance(sound, (self._processed - len(sound)) / SECOND)
