"""Recogniser with pocketsphinx, whose wheel contains an English model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import tempfile

import numpy as np
from pocketsphinx import Decoder, Endpointer, get_model_path

from segzero_ros.speech.base import RATE, SpeechError
from segzero_ros.speech.commands import Commands, PRONUNCIATIONS
from segzero_ros.speech.language_model import arpa

# Commands, or general English.
VOCABULARIES = ('commands', 'english')
_SENTENCES = 20_000
_SEED = 0


class PocketsphinxDetector:
    """Detects speech if 90 % of the last `lag` seconds are speech."""

    lag = 0.3

    def __init__(self) -> None:
        self._ends = Endpointer(window=self.lag, sample_rate=RATE)
        self.frame_bytes: int = self._ends.frame_bytes

    def is_speech(self, frame: bytes) -> bool:
        """Process the next frame; return whether it is speech."""
        self._ends.process(frame)
        return bool(self._ends.in_speech)


class PocketsphinxRecogniser:
    """Recognises commands, or general English with much lower accuracy.

    Attributes:
        unpronounceable: nouns that it cannot recognise, because it lacks their pronunciation.

    Args:
        vocabulary: one of VOCABULARIES.
        nouns: additional nouns in commands.
        wake_phrase: optional phrase before a command; empty for none.

    Raises:
        SpeechError: the vocabulary does not exist, or the wake phrase has no pronunciation.
    """

    def __init__(
        self, vocabulary: str = 'commands', nouns: Iterable[str] = (), wake_phrase: str = ''
    ) -> None:
        self.name = f'pocketsphinx ({vocabulary})'
        self.unpronounceable: tuple[str, ...] = ()
        self._sound = bytearray()
        if vocabulary == 'english':
            self._decoder = Decoder(loglevel='FATAL')
            return
        if vocabulary != 'commands':
            raise SpeechError(
                f'There is no vocabulary {vocabulary!r}: choose one of {", ".join(VOCABULARIES)}.'
            )
        self._decoder = self._command_decoder(nouns, wake_phrase.lower())

    def detector(self) -> PocketsphinxDetector:
        """Return a voice activity detector for a new stream."""
        return PocketsphinxDetector()

    def begin(self) -> None:
        """Begin a new utterance."""
        self._sound = bytearray()
        self._decoder.start_utt()

    def feed(self, sound: bytes) -> str:
        """Add audio; return the preliminary text."""
        self._sound += sound
        self._decoder.process_raw(sound)
        return self._words()

    def end(self) -> str:
        """Return the text of the utterance.

        It is decoded again as a whole, with its own loudness and pitch normalisation, which
        makes fewer errors at its start than streaming.
        """
        self._decoder.end_utt()
        self._decoder.start_utt()
        self._decoder.process_raw(bytes(self._sound), full_utt=True)
        self._decoder.end_utt()
        return self._words()

    def _words(self) -> str:
        found = self._decoder.hyp()
        return '' if found is None else str(found.hypstr)

    def _command_decoder(self, nouns: Iterable[str], wake_phrase: str) -> Decoder:
        entries = _dictionary()
        commands = Commands(entries.__contains__, nouns)
        self.unpronounceable = commands.unpronounceable
        unknown = [word for word in wake_phrase.split() if word not in entries]
        if unknown:
            raise SpeechError(
                f'The wake phrase {wake_phrase!r} cannot be recognised: pocketsphinx has no '
                f'pronunciation of {", ".join(unknown)}. Use common English words.'
            )
        rng = np.random.default_rng(_SEED)
        sentences = [commands.draw(rng) for _ in range(_SENTENCES)]
        if wake_phrase:
            # Before half of the commands, and alone.
            sentences[::2] = [f'{wake_phrase} {sentence}' for sentence in sentences[::2]]
            sentences += [wake_phrase] * (_SENTENCES // 10)
        used = {word for sentence in sentences for word in sentence.split()}
        spoken = [line for word in sorted(used) for line in entries.get(word, ())]
        spoken += [f'{word} {PRONUNCIATIONS[word]}' for word in sorted(used - entries.keys())]
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder, 'commands.arpa'), Path(folder, 'commands.dict')
            model.write_text(arpa(sentences))
            dictionary.write_text('\n'.join(spoken) + '\n')
            return Decoder(lm=str(model), dict=str(dictionary), loglevel='FATAL')


def _dictionary() -> dict[str, list[str]]:
    """Return the lines of the model's dictionary by word; a word may have several."""
    entries: dict[str, list[str]] = {}
    path = Path(get_model_path('en-us')) / 'cmudict-en-us.dict'
    for line in path.read_text(encoding='utf-8').splitlines():
        word = line.split(' ', 1)[0].partition('(')[0]
        entries.setdefault(word, []).append(line)
    return entries
