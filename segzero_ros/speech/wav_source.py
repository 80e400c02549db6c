"""Sound from a WAV file, a block at a time, so that hours of it take no memory.

Imports soxr, for other sampling rates than a recogniser's, and NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
import time
import wave

import numpy as np
from numpy.typing import NDArray
import soxr

from segzero_ros.speech.hearing import RATE, SpeechError

_BLOCK = 0.1
# Samples a second, and bytes of one, that recordings of speech have; a header may say anything.
_RATES = (4_000, 384_000)
_WIDTHS = (1, 2, 3, 4)


class WavSource:
    """A file of PCM sound: 8, 16, 24 or 32 bits, any rate, any number of channels.

    Args:
        path: the file.
        real_time: whether it is given as fast as it was spoken, else as fast as it can be read.

    Raises:
        SpeechError: it cannot be read.
    """

    def __init__(self, path: Path, *, real_time: bool = True) -> None:
        self._path = path
        self._real_time = real_time
        self._closed = threading.Event()
        try:
            self._file = wave.open(str(path), 'rb')  # noqa: SIM115
        except (OSError, EOFError, wave.Error) as error:
            raise SpeechError(
                f'{path} is no WAV file with PCM sound ({error or "it ends too early"}); '
                f'"ffmpeg -i {path.name} speech.wav" makes one of most others.'
            ) from error
        rate, width = self._file.getframerate(), self._file.getsampwidth()
        if not _RATES[0] <= rate <= _RATES[1] or width not in _WIDTHS:
            raise SpeechError(
                f'{path} has {8 * width} bits at {rate} samples a second; what can be read has 8 '
                f'to 32 bits at {_RATES[0]} to {_RATES[1]}.'
            )

    def blocks(self) -> Iterator[bytes]:
        """Give the sound."""
        rate = self._file.getframerate()
        to_rate = soxr.ResampleStream(rate, RATE, 1, dtype='float32')
        count = max(1, round(rate * _BLOCK))
        started, given = time.monotonic(), 0.0
        while not self._closed.is_set():
            data = self._file.readframes(count)
            samples = self._mono(data)
            yield _as_bytes(to_rate.resample_chunk(samples, last=not data))
            if not data:
                self._file.close()
                return
            given += len(samples) / rate
            if self._real_time:
                self._closed.wait(max(0.0, started + given - time.monotonic()))

    def close(self) -> None:
        """Read no more."""
        self._closed.set()

    def _mono(self, data: bytes) -> NDArray[np.float32]:
        """Return the mean of all channels, -1 to 1; what is left of a cut sample is dropped."""
        width, channels = self._file.getsampwidth(), self._file.getnchannels()
        data = data[: len(data) - len(data) % (width * channels)]
        raw = np.frombuffer(data, np.uint8).reshape(-1, width)
        if width == 1:
            values = (raw[:, 0].astype(np.float32) - 128) / 128
        else:
            # The highest bytes first to the top of 32 bits, whatever the width.
            wide = np.zeros((len(raw), 4), np.uint8)
            wide[:, 4 - width :] = raw
            values = wide.view('<i4')[:, 0].astype(np.float32) / 2**31
        mixed: NDArray[np.float32] = values.reshape(-1, channels).mean(axis=1)
        return mixed


def _as_bytes(samples: NDArray[np.float32]) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
