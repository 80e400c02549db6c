"""Sentences about what things are for mean all things of the class, and leave no doubt."""

import numpy as np
import pytest

from segzero_ros.simulation import make_scene
from segzero_ros.simulation.affordances import _USES, affordance_sentences

SEEDS = range(40, 70)


@pytest.mark.slow
def test_all_of_the_class_are_meant_and_nothing_else_would_do():
    asked = 0
    for seed in SEEDS:
        scene = make_scene(seed, width=320, height=240, sentences=False)
        for sentence in affordance_sentences(scene, 3):
            asked += 1
            (kind, others) = next((k, o) for texts, k, o in _USES if sentence.text in texts)
            seen = [item for item in scene.objects if item.area > 0]
            of_class = [i for i, item in enumerate(scene.objects) if item.kind == kind]
            assert set(sentence.targets) <= set(of_class)
            assert {i for i in of_class if scene.objects[i].area} == set(sentence.targets)
            assert not {item.kind for item in seen} & set(others)
    assert asked > len(SEEDS) / 2


@pytest.mark.slow
def test_a_scene_is_asked_the_same_each_time_and_others_are_asked_otherwise():
    scenes = [make_scene(seed, width=320, height=240, sentences=False) for seed in SEEDS]
    texts = [tuple(one.text for one in affordance_sentences(scene, 2)) for scene in scenes]
    assert texts == [tuple(one.text for one in affordance_sentences(scene, 2)) for scene in scenes]
    assert len(set(np.concatenate(texts))) > 6
