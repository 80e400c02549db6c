"""Prompts and answers of the published checkpoints.

The oracles restate the published readings on their own, regular expressions and all, so that the
package's linear-time readers are held against them and not against themselves.
"""

from __future__ import annotations

import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from benchmarks.published_reading import read_list, read_single
from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.dialects import dialect_named, DIALECTS
from segzero_ros.types import GroundedObject, Grounding, MalformedAnswer

VISION_REASONER = dialect_named('vision_reasoner')
SEG_ZERO = dialect_named('seg_zero')
QWEN = dialect_named('qwen2_5_vl')
QWEN2 = dialect_named('qwen2_vl')
MINI = dialect_named('mini')

TWO_CUPS = (
    '<think>Two cups, one red. The left one fits.</think><answer>[{"bbox_2d": [10,100,200,210], '
    '"point_2d": [30,110]}, {"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)
ONE_CUP = (
    '<think>A cup.</think><answer>{"bbox": [10,100,200,210], "points_1": [30,110], '
    '"points_2": [35,180]}</answer>'
)


def strict(dialect_name: str, text: str, width: int = 840, height: int = 840) -> Grounding:
    return dialect_named(dialect_name).parse(text, width, height, 'strict')


def as_published(found: GroundedObject) -> tuple[list[float], list[list[float]]]:
    return list(found.box), [list(point) for point in found.points]


def boxes(grounding: Grounding) -> list[tuple[float, ...]]:
    return [found.box for found in grounding.objects]


class TestPrompts:
    def test_vision_reasoner_gets_its_published_prompt(self) -> None:
        assert VISION_REASONER.prompt('The RED "cup"?') == (
            'Please find "the red "cup" with bboxs and points.Compare the difference between '
            'object(s) and find the most closely matched object(s).Output the thinking process '
            'in <think> </think> and final answer in <answer> </answer> tags.Output the bbox(es) '
            'and point(s) inside the interested object(s) in JSON format.i.e., <think> thinking '
            'process here </think><answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
            '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
        )

    def test_seg_zero_gets_its_published_prompt(self) -> None:
        assert SEG_ZERO.prompt('The unusual object?.') == (
            "Please find 'the unusual object?' with bbox and points.Compare the difference "
            'between objects and find the most closely matched one.Output the thinking process '
            'in <think> </think> and final answer in <answer> </answer> tags.Output the one bbox '
            'and points of two largest inscribed circles inside the interested object in JSON '
            'format.i.e., <think> thinking process here </think><answer>'
            "{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>"
        )

    def test_plain_qwen_gets_the_published_baseline_prompt(self) -> None:
        assert QWEN.prompt('The Cup.') == (
            'Locate "The Cup.", report the bboxes coordinates in JSON format.'
        )
        assert QWEN2.prompt('a cup').startswith('Please identify "a cup" in the image.')

    def test_the_small_reasoner_gets_the_bare_question(self) -> None:
        assert MINI.prompt(' The RED ball? ') == 'the red ball'

    @pytest.mark.parametrize('name', DIALECTS)
    def test_braces_in_a_query_stay_as_they_are(self, name: str) -> None:
        assert '{0} {name}' in dialect_named(name).prompt('find {0} {name}')

    def test_an_unknown_dialect_is_named_with_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match=r'no dialect .klingon.*vision_reasoner.*qwen2_vl'):
            dialect_named('klingon')


class TestSizes:
    @pytest.mark.parametrize('size', [(1920, 1080), (32, 2000), (840, 840)])
    def test_trained_dialects_squash_every_image_to_840(self, size: tuple[int, int]) -> None:
        assert VISION_REASONER.image_size(*size) == SEG_ZERO.image_size(*size) == (840, 840)

    def test_qwen2_vl_coordinates_are_thousandths(self) -> None:
        text = '```json\n[{"bbox": [100, 200, 500, 1000], "label": "cup"}]\n```'
        (found,) = QWEN2.parse(text, 640, 480).objects
        assert found == GroundedObject((64.0, 96.0, 320.0, 480.0), (), 'cup')

    def test_qwen2_5_vl_coordinates_are_pixels_of_the_resized_image(self) -> None:
        text = '```json\n[{"bbox_2d": [644, 476, 0, 238], "label": "cup"}]\n```'
        assert QWEN.image_size(640, 480) == (644, 476)
        assert boxes(QWEN.parse(text, 640, 480)) == [(640.0, 480.0, 0.0, 240.0)]

    def test_the_small_reasoner_s_coordinates_are_pixels_of_its_square(self) -> None:
        text = (
            '<think>ball: [56, 112]</think>'
            '<answer>[{"bbox_2d": [28, 56, 84, 224], "point_2d": [56, 112]}]</answer>'
        )
        assert MINI.image_size(640, 480) == (224, 224)
        (found,) = MINI.parse(text, 640, 480, 'strict').objects
        assert found == GroundedObject((80.0, 120.0, 240.0, 480.0), ((160.0, 240.0),))


