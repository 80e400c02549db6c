"""Accuracy of spoken queries about generated scenes.

    python -m benchmarks.voice --scenes 20

espeak-ng synthesises the queries, white noise is added, pocketsphinx recognises them, and the
profile `offline` answers. Each query is also sent as text, to separate recognition errors.
`english` is the same recogniser with its model of general English instead of commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
import sys
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test'))

from speaking import speech, write_wav

from segzero_ros.config import load_pipeline, read_profile
from segzero_ros.pipeline import Pipeline
from segzero_ros.simulation import make_scene, Scene
from segzero_ros.simulation.scenes import Sentence
from segzero_ros.speech.pocketsphinx_recogniser import PocketsphinxRecogniser
from segzero_ros.speech.recogniser_loop import RecogniserLoop, SpeechCallbacks, WakePhrase
from segzero_ros.speech.wav_source import WavSource
from segzero_ros.types import Query

RIGHT = 0.5
SPEAKERS = (('en-us', 150), ('en-us+m3', 150), ('en-us+f2', 150), ('en-gb', 150))


def is_right(pipeline: Pipeline, scene: Scene, sentence: Sentence, text: str) -> bool:
    """Return whether the answer to a text has an IoU of at least 0.5 with the targets."""
    if not text:
        return False
    answer = pipeline.answer(scene.frame, Query(text))
    size = scene.labels.shape
    found = np.zeros(size, np.bool_)
    for segment in answer.segments:
        found |= segment.full_mask(*size)
    true = np.any([scene.mask(index) for index in sentence.targets], axis=0)
    return bool((found & true).sum() / max((found | true).sum(), 1) >= RIGHT)


def hear(recogniser: PocketsphinxRecogniser, path: Path) -> str:
    """Return the recognised text of a recording."""
    heard: list[str] = []
    listening = RecogniserLoop(recogniser, WakePhrase())
    nothing = SpeechCallbacks(heard.append, lambda _: None, lambda *_: None)
    listening.run(WavSource(path, real_time=False), nothing)
    return ' '.join(heard)


def word_errors(said: str, heard: str) -> int:
    """Return the edit distance in words."""
    a, b = said.lower().replace('?', '').replace(',', '').split(), heard.split()
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        row[0], before = i, i - 1
        for j, other in enumerate(b, 1):
            row[j], before = min(row[j] + 1, row[j - 1] + 1, before + (word != other)), row[j]
    return row[-1]


def sentences(scenes: int, seed: int) -> Iterator[tuple[Scene, Sentence]]:
    """Yield three sentences with targets of each scene."""
    for number in range(seed, seed + scenes):
        scene = make_scene(number)
        meant = [sentence for sentence in scene.sentences if sentence.targets]
        rng = np.random.default_rng(number)
        for index in rng.permutation(len(meant))[:3]:
            yield scene, meant[index]


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=20)
    parser.add_argument('--seed', type=int, default=600_000)
    parser.add_argument('--noise', type=float, default=20.0, help='dB below the speech')
    parser.add_argument('--show', action='store_true', help='print recognition errors')
    options = parser.parse_args()
    pipeline = load_pipeline(read_profile('offline'))
    ears = {name: PocketsphinxRecogniser(name) for name in ('commands', 'english')}
    typed = 0
    right, exact, errors = dict.fromkeys(ears, 0), dict.fromkeys(ears, 0), dict.fromkeys(ears, 0)
    count = words = 0
    spoken_s = 0.0
    heard_s = dict.fromkeys(ears, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for scene, sentence in sentences(options.scenes, options.seed):
            voice, speed = SPEAKERS[count % len(SPEAKERS)]
            samples, rate = speech(
                sentence.text, voice=voice, speed=speed, noise_db=options.noise, seed=count
            )
            path = write_wav(Path(folder) / 'said.wav', samples, rate)
            spoken_s += len(samples) / rate
            count += 1
            words += len(sentence.text.split())
            typed += is_right(pipeline, scene, sentence, sentence.text)
            for name, ear in ears.items():
                started = time.perf_counter()
                heard = hear(ear, path)
                heard_s[name] += time.perf_counter() - started
                wrong = word_errors(sentence.text, heard)
                errors[name] += wrong
                exact[name] += not wrong
                right[name] += is_right(pipeline, scene, sentence, heard)
                if options.show and wrong and name == 'commands':
                    print(f'{sentence.text!r} was heard as {heard!r}')
    table = Table(title=f'{count} sentences, noise {options.noise:g} dB below the speech')
    for column in ('', 'right object', 'word for word', 'word error rate', 'of real time'):
        table.add_column(column, justify='left' if not column else 'right')
    table.add_row('typed', f'{typed / count:.0%}', '', '', '')
    for name in ears:
        table.add_row(
            f'spoken, {name}',
            f'{right[name] / count:.0%}',
            f'{exact[name] / count:.0%}',
            f'{errors[name] / words:.0%}',
            f'{heard_s[name] / spoken_s:.2f}',
        )
    Console(width=100).print(table)


if __name__ == '__main__':
    main()
