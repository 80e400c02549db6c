"""Conversion of PCM audio to the recognisers' format; resampled by soxr."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.extras import lacking
from segzero_ros.speech.base import RATE, SpeechError

# Bytes per sample, by GStreamer's format names.
_WIDTHS = {'U8': 1, 'S8': 1, 'S16LE': 2, 'S24LE': 3, 'S32LE': 4, 'F32LE': 4}
# Valid sample rates, Hz, and numbers of channels; headers and messages may have any value.
_RATES = (4_000, 384_000)
_CHANNELS = (1, 1024)


@dataclass(frozen=True)
class Encoding:
    """An audio encoding.

    Attributes:
        samples: U8, S8, S16LE, S24LE, S32LE or F32LE (-1 to 1), GStreamer's names.
        rate: sample rate, Hz.
        channels: number of interleaved channels.

    Raises:
        SpeechError: the encoding is not supported.
    """

    samples: str
    rate: int
    channels: int

    def __post_init__(self) -> None:
        known = self.samples in _WIDTHS and _CHANNELS[0] <= self.channels <= _CHANNELS[1]
        if not known or not _RATES[0] <= self.rate <= _RATES[1]:
            raise SpeechError(
                f'it has {self.channels} channels of {self.samples or "no"} samples at '
                f'{self.rate} Hz; supported are {", ".join(_WIDTHS)} at {_RATES[0]} to '
                f'{_RATES[1]} Hz.'
            )

    @property
    def step(self) -> int:
        """Bytes per sample of all channels."""
        return _WIDTHS[self.samples] * self.channels

    def seconds(self, data: bytes) -> float:
        """Return the duration of audio data."""
        return len(data) / (self.step * self.rate)


class Converter:
    """Converts a stream to the recognisers' format.

    Raises:
        SpeechError: soxr is not installed.
    """

    def __init__(self, encoding: Encoding) -> None:
        try:
            import soxr
        except ImportError as error:
            raise SpeechError(f'{lacking("Speech recognition needs", error, "voice")}.') from error
        self._encoding = encoding
        self._to_rate = soxr.ResampleStream(encoding.rate, RATE, 1, dtype='float32')

    def convert(self, data: bytes, *, last: bool = False) -> bytes:
        """Convert the next chunk; some of its audio may be returned with later ones.

        An incomplete sample at the end of the chunk is dropped.
        """
        samples = self._to_rate.resample_chunk(self._mono(data), last=last)
        sound: bytes = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        return sound

    def _mono(self, data: bytes) -> NDArray[np.float32]:
        """Return the mean of all channels, -1 to 1."""
        kind, channels = self._encoding.samples, self._encoding.channels
        data = data[: len(data) - len(data) % self._encoding.step]
        raw = np.frombuffer(data, np.uint8).reshape(-1, _WIDTHS[kind])
        mixed: NDArray[np.float32] = _values(raw, kind).reshape(-1, channels).mean(axis=1)
        return mixed


def _values(raw: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """Return the values, -1 to 1, of samples given as rows of bytes."""
    if kind == 'F32LE':
        numbers: NDArray[np.float32] = np.clip(raw.view('<f4')[:, 0], -1, 1)
        return np.nan_to_num(numbers)
    # Left-align samples of any width in 32 bits.
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 4 - raw.shape[1] :] = raw ^ np.uint8(128) if kind == 'U8' else raw
    values = wide.view('<i4')[:, 0].astype(np.float32)
    values /= 2**31
    return values