class TestStrictReading:
    def test_two_objects_are_scaled_to_the_source(self) -> None:
        grounding = strict('vision_reasoner', TWO_CUPS, 1680, 420)
        assert grounding.objects == (
            GroundedObject((20.0, 50.0, 400.0, 105.0), ((60.0, 55.0),)),
            GroundedObject((450.0, 148.0, 1412.0, 393.0), ((604.0, 205.0),)),
        )
        assert grounding.reasoning == 'Two cups, one red. The left one fits.'
        assert grounding.raw_answer == TWO_CUPS
        assert grounding.note == ''

    def test_halves_go_up_in_lists_and_to_even_in_single_answers(self) -> None:
        many = '<answer>[{"bbox_2d": [1,3,5,7], "point_2d": [9,11]}]</answer>'
        one = '<think>x</think>{"bbox": [1,3,5,7], "points_1": [9,11], "points_2": [13,15]}'
        assert boxes(strict('vision_reasoner', many, 420, 420)) == [(1.0, 2.0, 3.0, 4.0)]
        assert boxes(strict('seg_zero', one, 420, 420)) == [(0.0, 2.0, 2.0, 4.0)]

    def test_single_answers_lose_their_decimals_before_they_are_scaled(self) -> None:
        one = '<think>x</think>{"bbox": [1.9,3,5,7], "points_1": [9,11], "points_2": [1,1]}'
        assert boxes(strict('seg_zero', one, 8400, 840)) == [(10.0, 3.0, 50.0, 7.0)]

    @pytest.mark.parametrize(
        'text',
        [
            '<think>x</think>[{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}]',
            "<answer>[{'bbox_2d': [1,2,3,4], 'point_2d': [5,6]}]</answer>",
            '<answer>[{"bbox_2d": [1,2,3,4]}]</answer>',
            '<answer>[{"bbox_2d": [1,2,3], "point_2d": [5,6]}]</answer>',
            '<answer>[{"bbox_2d": [1,2,NaN,4], "point_2d": [5,6]}]</answer>',
            '<answer>[{"bbox_2d": [1,2,Infinity,4], "point_2d": [5,6]}]</answer>',
            '<answer>```json\n[]\n```</answer>',
            '<answer></answer>',
            '',
        ],
    )
    def test_what_the_published_list_reading_refuses_is_malformed(self, text: str) -> None:
        with pytest.raises(Exception):  # noqa: B017
            read_list(text, 1.0, 1.0)
        with pytest.raises(MalformedAnswer) as caught:
            strict('vision_reasoner', text)
        assert caught.value.raw_answer == text
        assert caught.value.reason

    def test_single_answers_need_reasoning_and_break_on_a_brace_in_it(self) -> None:
        answer = '{"bbox": [1,2,3,4], "points_1": [1,1], "points_2": [2,2]}'
        for text in (answer, f'<think>{{so}}</think><answer>{answer}</answer>'):
            with pytest.raises(MalformedAnswer):
                strict('seg_zero', text)
        assert boxes(strict('seg_zero', f'<think>{{}}</think>{answer}'))

    def test_an_empty_list_is_an_answer_without_objects(self) -> None:
        for parser in ('strict', 'repair'):
            grounding = VISION_REASONER.parse('<answer>[]</answer>', 10, 10, parser)
            assert grounding.objects == ()
            assert grounding.note == ''

    def test_strict_objects_are_told_when_the_answer_is_closed(self) -> None:
        reader = VISION_REASONER.reader(840, 840, 'strict')
        body, _, _ = TWO_CUPS.partition('</answer>')
        assert reader.feed(body).objects == ()
        assert len(reader.feed('</answer>').objects) == 2
        assert reader.complete


