"""Recognition by Whisper through faster-whisper, where it is installed and its model is here.

Understands free speech in many languages, but only whole utterances. Imports faster_whisper and
NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segzero_ros.speech.hearing import SpeechError

# An utterance is taken for noise above this, as Whisper's authors do.
_NO_SPEECH = 0.6


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
                f'The engine faster_whisper is not installed ({error}): '
                'pip install "segzero_ros[whisper]", or take the engine pocketsphinx.'
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

    def begin(self) -> None:
        """Begin with a new utterance."""
        self._sound = bytearray()

    def feed(self, sound: bytes) -> str:
        """Hear more of it; nothing is known before its end."""
        self._sound += sound
        return ''

    def end(self) -> str:
        """Return the words of the utterance."""
        samples = np.frombuffer(bytes(self._sound), np.int16).astype(np.float32) / 32768
        segments, _ = self._model.transcribe(samples, language=self._language, beam_size=5)
        said = [part.text for part in segments if part.no_speech_prob < _NO_SPEECH]
        return ''.join(said).strip().lower()


def _load(kind: Any, model: str, device: str) -> Any:
    try:
        return kind(model, device=device, local_files_only=True)
    except Exception:
        return kind(model, device=device)
