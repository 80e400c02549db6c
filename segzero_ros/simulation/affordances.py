"""Sentences that name an object by its use (affordance), which need world knowledge.

They are unambiguous: no sentence is made if another object of the scene could also be used.
"""

from __future__ import annotations

import numpy as np

from segzero_ros.simulation.describing import Describer
from segzero_ros.simulation.scenes import Scene, Sentence

KIND, DIFFICULTY = 'use', 'knowledge'

# Sentences; the target class; classes that could also be used.
_USES: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (
        ('something to drink coffee from', 'what would you pour hot tea into?'),
        'mug',
        ('bowl', 'can', 'bottle'),
    ),
    (
        ('something to write with', 'I have to sign a letter, what do I need?'),
        'pen',
        ('cable',),
    ),
    (
        ('something to read before going to sleep', 'what has pages?'),
        'book',
        ('box', 'napkin'),
    ),
    (
        ('something to eat soup from', 'where does the breakfast cereal go?'),
        'bowl',
        ('mug', 'plate', 'can'),
    ),
    (
        ('something to serve a slice of cake on', 'what goes under a steak at dinner?'),
        'plate',
        ('bowl', 'book', 'box', 'napkin'),
    ),
    (
        ('a toy that bounces', 'what would a child throw and catch?'),
        'ball',
        (),
    ),
    (
        ('something with a neck and a cap that holds a drink', 'what is wine sold in?'),
        'bottle',
        ('can', 'mug'),
    ),
    (
        ('food that keeps for years without a fridge', 'what needs a can opener?'),
        'can',
        ('box', 'bottle'),
    ),
)


def affordance_sentences(scene: Scene, max_count: int) -> list[Sentence]:
    """Return up to `max_count` sentences about uses, each of another class.

    Deterministic for a scene. All objects of the class are targets.
    """
    rng = np.random.default_rng((scene.seed, 1))
    describer = Describer(scene)
    found = []
    for number in rng.permutation(len(_USES)):
        texts, kind, others = _USES[number]
        truth = describer.of_classes((kind,), others)
        targets = tuple(int(index) for index in np.flatnonzero(truth == 1))
        # Partly hidden objects of the class are ambiguous.
        if targets and not ((truth > 0) & (truth < 1)).any():
            text = texts[int(rng.integers(len(texts)))]
            found.append(Sentence(text, KIND, DIFFICULTY, targets))
    return found[:max_count]
