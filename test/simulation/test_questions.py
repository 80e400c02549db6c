"""Questions about scenes have the answers that the ground truth gives."""

import re

from segzero_ros.simulation import make_scene
from segzero_ros.simulation.questions import make_questions

NOUNS = {
    'mug': 'mug', 'bowl': 'bowl', 'bottle': 'bottle', 'plate': 'plate', 'cone': 'cone',
    'ball': 'ball', 'sphere': 'ball', 'tin': 'can', 'pencil': 'pen', 'cup': 'mug',
}  # fmt: skip
# What is not a colour in a question about a class alone.
PLAIN = {
    'how', 'many', 'are', 'there', 'do', 'you', 'see', 'on', 'the', 'table', 'count', 'what', 'is',
    'number', 'of', 'tell', 'me', 'can', 'a', 'any', 'whether', 'in', 'picture', 'an',
}  # fmt: skip


def test_a_scene_has_the_same_questions_each_time():
    scene = make_scene(42_000, sentences=False)
    assert make_questions(scene, 2) == make_questions(scene, 2)
    assert {question.kind for question in make_questions(scene)} == {'count', 'present', 'absent'}


def test_the_answers_are_the_scenes():
    exact = coloured = 0
    for seed in range(42_000, 42_008):
        scene = make_scene(seed, sentences=False)
        for question in make_questions(scene, 4):
            assert question.kind == 'count' or bool(question.number) == (
                question.kind == 'present'
            )
            words = re.findall('[a-z]+', question.text.lower())
            nouns = [w for w in words if w.removesuffix('s') in NOUNS]
            if len(nouns) != 1:
                continue
            kind = NOUNS[nouns[0].removesuffix('s')]
            there = sum(item.kind == kind and item.area > 0 for item in scene.objects)
            if set(words) - set(nouns) <= PLAIN:
                assert question.number == there, question
                exact += 1
            else:
                assert question.number <= there, question
                coloured += 1
    assert exact > 5
    assert coloured > 5
