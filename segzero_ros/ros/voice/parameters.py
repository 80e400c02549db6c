"""The parameters of the node `voice`.

A params file under `/**` goes to the perception node too, so no name here is one of that node's.
"""

from __future__ import annotations

import re
from typing import Any

from segzero_ros.parameter_table import Spec, Takes

SPECS = (
    Spec(
        'source',
        'microphone',
        'Where the sound comes from.',
        Takes.AT_START,
        choices=('microphone', 'topic', 'wav'),
    ),
    Spec('microphone', '', 'A number or a part of its name; empty: the system default.',
         Takes.AT_START, accepts_integer=True),
    Spec('path', '', 'The WAV file.', Takes.AT_START),
    Spec('real_time', True, 'Give a WAV file as fast as it was spoken.', Takes.AT_START),
    Spec(
        'engine',
        'pocketsphinx',
        'What recognises the words.',
        Takes.AT_START,
        choices=('pocketsphinx', 'faster_whisper'),
    ),
    Spec(
        'vocabulary',
        'commands',
        'What pocketsphinx expects: commands about things in a picture, or English at large.',
        Takes.AT_START,
        choices=('commands', 'english'),
    ),
    Spec('nouns', '', 'Names of things to expect in commands, between commas.', Takes.AT_START),
    Spec('whisper_model', 'small.en', "Whisper's size, or the folder of a converted model.",
         Takes.AT_START),
    Spec('whisper_device', 'auto', 'Where Whisper runs: auto, cpu or cuda.', Takes.AT_START),
    Spec('language', '', 'The language that Whisper hears, such as en; empty: found out.',
         Takes.AT_START),
    Spec('wake_phrase', '', 'What has to be said before a query; empty: all that is said is one.',
         Takes.AT_START),
    Spec(
        'wake_time',
        8.0,
        'Seconds after the wake phrase alone in which the next utterance is a query.',
        Takes.AT_START,
        minimum=0,
        maximum=3600,
    ),
    Spec('min_words', 2, 'A query with fewer words is taken for noise.', Takes.AT_START,
         minimum=1, maximum=20),
    Spec('max_utterance', 15.0, 'Seconds of the longest utterance.', Takes.AT_START,
         minimum=1, maximum=120),
)  # fmt: skip
NAMES = tuple(spec.name for spec in SPECS)
_RENAMED = {'device': 'microphone', 'least_words': 'min_words', 'longest': 'max_utterance'}
# Where models run, as the perception node's parameter `device` says it.
_MODELS_DEVICE = re.compile(r'(auto|cpu|cuda|mps|xpu)(:\d+)?')


def take_old_names(given: dict[str, Any]) -> list[str]:
    """Take values that are given under the names of earlier releases.

    Args:
        given: the values that the node was started with, by name; is changed.

    Returns:
        A warning for each value that was taken so.
    """
    warnings = []
    for old, new in _RENAMED.items():
        # The models' device is the perception node's parameter.
        is_models_device = old == 'device' and _MODELS_DEVICE.fullmatch(str(given.get(old, '')))
        if given.get(old, '') == '' or is_models_device or new in given:
            continue
        given[new] = given.pop(old)
        warnings.append(f'The parameter {old} is called {new} now: rename it.')
    return warnings
