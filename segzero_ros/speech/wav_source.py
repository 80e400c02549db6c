"""Sound from a WAV file, a block at a time, so that hours of it take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
import time
import wave

from segzero_ros.speech.base import SpeechError
from segzero_ros.speech.pcm import Converter, Encoding

_BLOCK = 0.1
# How a file writes samples of so many bytes.
_SAMPLES = {1: 'U8', 2: 'S16LE', 3: 'S24LE', 4: 'S32LE'}


class WavSource:
    """A file of PCM sound: 8, 16, 24 or 32 bits, any rate, any number of channels.

    Args:
        path: the file.
        real_time: whether it is given as fast as it was spoken, else as fast as it can be read.

    Raises:
        SpeechError: it cannot be read.
    """

    def __init__(self, path: Path, *, real_time: bool = True) -> None:
        self._real_time = real_time
        self._closed = threading.Event()
        try:
            self._file = wave.open(str(path), 'rb')  # noqa: SIM115
        except (OSError, EOFError, wave.Error) as error:
            raise SpeechError(
                f'{path} is no WAV file with PCM sound ({error or "it ends too early"}); '
                f'"ffmpeg -i {path.name} speech.wav" makes one of most others.'
            ) from error
        width = self._file.getsampwidth()
        samples = _SAMPLES.get(width, f'{8 * width}-bit')
        try:
            self._encoding = Encoding(
                samples, self._file.getframerate(), self._file.getnchannels()
            )
        except SpeechError as error:
            raise SpeechError(f'{path} cannot be read: {error}') from error

    def blocks(self) -> Iterator[bytes]:
        """Give the sound."""
        converter = Converter(self._encoding)
        count = max(1, round(self._encoding.rate * _BLOCK))
        started, given = time.monotonic(), 0.0
        while not self._closed.is_set():
            data = self._file.readframes(count)
            yield converter.convert(data, last=not data)
            if not data:
                self._file.close()
                return
            given += self._encoding.seconds(data)
            if self._real_time:
                self._closed.wait(max(0.0, started + given - time.monotonic()))

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
