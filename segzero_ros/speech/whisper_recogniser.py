"""Recognition by Whisper through faster-whisper, where it is installed and its model is here.

Understands free speech in many languages, but only whole utterances. Where they begin and end is
found by Silero's detector, which faster-whisper carries along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.extras import lacking
from segzero_ros.speech.base import RATE, SpeechError

# An utterance is taken for noise above this, as Whisper's authors do.
_NO_SPEECH = 0.6
# Silero's detector takes this many samples at a time, and is given so many of them together.
_CHUNK = 512
_CHUNKS = 4
# It has no memory between two calls, so each one begins with the last second before it.
_BEFORE = RATE // _CHUNK
# How sure it has to be that somebody begins to speak, and that somebody goes on, as its authors
# set them.
_BEGINS, _GOES_ON = 0.5, 0.35


class SileroDetector:
    """Hears speech by Silero's voice activity detector, which is inside faster-whisper.

    Raises:
        SpeechError: it cannot be loaded.
    """

    frame_bytes = 2 * _CHUNK * _CHUNKS
    lag = 0.0

    def __init__(self) -> None:
        try:
            from faster_whisper.vad import get_vad_model

            self._model = get_vad_model()
        except (ImportError, RuntimeError) as error:
            raise SpeechError(f'Speech cannot be found: {error}.') from error
        self._samples = np.zeros(_BEFORE * _CHUNK, np.float32)
        self._speaking = False

    def hears(self, frame: bytes) -> bool:
        """Take the next frame; return whether somebody is speaking."""
        samples = _samples_of(frame)
        # What follows is not known yet: the model spoils the end of the last chunk that it gets,
        # so that is one of silence, whose answer nobody needs.
        heard = np.concatenate([self._samples, samples, np.zeros(_CHUNK, np.float32)])
        self._samples = heard[len(samples) : len(samples) + len(self._samples)].copy()
        likely = np.ravel(self._model(heard))[-1 - _CHUNKS : -1].max()
        self._speaking = bool(likely >= (_GOES_ON if self._speaking else _BEGINS))
        return self._speaking


class WhisperRecogniser:
    """A Whisper model.

    Args:
        model: a size (`tiny.en`, `small`, `large-v3` …) or the folder of a converted model.
        device: `auto`, `cpu` or `cuda`.
        language: of what is spoken, such as `en`; empty: found out for each utterance.

    Raises:
        SpeechError: the package or the model is not here.
    """

    def __init__(self, model: str = 'small.en', device: str = 'auto', language: str = '') -> None:
        self.name = f'whisper {model}'
        self._language = language or None
        self._sound = bytearray()
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise SpeechError(
                f'{lacking("The engine needs", error, "whisper")}, or take the engine '
                'pocketsphinx.'
            ) from error
        try:
            # What the cache holds goes before the hub.
            self._model = _load(WhisperModel, model, device)
        except Exception as error:
            # The package lets errors of several libraries through; each ends the same way.
            raise SpeechError(
                f'The Whisper model {model} cannot be had: {type(error).__name__}: {error}. Name '
                'a size where the hub can be reached, or the folder of a converted model.'
            ) from error

    def detector(self) -> SileroDetector:
        """Return what finds speech in a new stream."""
        return SileroDetector()

    def begin(self) -> None:
        """Begin with a new utterance."""
        self._sound = bytearray()

    def feed(self, sound: bytes) -> str:
        """Hear more of it; nothing is known before its end."""
        self._sound += sound
        return ''

    def end(self) -> str:
        """Return the words of the utterance."""
        samples = _samples_of(bytes(self._sound))
        segments, _ = self._model.transcribe(samples, language=self._language, beam_size=5)
        said = [part.text for part in segments if part.no_speech_prob < _NO_SPEECH]
        return ''.join(said).strip().lower()


def _samples_of(sound: bytes) -> NDArray[np.float32]:
    """Return sound as numbers, -1 to 1."""
    samples: NDArray[np.float32] = np.frombuffer(sound, np.int16).astype(np.float32)
    samples /= 32768
    return samples


def _load(kind: Any, model: str, device: str) -> Any:
    try:
        return kind(model, device=device, local_files_only=True)
    except Exception:
        return kind(model, device=device)
