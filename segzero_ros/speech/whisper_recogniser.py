"""Recogniser with Whisper by faster-whisper.

Recognises free speech in many languages, but only complete utterances. They are segmented by the
Silero detector in faster-whisper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.extras import lacking
from segzero_ros.speech.base import RATE, SpeechError

# Probability above which an utterance is noise; the default of Whisper.
_NO_SPEECH = 0.6
# Samples per chunk of the Silero detector, and chunks per frame.
_CHUNK = 512
_CHUNKS = 4
# It is stateless, so each call starts with the last second before the frame.
_BEFORE = RATE // _CHUNK
# Thresholds for the start and the continuation of speech; Silero's defaults.
_START_THRESHOLD, _CONTINUE_THRESHOLD = 0.5, 0.35


class SileroDetector:
    """The Silero voice activity detector in faster-whisper.

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
            raise SpeechError(f'The voice activity detector cannot be loaded: {error}.') from error
        self._samples = np.zeros(_BEFORE * _CHUNK, np.float32)
        self._speaking = False

    def is_speech(self, frame: bytes) -> bool:
        """Process the next frame; return whether it is speech."""
        samples = _samples_of(frame)
        # The model needs a following chunk: append silence, whose result is not used.
        window = np.concatenate([self._samples, samples, np.zeros(_CHUNK, np.float32)])
        self._samples = window[len(samples) : len(samples) + len(self._samples)].copy()
        likely = np.ravel(self._model(window))[-1 - _CHUNKS : -1].max()
        self._speaking = bool(
            likely >= (_CONTINUE_THRESHOLD if self._speaking else _START_THRESHOLD)
        )
        return self._speaking


class WhisperRecogniser:
    """A Whisper model.

    Args:
        model: a size (`tiny.en`, `small`, `large-v3` …) or the folder of a converted model.
        device: `auto`, `cpu` or `cuda`.
        language: such as `en`; empty to detect it for each utterance.

    Raises:
            SpeechError: the package is not installed, or the model cannot be loaded.
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
            # Use a cached model without asking the Hub.
            self._model = _load(WhisperModel, model, device)
        except Exception as error:
            # The package raises errors of several libraries.
            raise SpeechError(
                f'The Whisper model {model} cannot be loaded: {type(error).__name__}: {error}. '
                'Choose a size if the Hub can be reached, or the folder of a converted model.'
            ) from error

    def detector(self) -> SileroDetector:
        """Return a voice activity detector for a new stream."""
        return SileroDetector()

    def begin(self) -> None:
        """Begin a new utterance."""
        self._sound = bytearray()

    def feed(self, sound: bytes) -> str:
        """Add audio; there is no preliminary text."""
        self._sound += sound
        return ''

    def end(self) -> str:
        """Return the text of the utterance."""
        samples = _samples_of(bytes(self._sound))
        segments, _ = self._model.transcribe(samples, language=self._language, beam_size=5)
        texts = [part.text for part in segments if part.no_speech_prob < _NO_SPEECH]
        return ''.join(texts).strip().lower()


def _samples_of(sound: bytes) -> NDArray[np.float32]:
    """Return audio as floats, -1 to 1."""
    samples: NDArray[np.float32] = np.frombuffer(sound, np.int16).astype(np.float32)
    samples /= 32768
    return samples


def _load(kind: Any, model: str, device: str) -> Any:
    try:
        return kind(model, device=device, local_files_only=True)
    except Exception:
        return kind(model, device=device)
