"""Flat shapes on photographs: what is asked is there, where the truth says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.training.flat_shapes import ask_about, flat_row, Shape
from segzero_ros.training.mini.vocabulary import make_tokenizer
from segzero_ros.training.rewards import answered_list
from segzero_ros.training.robot_rewards import honest_accuracy
from segzero_ros.training.row_sources import open_rows

pytest.importorskip('skimage')
SIDE = 224
ROWS = [flat_row(SIDE, seed) for seed in range(150)]


def test_boxes_and_points_lie_on_paint_of_the_colour_that_is_asked() -> None:
    met = set()
    for row in ROWS:
        colour = next(word for word in row.problem.split() if word in ROW_COLOURS)
        low, high = ROW_COLOURS[colour]
        for item in json.loads(row.solution):
            x1, y1, x2, y2 = item['bbox_2d']
            x, y = item['point_2d']
            assert 0 <= x1 < x2 <= SIDE
            assert 0 <= y1 < y2 <= SIDE
            assert x1 <= x < x2
            assert y1 <= y < y2
            paint = row.image[y, x].astype(int)
            assert (paint >= low).all()
            assert (paint <= high).all()
            # The box is tight: each of its sides touches the same paint.
            same = (row.image[y1:y2, x1:x2] == row.image[y, x]).all(-1)
            assert same[0].any()
            assert same[-1].any()
            assert same[:, 0].any()
            assert same[:, -1].any()
            met.add(colour)
    assert len(met) == len(ROW_COLOURS)


# Lowest and highest red, green and blue.
ROW_COLOURS = {
    'red': ((100, 0, 0), (225, 60, 60)),
    'yellow': ((200, 160, 0), (255, 255, 80)),
    'green': ((0, 65, 0), (150, 240, 150)),
    'blue': ((0, 20, 80), (180, 240, 255)),
    'purple': ((40, 10, 75), (150, 100, 175)),
    'white': ((220, 220, 220), (255, 255, 255)),
    'black': ((0, 0, 0), (45, 45, 45)),
}


@pytest.mark.slow
def test_questions_mean_none_one_or_several_and_are_in_known_words() -> None:
    counts = [len(json.loads(row.solution)) for row in ROWS]
    assert {0, 1, 2} <= set(counts)
    assert 0.05 < counts.count(0) / len(counts) < 0.3
    tokenizer = make_tokenizer()
    for row in ROWS:
        assert len(tokenizer.tokenize(row.problem)) == len(row.problem.split())
        several = row.problem.startswith('all ')
        assert len(json.loads(row.solution)) > 1 if several else True


def test_the_side_that_is_named_is_the_side_that_is_meant() -> None:
    rng = np.random.default_rng(0)
    shapes = [
        Shape('star', colour, (x, 10, x + 20, 30), (x + 10, 20))
        for x, colour in ((150, 'red'), (10, 'blue'), (50, 'red'), (100, 'red'), (200, 'blue'))
    ]
    asked = [ask_about(shapes, rng) for _ in range(100)]
    for words, colour, lefts in (
        ('the leftmost red', 'red', [50]),
        ('the rightmost red', 'red', [150]),
        ('all red', 'red', [50, 100, 150]),
        ('the leftmost blue', 'blue', [10]),
        ('the green', 'green', []),
    ):
        found = [meant for question, meant in asked if question.startswith(words)]
        assert found
        for meant in found:
            assert sorted(shape.box[0] for shape in meant) == lefts
            assert {shape.colour for shape in meant} <= {colour}


def test_they_are_rows_like_others_and_the_same_whenever_they_are_asked() -> None:
    mini = dialect_named('mini')
    row = open_rows('shapes', mini, 10).read(3)
    again = open_rows('shapes:3000000', mini, 10).read(3)
    assert row.image.shape == (SIDE, SIDE, 3)
    assert (row.image == again.image).all()
    assert (row.problem, row.solution) == (again.problem, again.solution)
    answer = f'<think>so it is</think><answer>{row.solution}</answer>'
    assert answered_list(answer) == json.loads(row.solution)
    assert honest_accuracy(answer, row.solution) == 3.0