values = st.one_of(
    st.integers(-2000, 2000),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.integers().map(lambda value: value * 10**400),
)
numbers = st.lists(st.one_of(st.integers(0, 900), values), min_size=0, max_size=6)
keys = st.sampled_from(['bbox_2d', 'point_2d', 'bbox', 'points_1', 'points_2', 'label', 'Points'])
pixels = st.one_of(st.integers(0, 900), st.floats(0, 900))


def listed_numbers(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(pixels, min_size=count, max_size=count + 1)


right_items = st.fixed_dictionaries(
    {'bbox_2d': listed_numbers(4), 'point_2d': listed_numbers(2)},
    optional={'label': st.text(), 'parts': st.lists(st.dictionaries(keys, numbers))},
)
right_singles = st.fixed_dictionaries(
    {'bbox': st.lists(pixels, min_size=4, max_size=4)}
    | {'points_1': listed_numbers(2), 'Points2': listed_numbers(2)}
)
wrong = st.one_of(st.dictionaries(keys, st.one_of(numbers, values), max_size=5), values)
words = st.text(alphabet='abc <>/{}[]"\'\\,:0é🙂\n', max_size=20)
plain_words = st.text(alphabet='abc </>.\n', max_size=20)
thinking = st.sampled_from(['', '<think> a < b </think>', '<think></think>', '{'])


@st.composite
def right_answers(draw: st.DrawFn) -> str:
    """Texts as a checkpoint should write them."""
    many = json.dumps(draw(st.lists(right_items, max_size=3)))
    body = draw(st.sampled_from([many, json.dumps(draw(right_singles))]))
    return f'<think>ok {draw(words)}</think>{draw(plain_words)}<answer>{body}</answer>'


@st.composite
def strange_answers(draw: st.DrawFn) -> str:
    """Texts that are nearly right, and texts that are not at all."""
    item = st.one_of(right_items, wrong)
    body = json.dumps(draw(st.one_of(st.lists(item, max_size=3), item, right_singles)))
    body = draw(st.sampled_from([body, f'```json\n{body}\n```', f' {body}\n', body[:-3]]))
    body = draw(st.sampled_from([body, body.replace('"', "'"), body.replace(']', ',]')]))
    opening = draw(st.sampled_from(['<answer>', '<answer>\n', '', '<ans']))
    closing = draw(st.sampled_from(['</answer>', '</answer><answer>[]</answer>', '', '</think>']))
    return f'{draw(thinking)}{draw(words)}{opening}{body}{closing}{draw(words)}'


def answers() -> st.SearchStrategy[str]:
    return st.one_of(right_answers(), strange_answers())


@pytest.mark.slow
@given(answers(), st.sampled_from([0.5, 1.0, 640 / 840, 1920 / 840]))
@settings(max_examples=150, deadline=None)
def test_strict_reading_is_the_published_one_on_whatever_text(text: str, factor: float) -> None:
    size = round(840 * factor)
    try:
        expected_list = read_list(text, size / 840, size / 840)
    except Exception:
        with pytest.raises(MalformedAnswer):
            strict('vision_reasoner', text, size, size)
    else:
        found = strict('vision_reasoner', text, size, size).objects
        assert [as_published(o) for o in found] == expected_list
    try:
        expected = read_single(text, size / 840, size / 840)
    except Exception:
        with pytest.raises(MalformedAnswer):
            strict('seg_zero', text, size, size)
    else:
        found = strict('seg_zero', text, size, size).objects
        assert [as_published(o) for o in found] == expected


@pytest.mark.slow
@given(answers())
@settings(max_examples=150, deadline=None)
def test_what_the_published_code_reads_is_read_alike_and_without_a_remark(text: str) -> None:
    try:
        expected = strict('vision_reasoner', text)
    except MalformedAnswer:
        return
    repaired = VISION_REASONER.parse(text, 840, 840)
    assert repaired.objects == expected.objects
    assert repaired.note == ''


@pytest.mark.slow
@given(
    answers(), st.sampled_from(sorted(DIALECTS)), st.sampled_from(['repair', 'strict']), st.data()
)
@settings(max_examples=150, deadline=None)
def test_the_result_does_not_depend_on_how_the_text_was_cut_up(
    text: str, name: str, parser: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    dialect = dialect_named(name)
    results = []
    for fed in ([text], pieces, list(text)):
        said: list[str] = []
        told: list[GroundedObject] = []
        reporter = StreamReporter(dialect.reader(640, 480, parser), said.append, told.append)
        for piece in fed:
            reporter.feed(piece)
        try:
            grounding = reporter.finish()
            result: object = grounding
            assert ''.join(said) == grounding.reasoning
            assert tuple(told) == grounding.objects
        except MalformedAnswer as error:
            result = (error.reason, error.raw_answer, ''.join(said))
        results.append(result)
    assert results[0] == results[1] == results[2]


class TestRepairs:
    @pytest.mark.parametrize(
        'body',
        [
            '```json\n[{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}]\n```',
            "[{'bbox_2d': [1,2,3,4], 'point_2d': [5,6]}]",
            '[{"bbox_2d": [1,2,3,4], "point_2d": [5,6],},]',
            '[{"bbox_2d": [1,2,3,4,], "point_2d": [5,6]}',
            'Here it is: [{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}] as asked.',
            '{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}',
            '[{bbox_2d: [1,2,3,4], point_2d: [5,6]}]',
            '[{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}, {"bbox_2d": [7,8,',
            "[{'label': 'dog's bowl', 'bbox_2d': [1,2,3,4], 'point_2d': [5,6]}]",
            '[{"bbox_2d": [1,2,3,4], "point_2d": [5,6]} {"bbox_2d": [NaN,2,3,4]}]',
        ],
    )
    def test_what_a_person_reads_without_doubt_is_read_and_remarked_on(self, body: str) -> None:
        grounding = VISION_REASONER.parse(f'<think>x</think><answer>{body}</answer>', 840, 840)
        assert [(o.box, o.points) for o in grounding.objects] == [((1, 2, 3, 4), ((5, 6),))]
        assert 'repaired' in grounding.note
        with pytest.raises(MalformedAnswer):
            strict('vision_reasoner', f'<think>x</think><answer>{body}</answer>')

    def test_an_answer_without_its_tags_is_read_after_the_reasoning(self) -> None:
        text = '<think>not {"bbox_2d": [0,0,1,1]}</think> [{"bbox_2d": [1,2,3,4]}]'
        assert boxes(VISION_REASONER.parse(text, 840, 840)) == [(1, 2, 3, 4)]

    def test_a_list_cut_off_by_the_token_limit_keeps_its_complete_objects(self) -> None:
        text = TWO_CUPS[: TWO_CUPS.index('302')]
        grounding = VISION_REASONER.parse(text, 840, 840)
        assert boxes(grounding) == [(10, 100, 200, 210)]
        assert 'cut off; 1 complete' in grounding.note

    def test_entries_left_out_are_counted(self) -> None:
        text = '<answer>[{"bbox_2d": [1,2,3,4]}, {"point_2d": [1]}, {"bbox_2d": []}]</answer>'
        grounding = VISION_REASONER.parse(text, 840, 840)
        assert boxes(grounding) == [(1, 2, 3, 4)]
        assert '2 entries could not be read' in grounding.note

    def test_single_quotes_of_the_prompts_own_example_are_read(self) -> None:
        text = ONE_CUP.replace('"', "'")
        grounding = SEG_ZERO.parse(text, 840, 840)
        assert grounding.objects == SEG_ZERO.parse(ONE_CUP, 840, 840, 'strict').objects
        assert grounding.note

    def test_a_brace_in_the_reasoning_does_not_hide_a_single_answer(self) -> None:
        text = ONE_CUP.replace('A cup', 'A {kind of} cup')
        assert boxes(SEG_ZERO.parse(text, 840, 840)) == [(10, 100, 200, 210)]

    def test_words_around_an_empty_list_still_say_that_nothing_was_found(self) -> None:
        text = '<think>None.</think><answer>There is no cup: []</answer>'
        assert VISION_REASONER.parse(text, 840, 840).objects == ()

    def test_plain_qwen_lists_are_read_whole_and_keep_their_labels(self) -> None:
        text = 'I see one.\n[{"bbox_2d": [1,2,30,40], "label": "red cup"}]'
        grounding = QWEN.parse(text, 840, 840, label='the query')
        assert grounding.objects == (GroundedObject((1, 2, 30, 40), (), 'red cup'),)
        assert grounding.reasoning == 'I see one.'
        unlabelled = VISION_REASONER.parse(TWO_CUPS, 840, 840, label='the query')
        assert {found.label for found in unlabelled.objects} == {'the query'}

    @pytest.mark.parametrize(
        ('text', 'reason'),
        [
            ('I cannot help with that.', 'no <answer>'),
            ('<think>Let me look at the', 'ends before the reasoning'),
            ('<think>x</think><answer>[10, 20, 30, 40]</answer>', 'not subscriptable'),
            ('<think>x</think><answer>[{"bbox_2d": [1,2', 'no <answer>'),
            ('<think>x</think><answer>[{"bbox_2d": [1,2,3]}]</answer>', 'point_2d.* is missing'),
            ('<think>x</think><answer></answer>', 'not valid JSON'),
            ('<think>x</think><answer>none</answer>', 'not valid JSON'),
        ],
    )
    def test_where_no_box_can_be_read_none_is_made_up(self, text: str, reason: str) -> None:
        with pytest.raises(MalformedAnswer, match=reason) as caught:
            VISION_REASONER.parse(text, 840, 840)
        assert caught.value.raw_answer == text


class TestWhileItIsWritten:
    def test_reasoning_comes_without_tags_and_objects_as_their_braces_close(self) -> None:
        events: list[object] = []
        reporter = StreamReporter(VISION_REASONER.reader(840, 840), events.append, events.append)
        for char in TWO_CUPS:
            reporter.feed(char)
            if char == '}' and 'closed' not in events:
                assert isinstance(events[-1], GroundedObject)
                events.append('closed')
        said = ''.join(event for event in events if isinstance(event, str) and event != 'closed')
        assert said == 'Two cups, one red. The left one fits.'
        assert reporter.complete
        assert sum(isinstance(event, GroundedObject) for event in events) == 2

    def test_text_after_the_closed_answer_changes_nothing(self) -> None:
        reader = VISION_REASONER.reader(840, 840)
        reader.feed(TWO_CUPS)
        assert reader.complete
        assert reader.feed(' {"bbox_2d": [1,2,3,4]}').objects == ()
        assert len(reader.finish().objects) == 2


PATHOLOGICAL = {
    'open braces': '{' * 100_000,
    'open lists': '<answer>' + '[' * 100_000 + '</answer>',
    'nested objects': '<answer>[' + '{"a":' * 20_000 + '1' + '}' * 20_000 + ']</answer>',
    'nested lists': '<answer>[{"bbox_2d": ' + '[' * 50_000 + ']' * 50_000 + '}]</answer>',
    'blanks': '<think>' + ' ' * 50_000 + '</think><answer>' + '\n' * 50_000,
    'tags': '<answer>' * 12_000,
    'thinking tags': '<think>' * 12_000,
    'half tags': '<' * 100_000,
    'quotes': '<answer>{' + "'" * 100_000,
    'backslashes': '<answer>{"' + '\\' * 100_000,
    'one word': '<answer>{' + 'a' * 100_000 + '}</answer>',
    'word and blanks': '<answer>{a' + ' ' * 100_000 + '}</answer>',
    'huge number': '<answer>[{"bbox_2d": [' + '9' * 90_000 + ',2,3,4]}]</answer>',
    'large exponent': '<answer>[{"bbox_2d": [1e999,2,3,4], "point_2d": [1,1]}]</answer>',
    'many dots': '<answer>[{"bbox_2d": [' + '1.' * 40_000 + ']}]</answer>',
    'unicode': '<think>' + '\U0001f600\u202e\x00é' * 20_000 + '</think>',
    'fences': '```json' * 15_000,
    'named lists': '<answer>{' + 'a:[' * 30_000 + '}</answer>',
}


@pytest.mark.slow
@pytest.mark.parametrize('case', PATHOLOGICAL)
@pytest.mark.parametrize('name', DIALECTS)
def test_pathological_text_is_malformed_in_linear_time(name: str, case: str) -> None:
    text = PATHOLOGICAL[case]
    for parser in ('repair', 'strict'):
        for step in (len(text), 7):
            reader = dialect_named(name).reader(640, 480, parser)
            started = time.process_time()
            for at in range(0, len(text), step):
                reader.feed(text[at : at + step])
            with pytest.raises(MalformedAnswer):
                reader.finish()
            assert time.process_time() - started < 2.0


@pytest.mark.slow
def test_ten_thousand_objects_are_read_in_linear_time() -> None:
    entry = '{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}'
    text = f'<answer>[{",".join([entry] * 10_000)}]</answer>'
    started = time.process_time()
    assert len(VISION_REASONER.parse(text, 840, 840).objects) == 10_000
    assert time.process_time() - started < 4.0
