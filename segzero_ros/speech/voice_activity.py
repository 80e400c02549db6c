"""Where speech begins and ends: utterances out of a stream of sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from segzero_ros.speech.base import SECOND, SpeechDetector, Utterance

# A pause of less than this is one within an utterance, in seconds.
PAUSE = 0.6
# What is kept from before speech was noticed, in seconds: its first sound is often soft.
_BEFORE = 0.6


class UtteranceSegmenter:
    """Cuts a stream into utterances, and hands their sound on as it comes.

    Args:
        detector: tells speech from other sound; a new one for each stream.
        longest: after so many seconds an utterance is over, whether it is or not.
    """

    def __init__(self, detector: SpeechDetector, longest: float = 15.0) -> None:
        self._longest = round(longest * SECOND)
        self._detector = detector
        # Silence of so many bytes, beside what the detector waits by itself, ends an utterance.
        self._pause = (PAUSE - detector.lag) * SECOND
        frame = self._frame = detector.frame_bytes
        self._rest = b''
        self._before: deque[bytes] = deque(maxlen=max(1, round(_BEFORE * SECOND / frame)))
        self._sound = bytearray()
        self._silence = 0
        self._taken = 0
        self.speaking = False

    def feed(self, sound: bytes) -> Iterator[bytes | Utterance]:
        """Take a block; give the pieces of an utterance as they come, and the whole at its end."""
        sound = self._rest + sound
        whole = len(sound) - len(sound) % self._frame
        self._rest = sound[whole:]
        for at in range(0, whole, self._frame):
            yield from self._take(sound[at : at + self._frame])

    def end(self) -> Iterator[Utterance]:
        """Give what was said until the sound ended."""
        if self.speaking:
            yield self._finish()

    def _take(self, frame: bytes) -> Iterator[bytes | Utterance]:
        heard = self._detector.hears(frame)
        self._taken += len(frame)
        if not self.speaking:
            self._before.append(frame)
            if heard:
                self.speaking, self._silence = True, 0
                self._sound = bytearray(b''.join(self._before))
                self._before.clear()
                yield bytes(self._sound)
            return
        self._sound += frame
        self._silence = 0 if heard else self._silence + len(frame)
        yield frame
        if self._silence >= self._pause or len(self._sound) >= self._longest:
            yield self._finish()

    def _finish(self) -> Utterance:
        sound, self._sound = bytes(self._sound), bytearray()
        self.speaking = False
        return Utterance(sound, (self._taken - len(sound)) / SECOND)
