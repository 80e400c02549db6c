"""Answers that are not quite as taught, by dialect: what is read of them, and what never is.

The image has 1000 by 1000 pixels, and all coordinates are thousandths of its sides or pixels of
840 by 840: so each family's own box is (100, 200, 500, 800).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from segzero_ros.reasoning.answer_entries import objects_in
from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.types import Box, GroundedObject, Grounding, MalformedAnswer, Point, Task

SIDE = 1000
BOX: Box = (100, 200, 500, 800)
OTHER: Box = (600, 100, 900, 300)
POINT: Point = (300, 500)
SECOND: Point = (700, 200)


class Family(NamedTuple):
    """How a dialect writes, with {box} and {point} for the numbers of the first object.

    Attributes:
        entry: a complete entry.
        other: another one, of OTHER.
        answer: around the list, with {list}.
        units: answered units per pixel.
        points: what the entry has.
    """

    entry: str
    other: str
    answer: str
    units: float = 1.0
    points: tuple[Point, ...] = ()


LABELLED = Family(
    '{"bbox_2d": [100, 200, 500, 800], "label": "mug"}',
    '{"bbox_2d": [600, 100, 900, 300], "label": "mug"}',
    '```json\n{list}\n```',
)
TAGGED = Family(
    '{"bbox_2d": [84, 168, 420, 672], "point_2d": [252, 420]}',
    '{"bbox_2d": [504, 84, 756, 252], "point_2d": [588, 168]}',
    '<think>It is there.</think><answer>{list}</answer>',
    0.84,
    (POINT,),
)
FAMILIES = {
    'vision_reasoner': TAGGED,
    'qwen2_vl': LABELLED,
    'qwen3_vl': LABELLED,
    'qwen3_5': LABELLED,
    'embodied_r1_5': LABELLED._replace(
        answer='It is there. <answer>```json\n{list}\n```</answer>'
    ),
}


def read(name: str, text: str, parser: str = 'repair', task: Task = Task.SEGMENT) -> Grounding:
    """Read an answer, whole and letter by letter; both are the same."""
    results = []
    for pieces in ([text], list(text)):
        told: list[GroundedObject] = []
        reader = dialect_named(name).for_task(task).reader(SIDE, SIDE, parser)
        reporter = StreamReporter(reader, on_object=told.append)
        for piece in pieces:
            reporter.feed(piece)
        try:
            results.append(reporter.finish())
        except MalformedAnswer as error:
            results.append(error.reason)
            continue
        assert tuple(told) == results[-1].objects
    assert results[0] == results[1]
    if isinstance(results[0], str):
        raise MalformedAnswer(results[0], text)
    return results[0]


def places(grounding: Grounding) -> list[tuple[Box | None, tuple[Point, ...]]]:
    """Return boxes and points, rounded to pixels."""
    return [
        (
            None if one.box is None else tuple(map(round, one.box)),  # type: ignore[misc]
            tuple((round(x), round(y)) for x, y in one.points),
        )
        for one in grounding.objects
    ]


@pytest.mark.parametrize('name', FAMILIES)
class TestLists:
    def first(self, name: str) -> tuple[Box, tuple[Point, ...]]:
        return BOX, FAMILIES[name].points

    def test_the_taught_form_is_read_without_a_remark(self, name: str) -> None:
        family = FAMILIES[name]
        for entries, count in ((f'[{family.entry}]', 1), (f'[{family.entry}, {family.other}]', 2)):
            grounding = read(name, family.answer.replace('{list}', entries))
            assert places(grounding)[0] == self.first(name) and len(grounding.objects) == count
            assert grounding.note == ''

    @pytest.mark.parametrize(
        'wrapped',
        [
            '{"objects": [%s, %s]}',
            '{"count": 2, "objects": [%s, %s]}',
            '[{"objects": [%s, %s]}]',
            '{"mug": [%s], "cup": [%s]}',
            '{"first": %s, "second": %s}',
            '[{"object": %s}, {"object": %s}]',
            '%s, %s',
            '%s\n%s',
            '[%s][%s]',
            '[%s %s]',
            '[%s, %s,]',
            'Here: [%s, %s] as asked',
        ],
    )
    @pytest.mark.parametrize('quotes', ['"', "'"])
    def test_objects_are_never_mixed_or_lost_in_what_is_around_them(
        self, name: str, wrapped: str, quotes: str
    ) -> None:
        family = FAMILIES[name]
        body = (wrapped % (family.entry, family.other)).replace('"', quotes)
        grounding = read(name, family.answer.replace('{list}', body))
        assert [box for box, _ in places(grounding)] == [BOX, OTHER]
        assert places(grounding)[0] == self.first(name)

    @pytest.mark.parametrize(
        'cut', [',', '', ', ', ', {', ', {"bbox_2d": [1', ', {"bbox_2d": [1, 2, 3, 4]']
    )
    def test_a_list_that_is_cut_off_keeps_what_is_complete_and_says_so(
        self, name: str, cut: str
    ) -> None:
        family = FAMILIES[name]
        start = family.answer.partition('{list}')[0]
        grounding = read(name, f'{start}[{family.entry}{cut}')
        assert places(grounding) == [self.first(name)]
        assert 'cut off; 1 complete objects are kept' in grounding.note

    def test_numbers_may_be_text_decimals_or_corners(self, name: str) -> None:
        family = FAMILIES[name]
        x1, y1, x2, y2 = (round(value * family.units) for value in BOX)
        for box in (
            f'["{x1}", "{y1}", "{x2}", "{y2}"]',
            f'[{x1}.0, {y1}.0, {x2}.0, {y2}.0]',
            f'["{x1}.0", {y1}, {x2}, "{y2}"]',
            f'[[{x1}, {y1}], [{x2}, {y2}]]',
        ):
            grounding = read(name, family.answer.replace('{list}', f'[{{"bbox_2d": {box}}}]'))
            assert [place[0] for place in places(grounding)] == [BOX], box

    def test_points_may_be_pairs_in_a_list(self, name: str) -> None:
        family = FAMILIES[name]
        (x, y), (u, v) = (
            [round(value * family.units) for value in each] for each in (POINT, SECOND)
        )
        task = Task.POINT if Task.POINT in dialect_named(name).tasks else Task.SEGMENT
        for body, points in (
            (f'[{{"point_2d": [{x}, {y}]}}]', (POINT,)),
            (f'[{{"point_2d": [[{x}, {y}]]}}]', (POINT,)),
            (f'[{{"point_2d": ["{x}", "{y}"]}}]', (POINT,)),
            (f'{{"point_2d": [{x}, {y}]}}', (POINT,)),
            (f'[{{"point_2d": [[{x}, {y}], [{u}, {v}]]}}]', (POINT, SECOND)),
            (f'[{{"points": [[{x}, {y}], [{u}, {v}]], "label": "mug"}}]', (POINT, SECOND)),
            (f"[{{'points': [[{x}, {y}], [{u}, {v}]]}}]", (POINT, SECOND)),
            (f'[{{"label": "mug", "point": [{x}, {y}]}}]', (POINT,)),
        ):
            grounding = read(name, family.answer.replace('{list}', body), task=task)
            assert places(grounding) == [(None, points)], body

    def test_beside_a_box_its_points_are_read_or_left_out(self, name: str) -> None:
        family = FAMILIES[name]
        x, y = (round(value * family.units) for value in POINT)
        box = [round(value * family.units) for value in BOX]
        for point, points in (
            (f'[[{x}, {y}]]', (POINT,)),
            ('[]', ()),
            ('null', ()),
            ('"here"', ()),
            ('[1, 2, 3, 4]', ()),
        ):
            body = f'[{{"point_2d": {point}, "bbox_2d": {box}}}]'
            if name == 'vision_reasoner' and point == '[1, 2, 3, 4]':
                continue  # The published code takes the first two.
            grounding = read(name, family.answer.replace('{list}', body))
            assert places(grounding) == [(BOX, points)], point

    @pytest.mark.parametrize('label', ['红色的杯子', 'der rote Becher', 'كوب', 'a [1] {b}'])
    def test_a_label_in_any_language_changes_nothing(self, name: str, label: str) -> None:
        family = FAMILIES[name]
        entry = family.entry.replace('"label": "mug"', f'"label": "{label}"')
        (found,) = read(name, family.answer.replace('{list}', f'[{entry}]')).objects
        assert found.label == (label if 'label' in entry else '')

    @pytest.mark.parametrize(
        'empty', ['[]', '[ ]', '{"objects": []}', '{"count": 0, "objects": []}']
    )
    def test_an_empty_list_is_nothing_found(self, name: str, empty: str) -> None:
        assert read(name, FAMILIES[name].answer.replace('{list}', empty)).objects == ()

    @pytest.mark.parametrize(
        'body',
        [
            '',
            'none',
            'null',
            '[[]]',
            '[{}]',
            '[null]',
            '[[100, 200, 500, 800]]',
            '[100, 200, 500, 800]',
            '[{"label": "mug"}]',
            '{"bbox_2d": []}',
            '[{"bbox_2d": []}]',
            '[{"bbox_2d": null}]',
            '[{"bbox_2d": [100, 200, 500]}]',
            '[{"bbox_2d": ["100", "200", "a", "800"]}]',
            '[{"bbox_2d": ["100", "200", "inf", "800"]}]',
            '[{"bbox_2d": ["100", "200", "nan", "800"]}]',
            '[{"bbox_2d": "100, 200, 500, 800"}]',
            '[{"bbox_2d": [[100, 200, 500, 800], [1, 2, 3, 4]]}]',
            '[{"bbox_2d": {"x1": 100, "y1": 200}}]',
            # Gemini's name has y before x.
            '[{"box_2d": [100, 200, 500, 800]}]',
            '[{"point_2d": [100]}]',
            '[{"point_2d": [[100, 200], [300]]}]',
            '[{"point_2d": {"x": 100, "y": 200}}]',
            '{"objects": [{"bbox_2d": [100, 200',
            "{'objects': [{'bbox_2d': [100, 200]}, {'point_2d': [1]}]}",
        ],
    )
    def test_nothing_is_made_up(self, name: str, body: str) -> None:
        text = FAMILIES[name].answer.replace('{list}', body)
        with pytest.raises(MalformedAnswer) as error:
            read(name, text)
        assert error.value.raw_answer == text and error.value.reason

    def test_entries_that_cannot_be_read_are_counted(self, name: str) -> None:
        family = FAMILIES[name]
        body = f'[{family.entry}, {{"bbox_2d": [1, 2]}}, {{"objects": [{{"label": "x"}}]}}]'
        grounding = read(name, family.answer.replace('{list}', body))
        assert places(grounding) == [self.first(name)]
        assert '2 entries could not be read' in grounding.note

    def test_what_lies_outside_of_the_image_is_handed_on(self, name: str) -> None:
        units = FAMILIES[name].units
        box = [round(value * units) for value in (-100, 0, 2000, 3000)]
        text = FAMILIES[name].answer.replace('{list}', f'[{{"bbox_2d": {box}}}]')
        ((box, _),) = places(read(name, text))
        assert box == pytest.approx((-100, 0, 2000, 3000), abs=1)

    def test_a_draft_in_the_reasoning_is_no_object(self, name: str) -> None:
        family = FAMILIES[name]
        start, _, end = family.answer.partition('{list}')
        start = start.removeprefix('<think>It is there.</think>')
        drafts = f'<think>Perhaps {family.other} or [{family.other}]?</think>'
        assert places(read(name, f'{drafts}{start}[{family.entry}]{end}')) == [self.first(name)]
        assert read(name, f'{drafts}{start}[]{end}').objects == ()
        for cut in (
            drafts.removesuffix('</think>'),
            drafts,
            f'{drafts}{start}',
            f'{drafts}{start}[{{',
        ):
            with pytest.raises(MalformedAnswer):
                read(name, cut)

    def test_a_number_alone_answers_how_many(self, name: str) -> None:
        if Task.COUNT not in dialect_named(name).tasks:
            pytest.skip('it does not count')
        for body, count in (('{"count": 3}', 3), ('{"count": 0}', 0), ('{"total": "2"}', 2)):
            text = FAMILIES[name].answer.replace('{list}', body)
            grounding = read(name, text, task=Task.COUNT)
            assert grounding.count == count and grounding.objects == ()
            with pytest.raises(MalformedAnswer):
                read(name, text)
        cut = FAMILIES[name].answer.partition('{list}')[0] + '{"count": 3, "objects": [{"bbox'
        with pytest.raises(MalformedAnswer):
            read(name, cut, task=Task.COUNT)


class TestQwen25:
    """Pixels of the resized image: 980 by 980 for one of 1000 by 1000."""

    ENTRY = '{"bbox_2d": [98, 196, 490, 784], "label": "mug"}'

    def read(self, text: str) -> Grounding:
        return read('qwen2_5_vl', text)

    def test_points_beside_boxes_are_not_passed_over_in_silence(self) -> None:
        grounding = self.read(f'```json\n[{self.ENTRY}, {{"point_2d": [490, 490]}}]\n```')
        assert places(grounding) == [(BOX, ()), (None, ((500, 500),))]
        assert 'repaired' in grounding.note

    @pytest.mark.parametrize(
        'text',
        [
            '<think>Perhaps {"bbox_2d": [1, 2, 3, 4]}?</think>```json\n[%s]\n```',
            '<think>Perhaps [1, 2, 3, 4]?</think>[%s]',
            '<think>\n\n</think>\n\n[%s]',
            'Hm. <think>[]</think>[%s]',
        ],
    )
    def test_a_draft_in_reasoning_is_no_object(self, text: str) -> None:
        grounding = self.read(text % self.ENTRY)
        assert places(grounding) == [(BOX, ())]
        # The published code reads no list without a fence.
        assert bool(grounding.note) == ('```' not in text)

    def test_reasoning_that_was_cut_off_is_no_answer(self) -> None:
        with pytest.raises(MalformedAnswer, match='before the reasoning does'):
            self.read(f'<think>Perhaps [{self.ENTRY}]')

    def test_the_reasoning_is_told_without_its_tags(self) -> None:
        grounding = self.read(f'<think>On the left.</think>\n[{self.ENTRY}]')
        assert grounding.reasoning == 'On the left.'

    def test_an_empty_box_is_not_an_empty_list(self) -> None:
        with pytest.raises(MalformedAnswer):
            self.read('{"bbox_2d": []}')


class TestSegZero:
    ONE = '{"bbox": [84, 168, 420, 672], "points_1": [252, 420], "points_2": [588, 168]}'
    DRAFT = '{"bbox": [1, 2, 3, 4], "points_1": [1, 2], "points_2": [1, 2]}'
    FOUND = (BOX, (POINT, SECOND))

    def read(self, answer: str, thought: str = 'x') -> Grounding:
        return read('seg_zero', f'<think>{thought}</think><answer>{answer}')

    @pytest.mark.parametrize(
        'answer',
        [
            ONE,
            f'[{ONE}]',
            ONE.replace('"', "'"),
            f'```json\n{ONE}\n```',
            f'{{"object": {ONE}}}',
            '{"points_1": [252, 420], "points_2": [588, 168], "bbox": [84, 168, 420, 672]}',
            '{"bbox": ["84", "168", "420", "672"], "points_1": ["252", "420"], '
            '"points_2": [588, 168]}',
            '{"bbox": [84, 168, 420, 672], "points": [[252, 420], [588, 168]]}',
            '{"bbox": [84, 168, 420, 672], "points_1": [[252, 420]], "points_2": [[588, 168]]}',
            '{"bbox": [[84, 168], [420, 672]], "points_1": [252, 420], "points_2": [588, 168]}',
        ],
    )
    def test_the_object_is_read(self, answer: str) -> None:
        assert places(self.read(f'{answer}</answer>')) == [self.FOUND]

    def test_a_draft_in_the_reasoning_is_never_the_object(self) -> None:
        assert places(self.read(f'{self.ONE}</answer>', self.DRAFT)) == [self.FOUND]
        assert self.read('[]</answer>', self.DRAFT).objects == ()
        for answer in ('', '</answer>', '{"bbox": [84, 168', 'none</answer>'):
            with pytest.raises(MalformedAnswer):
                self.read(answer, self.DRAFT)

    def test_a_second_object_is_left_out_and_remarked_on(self) -> None:
        for answer in (
            f'{self.ONE}, {self.DRAFT}</answer>',
            f'[{self.ONE}, {self.DRAFT}]</answer>',
        ):
            grounding = self.read(answer)
            assert places(grounding) == [self.FOUND]
            assert 'gave 1 more objects' in grounding.note

    def test_points_without_a_box_are_malformed(self) -> None:
        with pytest.raises(MalformedAnswer):
            self.read('{"points_1": [252, 420], "points_2": [588, 168]}</answer>')


class TestEmbodied:
    @pytest.mark.parametrize(
        ('answer', 'boxes'),
        [
            ('{"boxes": ["100", "200", "500", "800"]}', [BOX]),
            ('{"boxes": [[100, 200], [500, 800]]}', [BOX]),
            ('{"boxes": [[100, 200, 500, 800]]}', [BOX]),
            ("{'boxes': [[100, 200, 500, 800], [600, 100, 900, 300]]}", [BOX, OTHER]),
            ('[{"boxes": [100, 200, 500, 800]}, {"boxes": [600, 100, 900, 300]}]', [BOX, OTHER]),
            ('{"boxes": [{"bbox_2d": [100, 200, 500, 800]}]}', [BOX]),
        ],
    )
    def test_boxes_are_read(self, answer: str, boxes: list[Box]) -> None:
        grounding = read('embodied_r1_5', f'Hm. <answer>{answer}</answer>')
        assert [place[0] for place in places(grounding)] == boxes

    @pytest.mark.parametrize(
        'answer',
        [
            '{"boxes": null}',
            '{"boxes": [1, 2, 3, 4, 5, 6, 7, 8]}',
            '{"boxes": [[1, 2, 3]]}',
            '{"boxes": [[1, 2]]}',
            '{"boxes": "none"}',
        ],
    )
    def test_what_is_no_box_is_malformed(self, answer: str) -> None:
        with pytest.raises(MalformedAnswer):
            read('embodied_r1_5', f'Hm. <answer>{answer}</answer>')


class TestMolmo:
    MUG = '<points coords="1 1 300 500">mug</points>'

    def test_points_of_a_second_list_that_is_cut_off_are_missed(self) -> None:
        for parser in ('strict', 'repair'):
            with pytest.raises(MalformedAnswer, match='cut off or cannot be read'):
                read('molmo2', f'{self.MUG} and <points coords="1 1 10', parser, Task.POINT)

    @pytest.mark.parametrize('text', ['There are none!', '<think>Hm.</think>There are none.'])
    def test_that_there_are_none_is_nothing_found(self, text: str) -> None:
        assert read('molmo2', text, task=Task.POINT).objects == ()

    @pytest.mark.parametrize(
        'text',
        [
            '```\n%s\n```',
            '<think>Or <points coords="1 1 001 001">?</think>%s',
            'There is one. %s',
        ],
    )
    def test_words_around_the_points_change_nothing(self, text: str) -> None:
        assert places(read('molmo2', text % self.MUG, task=Task.POINT)) == [(None, (POINT,))]

    @pytest.mark.parametrize(
        'text',
        [
            '[{"point_2d": [300, 500]}]',
            "<points coords='1 1 300 500'>mug</points>",
            '<points coords="1 1 300 500',
            '<points coords="1,1,300,500">mug</points>',
            '<points x1="30.0" y1="50.0">mug</points>',
            'There are no mugs.',
        ],
    )
    def test_another_grammar_is_malformed(self, text: str) -> None:
        with pytest.raises(MalformedAnswer):
            read('molmo2', text, task=Task.POINT)


def test_objects_nested_too_deeply_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match='too deeply, or too long'):
        objects_in("{'a': " * 100 + "{'bbox': [1, 2, 3, 4]}" + '}' * 100)
    with pytest.raises(ValueError, match='too deeply, or too long'):
        objects_in("{'a': 1" + ' ' * 20_000 + '}')
