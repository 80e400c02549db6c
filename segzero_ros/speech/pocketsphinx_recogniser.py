"""Recognition by pocketsphinx, whose English model comes inside its wheel: it works anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import tempfile

import numpy as np
from pocketsphinx import Decoder, Endpointer, get_model_path

from segzero_ros.speech.base import RATE, SpeechError
from segzero_ros.speech.commands import Commands, PRONUNCIATIONS
from segzero_ros.speech.language_model import arpa

# What it expects to hear: commands, or English at large.
VOCABULARIES = ('commands', 'english')
_SENTENCES = 20_000
_SEED = 0


class PocketsphinxDetector:
    """Hears speech where nine tenths of `lag` seconds are speech."""

    lag = 0.3

    def __init__(self) -> None:
        self._ends = Endpointer(window=self.lag, sample_rate=RATE)
        self.frame_bytes: int = self._ends.frame_bytes

    def hears(self, frame: bytes) -> bool:
        """Take the next frame; return whether somebody is speaking."""
        self._ends.process(frame)
        return bool(self._ends.in_speech)


class PocketsphinxRecogniser:
    """Hears commands, or free English, of which it understands much less.

    Attributes:
        left_out: nouns that it cannot hear, for it does not know how they are pronounced.

    Args:
        vocabulary: one of VOCABULARIES.
        nouns: names of things to expect in commands, beside those that the house knows.
        wake_phrase: what may come before a command; empty for nothing.

    Raises:
        SpeechError: the vocabulary is none, or it cannot pronounce the wake phrase.
    """

    def __init__(
        self, vocabulary: str = 'commands', nouns: Iterable[str] = (), wake_phrase: str = ''
    ) -> None:
        self.name = f'pocketsphinx ({vocabulary})'
        self.left_out: tuple[str, ...] = ()
        self._sound = bytearray()
        if vocabulary == 'english':
            self._decoder = Decoder(loglevel='FATAL')
            return
        if vocabulary != 'commands':
            raise SpeechError(
                f'There is no vocabulary {vocabulary!r}: it is one of {", ".join(VOCABULARIES)}.'
            )
        self._decoder = self._command_decoder(nouns, wake_phrase.lower())

    def detector(self) -> PocketsphinxDetector:
        """Return what finds speech in a new stream."""
        return PocketsphinxDetector()

    def begin(self) -> None:
        """Begin with a new utterance."""
        self._sound = bytearray()
        self._decoder.start_utt()

    def feed(self, sound: bytes) -> str:
        """Hear more of it; return the words so far."""
        self._sound += sound
        self._decoder.process_raw(sound)
        return self._words()

    def end(self) -> str:
        """Return the words of the utterance.

        It is heard once more as a whole: as it came, the loudness of what was yet to come was
        not known, nor the pitch, and the beginning was misheard more often.
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
        self.left_out = commands.left_out
        unknown = [word for word in wake_phrase.split() if word not in entries]
        if unknown:
            raise SpeechError(
                f'The wake phrase {wake_phrase!r} cannot be heard: pocketsphinx does not know how '
                f'to pronounce {", ".join(unknown)}. Take common English words.'
            )
        rng = np.random.default_rng(_SEED)
        sentences = [commands.draw(rng) for _ in range(_SENTENCES)]
        if wake_phrase:
            # Said before half of the commands, and alone.
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
    """Return the lines of the model's dictionary by their word; a word may have several."""
    entries: dict[str, list[str]] = {}
    path = Path(get_model_path('en-us')) / 'cmudict-en-us.dict'
    for line in path.read_text(encoding='utf-8').splitlines():
        word = line.split(' ', 1)[0].partition('(')[0]
        entries.setdefault(word, []).append(line)
    return entries
