"""Common types of speech recognition.

Audio is mono, 16-bit integer samples at 16 kHz, in native byte order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from segzero_ros.types import SegZeroError

RATE = 16_000
# Bytes per second of audio.
SECOND = 2 * RATE


class SpeechError(SegZeroError):
    """Audio cannot be recorded or recognised; the message has the reason and a hint."""


@dataclass(frozen=True)
class Utterance:
    """One utterance.

    Attributes:
        sound: its audio, with some silence around it.
        start: its start in the stream, seconds.
    """

    sound: bytes
    start: float

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.sound) / SECOND


class Source(Protocol):
    """An audio source."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the audio in blocks of at most 0.5 s, until the source ends.

        Raises:
            SpeechError: there is no audio.
        """
        ...

    def close(self) -> None:
        """Release the device or the file; `blocks` ends soon after."""
        ...


class SpeechDetector(Protocol):
    """Voice activity detector for one stream.

    Attributes:
        frame_bytes: size of a frame.
        lag: seconds after the end of speech for which it still detects speech.
    """

    frame_bytes: int
    lag: float

    def is_speech(self, frame: bytes) -> bool:
        """Process the stream's next frame; return whether it is speech."""
        ...


class Recogniser(Protocol):
    """Speech recogniser; used from one thread."""

    name: str

    def detector(self) -> SpeechDetector:
        """Return a voice activity detector for a new stream."""
        ...

    def begin(self) -> None:
        """Begin a new utterance."""
        ...

    def feed(self, sound: bytes) -> str:
        """Add audio; return the preliminary text, empty if there is none yet."""
        ...

    def end(self) -> str:
        """Return the text of the utterance in lower case; empty if nothing was recognised."""
        ...
