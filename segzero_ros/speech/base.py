"""What every part of this room speaks: sound in blocks, what a recogniser heard, its errors.

Sound is one channel of 16-bit samples, 16 000 a second, in the machine's byte order. Imports
`types`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from segzero_ros.types import SegZeroError

RATE = 16_000
# Bytes of a second of sound.
SECOND = 2 * RATE


class SpeechError(SegZeroError):
    """Something cannot be heard or understood; the text names the cause and the cure."""


@dataclass(frozen=True)
class Utterance:
    """Somebody has spoken.

    Attributes:
        sound: what was said, with a moment of silence around it.
        start: when it began, in seconds of the sound.
    """

    sound: bytes
    start: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.sound) / SECOND


class Source(Protocol):
    """Where sound comes from."""

    def blocks(self) -> Iterator[bytes]:
        """Give the sound as it comes, in blocks of at most half a second; end with the sound.

        Raises:
            SpeechError: there is none.
        """
        ...

    def close(self) -> None:
        """Let the device or the file go; `blocks` ends soon after."""
        ...


class SpeechDetector(Protocol):
    """Tells speech from other sound, in one stream.

    Attributes:
        frame_bytes: how much sound it takes at a time.
        lag: seconds after the end of speech for which it goes on hearing it.
    """

    frame_bytes: int
    lag: float

    def hears(self, frame: bytes) -> bool:
        """Take the stream's next frame; return whether somebody is speaking."""
        ...


class Recogniser(Protocol):
    """Turns what was said into words; used from one thread."""

    name: str

    def detector(self) -> SpeechDetector:
        """Return what finds speech in a new stream."""
        ...

    def begin(self) -> None:
        """Begin with a new utterance."""
        ...

    def feed(self, sound: bytes) -> str:
        """Hear more of it; return the words so far, which may change. Empty: not known yet."""
        ...

    def end(self) -> str:
        """Return the words of the utterance, in lower case; empty where nothing was understood."""
        ...
