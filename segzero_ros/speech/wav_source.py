"""Audio from a WAV file, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
import time
import wave

from segzero_ros.speech.base import SpeechError
from segzero_ros.speech.pcm import Converter, Encoding

_BLOCK = 0.1
# Sample formats by bytes per sample.
_SAMPLES = {1: 'U8', 2: 'S16LE', 3: 'S24LE', 4: 'S32LE'}


class WavSource:
    """A PCM file: 8, 16, 24 or 32 bits, any rate, any number of channels.

    Args:
        path: the file.
        real_time: whether to play it in real time, else as fast as possible.

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
                f'{path} is not a PCM WAV file ({error or "it is truncated"}); '
                f'"ffmpeg -i {path.name} speech.wav" converts most other files.'
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
        """Yield the audio."""
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
        """Stop `blocks`."""
        self._closed.set()
