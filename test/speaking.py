"""Sentences spoken by espeak-ng, with noise, as recordings for the tests of hearing."""

from __future__ import annotations

import ctypes
from functools import cache
import multiprocessing
from multiprocessing.pool import Pool
from pathlib import Path
import wave

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

_RETRIEVAL, _SPEED, _UTF8 = 1, 1, 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class _Speaker:
    """The library, which speaks into memory."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate = self._library.espeak_Initialize(_RETRIEVAL, 0, data, 0)
        self._pieces: list[NDArray[np.int16]] = []
        # Kept, for the library calls it later.
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count, _) -> int:
        if samples and count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, words_per_minute: int) -> NDArray[np.int16]:
        self._pieces.clear()
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_SPEED, words_per_minute, 0)
        spoken = text.encode()
        size = ctypes.c_size_t(len(spoken) + 1)
        self._library.espeak_Synth(spoken, size, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces)


@cache
def _booth() -> Pool:
    """Return what gives each recording a process of its own.

    What was said before in a process, and what other libraries do to it, changes the sound.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['numpy', 'espeakng_loader'])
    return context.Pool(1, maxtasksperchild=1)


def _say(texts: tuple[str, ...], voice: str, speed: int) -> tuple[list[NDArray[np.int16]], int]:
    speaker = _Speaker()
    return [speaker.say(text, voice, speed) for text in texts], speaker.rate


@cache
def _said(texts: tuple[str, ...], voice: str, speed: int) -> tuple[list[NDArray[np.int16]], int]:
    return _booth().apply(_say, (texts, voice, speed))


def speech(
    text: str,
    *,
    voice: str = 'en-us',
    speed: int = 150,
    noise_db: float = 20.0,
    pause: float = 1.2,
    seed: int = 0,
) -> tuple[NDArray[np.int16], int]:
    """Return a sentence between two pauses, and its sampling rate.

    White noise lies `noise_db` below the power of what is spoken, in the pauses too.
    """
    (spoken,), rate = _said((text,), voice, speed)
    return _between_pauses(spoken, rate, noise_db, pause, seed), rate


def speech_of(texts: list[str]) -> tuple[NDArray[np.int16], int]:
    """Return several sentences in one recording, as `speech` gives one, and its sampling rate."""
    spoken, rate = _said(tuple(texts), 'en-us', 150)
    parts = [_between_pauses(each, rate, 20.0, 1.2, seed) for seed, each in enumerate(spoken)]
    return np.concatenate(parts), rate


def _between_pauses(
    spoken: NDArray[np.int16], rate: int, noise_db: float, pause: float, seed: int
) -> NDArray[np.int16]:
    spoken = spoken.astype(float)
    silence = np.zeros(round(pause * rate))
    power = np.mean(spoken[np.abs(spoken) > 200] ** 2)
    sound = np.concatenate([silence, spoken, silence])
    noise = np.random.default_rng(seed).normal(
        0, np.sqrt(power / 10 ** (noise_db / 10)), len(sound)
    )
    return np.clip(sound + noise, -32768, 32767).astype(np.int16)


def write_wav(path: Path, samples: NDArray[np.int16], rate: int, channels: int = 1) -> Path:
    """Write a recording; with several channels, the same in each."""
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, channels).astype('<i2').tobytes())
    return path
