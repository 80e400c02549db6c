"""What answers are worth: what the published functions gave when they were run, and ours."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

pytest.importorskip('scipy')

from segzero_ros.training.presets import load_composition, PARTS, TrainingError

TRUE = '<box>(100,100),(300,300)</box><points>(150,150),(250,250)</points>'
BOX = [100, 100, 300, 300]
FOUND = {'bbox_2d': BOX, 'point_2d': [200, 200]}
POINT = {'point_2d': [200, 200]}
OTHER = {'bbox_2d': [500, 500, 600, 600], 'point_2d': [550, 550]}
THOUGHT = 'The left one. It is red.'


def said(answer: object, thought: str = THOUGHT) -> str:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return f'<think>{thought}</think><answer>{text}</answer>'


def one(
    box: object = BOX,
    first: object = (150, 150),
    second: object = (250, 250),
    keys: tuple[str, str, str] = ('bbox', 'points_1', 'points_2'),
    thought: str = THOUGHT,
) -> str:
    return said(dict(zip(keys, (box, first, second), strict=True)), thought)


def worth(preset: str, completion: str, solution: object) -> float:
    text = solution if isinstance(solution, str) else json.dumps(solution)
    return load_composition(preset)(completion, text)


# name: completion, soft total, strict total
SINGLE = {
    'perfect': (one(), 5, 5),
    'points exchanged': (one(first=(250, 250), second=(150, 150)), 5, 5),
    'single quotes': (one().replace('"', "'"), 1, 1),
    'point_1': (one(keys=('bbox', 'point_1', 'point_2')), 4, 3),
    'keys in capitals': (one(keys=('BBox_2d', 'Points_a', 'points_b')), 5, 1),
    'ten pixels off': (one([110, 110, 310, 310]), 4, 4),
    'less than ten off': (one([110, 110, 310, 309]), 5, 5),
    'a bit over half': (one([100, 100, 200, 300]), 3, 3),
    'half': (one([100, 100, 199, 300]), 2, 2),
    'decimals': (one([100.4, 100, 300, 300.0]), 5, 5),
    'points as strings': (one(first=('150', '150')), 5, 5),
    'a point outside': (one(first=(99, 150)), 4, 4),
    'points a hundred off': (one(first=(150, 250), second=(250, 150)), 4, 4),
    'a point of three': (one(first=(150, 150, 9)), 4, 4),
    'a box of five': (one([*BOX, 5]), 1, 1),
    'a box of letters': (one('abcd'), 2, 1),
    'trailing newline': (one() + '\n', 4, 4),
    'empty thought': (one(thought=''), 5, 5),
    'braces in the thought': (one(thought='a {x} b'), 1, 1),
    'nested': (said('{"o": {"bbox": [1, 2, 3, 4]}}'), 1, 1),
    'in a list': (said(f'[{json.dumps({"bbox": BOX, "points_1": [1, 1]})}]'), 3, 3),
    'no answer': ('nothing', 0, 0),
}
MANY = {
    'perfect': (said([FOUND]), [FOUND], 7),
    'in another order': (said([OTHER, FOUND]), [FOUND, OTHER], 7),
    'given twice': (said([FOUND, FOUND]), [FOUND], 5.5),
    'one missing': (said([FOUND]), [FOUND, OTHER], 5.5),
    'none where some are': (said([]), [FOUND], 2),
    'none where none is': (said([]), [], 2),
    'some where none is': (said([FOUND]), [], 4),
    'single quotes': (said([FOUND]).replace('"', "'"), [FOUND], 2),
    'trailing newline': (said([FOUND]) + '\n', [FOUND], 6),
    'newlines in the answer': (said(f' \n{json.dumps([FOUND])}\n'), [FOUND], 7),
    'empty thought': (said([FOUND], ''), [FOUND], 7),
    'one repeat': (said([FOUND], 'x. a. a. b.'), [FOUND], 7),
    'two repeats': (said([FOUND], 'x. a. a. a.'), [FOUND], 6),
    'no list': (said(FOUND), [FOUND], 2),
    'a number': (said('5'), [FOUND], 2),
    'a number among objects': (said([FOUND, 5]), [FOUND], 3),
    'a key alone': (said(['bbox_2d']), [FOUND], 2),
    'a box of five': (said([{'bbox_2d': [*BOX, 1], 'point_2d': [200, 200]}]), [FOUND], 3),
    'point 30 off': (said([{'bbox_2d': BOX, 'point_2d': [230, 200]}]), [FOUND], 6),
    'point 29 off': (said([{'bbox_2d': BOX, 'point_2d': [229, 200]}]), [FOUND], 7),
    'point outside': (said([{'bbox_2d': BOX, 'point_2d': [99, 200]}]), [FOUND], 6),
    'ten pixels off': (
        said([{'bbox_2d': [110, 110, 310, 310], 'point_2d': [200, 200]}]),
        [FOUND],
        6,
    ),
    'decimals': (
        said([{'bbox_2d': [100.5, 100, 300, 300], 'point_2d': [200.5, 200]}]),
        [FOUND],
        7,
    ),
    'not a number': (
        said('[{"bbox_2d": [NaN, 100, 300, 300], "point_2d": [200, 200]}]'),
        [FOUND],
        4,
    ),
    'a label too': (said([FOUND | {'label': 'x'}]), [FOUND], 7),
    'two answers, the first right': (said([FOUND]) + said([OTHER]), [FOUND], 7),
    'beyond the cap': (said([FOUND] * 130), [FOUND], 4 + 3 / 120),
    'no answer': ('x', [FOUND], 1),
    'a point alone': (said([POINT]), [FOUND], 3),
    'a box alone': (said([{'bbox_2d': BOX}]), [FOUND], 3),
    'the truth a point alone': (said([FOUND]), [POINT], 4),
}


@pytest.mark.parametrize(('completion', 'soft', 'strict'), SINGLE.values(), ids=SINGLE)
def test_one_object_is_worth_what_seg_zero_says(completion, soft, strict):
    assert worth('seg_zero', completion, TRUE) == pytest.approx(soft, abs=1e-9)
    assert worth('seg_zero_strict', completion, TRUE) == pytest.approx(strict, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(('completion', 'true', 'total'), MANY.values(), ids=MANY)
def test_several_objects_are_worth_what_vision_reasoner_says(completion, true, total):
    assert worth('vision_reasoner', completion, true) == pytest.approx(total, abs=1e-9)


@pytest.mark.slow
@given(st.text(), st.text())
def test_published_parts_take_any_text(completion, solution):
    for preset in ('seg_zero', 'seg_zero_strict', 'vision_reasoner'):
        assert 0 <= worth(preset, completion, solution) <= 7


class TestRobot:
    @pytest.mark.slow
    def test_an_honest_empty_answer_is_worth_as_much_as_a_perfect_one(self):
        empty = worth('robot', said([]), [])
        assert empty == worth('robot', said([FOUND]), [FOUND]) == 6.5
        assert worth('robot', said([]), [FOUND]) == worth('robot', said([FOUND]), []) == 3.5

    @pytest.mark.parametrize('thought', ['', '  \n', 'ok', '<b>one two three</b>'])
    def test_an_empty_thought_is_worth_nothing(self, thought):
        values = load_composition('robot').parts(said([FOUND], thought), json.dumps([FOUND]))
        assert values['thinking_stated'] == values['brevity'] == 0

    def test_long_thoughts_cost(self):
        parts = [
            PARTS['brevity'](said([], ' '.join(['so'] * words)), '')
            for words in (3, 40, 100, 160, 500)
        ]
        assert parts == [1, 1, 0.5, 0, 0]

    def test_accuracy_rises_with_every_pixel(self):
        true = json.dumps([FOUND])
        values = [
            PARTS['honest_accuracy'](
                said([{'bbox_2d': [100 + off, 100, 300, 300], 'point_2d': [200, 200 - off]}]), true
            )
            for off in (40, 20, 9, 1, 0)
        ]
        assert values == sorted(values)
        assert len(set(values)) == 5
        assert values[-1] == 3

    @pytest.mark.parametrize(
        ('answer', 'true', 'accuracy'),
        [
            ([POINT], [FOUND], 1),
            ([{'bbox_2d': BOX}], [FOUND], 2),
            ([POINT], [POINT], 3),
            ([{'point_2d': [230, 200]}], [POINT], 1.5),
            ([{'point_2d': [260, 200]}], [POINT], 0),
            ([FOUND], [POINT], 3),
            # A point outside its own box is worth nothing, as published.
            ([{'bbox_2d': OTHER['bbox_2d'], 'point_2d': [200, 200]}], [POINT], 0),
            ([{'bbox_2d': BOX}], [POINT], 0),
            ([POINT, POINT], [POINT], 1.5),
            ([FOUND, {'point_2d': [550, 550]}], [FOUND, OTHER], 2),
            ([{'point_2d': [550, 550]}, POINT], [POINT, {'point_2d': [550, 550]}], 3),
            ([], [POINT], 0),
            ([POINT], [], 0),
        ],
    )
    def test_objects_without_a_box_are_worth_their_points(self, answer, true, accuracy):
        values = load_composition('robot').parts(said(answer), json.dumps(true))
        assert values['honest_accuracy'] == pytest.approx(accuracy, abs=1e-9)
        assert values['answer_readable'] == 1

    @pytest.mark.parametrize(
        'item',
        [
            {},
            {'label': 'x'},
            {'point_2d': None},
            {'point_2d': [1]},
            {'bbox_2d': None, 'point_2d': [1, 2]},
            {'bbox_2d': [1, 2, 3], 'point_2d': [1, 2]},
            {'bbox_2d': BOX, 'point_2d': []},
            {'point_2d': [1, float('nan')]},
        ],
    )
    def test_what_is_neither_box_nor_point_cannot_be_read(self, item):
        values = load_composition('robot').parts(said([item]), json.dumps([POINT]))
        assert values['honest_accuracy'] == values['answer_readable'] == 0

    @pytest.mark.parametrize('true', [[{'bbox_2d': BOX}], [{}], [POINT, {'bbox_2d': BOX}], 5])
    def test_a_truth_without_points_is_refused(self, true):
        with pytest.raises(ValueError, match='is not a list of points'):
            PARTS['honest_accuracy'](said([FOUND]), json.dumps(true))

    def test_guessing_everything_is_not_worth_it(self):
        both = PARTS['honest_accuracy'](said([FOUND, OTHER]), json.dumps([FOUND]))
        assert both == 1.5

    @pytest.mark.slow
    @given(st.text() | st.recursive(st.floats() | st.text(), st.lists).map(json.dumps))
    def test_it_takes_any_text(self, text):
        assert 0 <= worth('robot', said(text), [FOUND]) <= 6.5


class TestComposition:
    def test_own_weights(self, tmp_path: Path):
        file = tmp_path / 'mine.yaml'
        file.write_text('list_accuracy: 2\nbrevity: 0.5\n')
        assert load_composition(file)(said([FOUND]), json.dumps([FOUND])) == 6.5

    @pytest.mark.parametrize(
        ('text', 'reason'),
        [
            ('listaccuracy: 1', 'there is no part'),
            ('brevity: much', 'is not a number'),
            ('brevity: .inf', 'not finite'),
            ('- brevity', 'has no'),
            ('{', 'cannot be read'),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, text: str, reason: str):
        file = tmp_path / 'mine.yaml'
        file.write_text(text)
        with pytest.raises(TrainingError, match=reason):
            load_composition(file)

    def test_an_unknown_preset_names_those_that_are(self):
        with pytest.raises(TrainingError, match='seg_zero, seg_zero_strict, vision_reasoner'):
            load_composition('grpo')
