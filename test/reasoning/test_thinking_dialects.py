"""Answers of Qwen3-VL, Qwen3.5, Embodied-R1.5 and Molmo 2: what is read, and what never is."""

from __future__ import annotations

import pytest

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.written_counts import written_count
from segzero_ros.types import GroundedObject, Grounding, MalformedAnswer, Task

MUG = '{"bbox_2d": [100, 200, 500, 1000], "label": "mug"}'
FOUND = GroundedObject((64.0, 96.0, 320.0, 480.0), (), 'mug')
FENCED = f'```json\n[{MUG}]\n```'
LIKE_QWEN3 = ('qwen3_vl', 'qwen3_5')


def read(
    name: str,
    text: str,
    task: Task = Task.SEGMENT,
    parser: str = 'repair',
    *,
    thinking: bool = False,
) -> Grounding:
    """Read an answer about an image of 640 by 480 pixels."""
    reader = dialect_named(name).for_task(task).reader(640, 480, parser, thinking=thinking)
    reader.feed(text)
    return reader.finish()


@pytest.mark.parametrize('name', LIKE_QWEN3)
class TestQwen3:
    @pytest.mark.parametrize('parser', ['strict', 'repair'])
    @pytest.mark.parametrize(
        ('text', 'reasoning'),
        [
            (FENCED, ''),
            (f'[{MUG}]', ''),
            (f'```\n[{MUG}]\n```', ''),
            (f'```json\n{MUG}\n```', ''),
            ('```json\n[{"label": "mug", "bbox_2d": [100, 200, 500, 1000]}]\n```', ''),
            (f'Here is the mug:\n{FENCED}\nTell me if you need more.', 'Here is the mug:'),
            (f'The mug is here: [{MUG}]', 'The mug is here:'),
            (f'<think>Left or right? [1, 2]</think>\n\n{FENCED}', 'Left or right? [1, 2]'),
            (f'Left or right? [1, 2]</think>\n\n{FENCED}', 'Left or right? [1, 2]'),
            (f'A draft: [{MUG.replace("100", "7")}]. No.</think>{FENCED}', None),
            (f'One </think> and more </think>{FENCED}', 'One \n and more'),
        ],
    )
    def test_what_is_well_formed_is_read(
        self, name: str, text: str, reasoning: str | None, parser: str
    ) -> None:
        grounding = read(name, text, parser=parser)
        assert grounding.objects == (FOUND,) and grounding.note == ''
        assert grounding.raw_answer == text
        if reasoning is not None:
            assert grounding.reasoning == reasoning

    @pytest.mark.parametrize('label', ['红色的杯子', 'der rote Becher', 'كوب', ''])
    def test_a_label_may_be_in_any_language(self, name: str, label: str) -> None:
        text = f'```json\n[{{"bbox_2d": [0, 0, 10, 10], "label": "{label}"}}]\n```'
        assert [found.label for found in read(name, text).objects] == [label]

    def test_points_and_boxes_are_read_in_every_task(self, name: str) -> None:
        text = '```json\n[{"point_2d": [500, 250], "label": "handle"}]\n```'
        for task in (Task.POINT, Task.SEGMENT):
            assert read(name, text, task).objects == (
                GroundedObject(None, ((320.0, 120.0),), 'handle'),
            )
        text = '[{"bbox_2d": [0, 0, 500, 500], "point_2d": [250, 500]}]'
        assert read(name, text).objects == (GroundedObject((0, 0, 320, 240), ((160.0, 240.0),)),)

    @pytest.mark.parametrize('parser', ['strict', 'repair'])
    @pytest.mark.parametrize(
        'text', ['[]', '```json\n[]\n```', '```json\n[ \n]```', 'Hm.</think>[]', '{"objects": []}']
    )
    def test_an_empty_list_is_nothing_found(self, name: str, text: str, parser: str) -> None:
        grounding = read(name, text, parser=parser)
        assert grounding.objects == () and grounding.note == ''

    @pytest.mark.parametrize('parser', ['strict', 'repair'])
    @pytest.mark.parametrize(
        'text',
        [
            '',
            ' \n',
            'null',
            '{}',
            '```json\n```',
            'There is no mug in this image.',
            '[1, 2, 3, 4]',
            '[[1, 2, 3, 4]]',
            '```json\n[{"label": "mug"}]\n```',
            '```json\n[{"bbox_2d": [1, 2, 3], "label": "mug"}]\n```',
            '```json\n[{"bbox_2d": ["a", 2, 3, 4], "point_2d": [1, 2]}]\n```',
            '```json\n[{"bbox_2d": [1e999, 2, 3, 4]}]\n```',
            '```json\n[{"bbox_2d": [NaN, 2, 3, 4]}]\n```',
            '```json\n[{"bbox_2d": null}]\n```',
            '```json\n[{"bbox_2d": [true, 2, 3, 4]}]\n```',
            '```json\n[',
            '```json\n[{"bbox_2d": [100, 200, 5',
            '(100, 200), (500, 1000)',
        ],
    )
    def test_what_says_no_place_is_malformed(self, name: str, text: str, parser: str) -> None:
        with pytest.raises(MalformedAnswer) as error:
            read(name, text, parser=parser)
        assert error.value.raw_answer == text

    @pytest.mark.parametrize(
        'text',
        [
            f'<think>Perhaps {MUG}',
            f'<think>Perhaps\n{FENCED}\nbut it may as well be',
            f'So the user wants the mug. Perhaps [{MUG}], but it may as well be',
            f'So the user wants the mug. Perhaps\n```json\n[{MUG}, ',
            f'So the user wants the mug. Perhaps {MUG} or {MUG} or',
            f'Yes.</think><think>No, wait. {FENCED}',
        ],
    )
    def test_a_draft_in_reasoning_that_was_cut_off_is_no_answer(
        self, name: str, text: str
    ) -> None:
        for parser in ('strict', 'repair'):
            with pytest.raises(MalformedAnswer, match='reasoning') as error:
                read(name, text, parser=parser)
            assert error.value.raw_answer == text

    def test_where_the_prompt_opened_the_reasoning_only_its_end_begins_the_answer(
        self, name: str
    ) -> None:
        with pytest.raises(MalformedAnswer, match='before the reasoning does'):
            read(name, FENCED, thinking=True)
        grounding = read(name, f'{FENCED} is a draft</think>[]', thinking=True)
        assert grounding.objects == () and grounding.reasoning == f'{FENCED} is a draft'
        with pytest.raises(MalformedAnswer, match='before the reasoning does'):
            read(name, 'It is blue, I', Task.ANSWER, thinking=True)
        assert read(name, 'Hm.</think>Blue.', Task.ANSWER, thinking=True).answer == 'Blue.'

    def test_of_a_list_that_is_cut_off_the_complete_objects_are_kept(self, name: str) -> None:
        for start in ('', 'Hm.</think>', '<think>Hm.</think>\n'):
            grounding = read(name, f'{start}```json\n[{MUG}, {{"bbox_2d": [1, 2')
            assert grounding.objects == (FOUND,)
            assert 'cut off; 1 complete' in grounding.note

    def test_what_lies_outside_of_the_image_is_handed_on_as_it_is(self, name: str) -> None:
        text = '[{"bbox_2d": [-100, 0, 1500, 2000]}]'
        assert read(name, text).objects == (GroundedObject((-64, 0, 960, 960)),)

    def test_one_entry_that_cannot_be_read_is_left_out_and_remarked_on(self, name: str) -> None:
        grounding = read(name, f'[{MUG}, {{"bbox_2d": [1, 2], "label": "x"}}]')
        assert grounding.objects == (FOUND,)
        assert '1 entries could not be read' in grounding.note

    def test_reasoning_is_told_as_it_comes_and_drafts_only_once_they_are_known_as_such(
        self, name: str
    ) -> None:
        said: list[str] = []
        told: list[GroundedObject] = []
        reader = dialect_named(name).reader(640, 480)
        reporter = StreamReporter(reader, said.append, told.append)
        reporter.feed('So it may be ')
        assert ''.join(said) == 'So it may be'
        reporter.feed('[1, 2] or')
        assert ''.join(said) == 'So it may be'
        reporter.feed(f' so.</think>{FENCED}')
        assert ''.join(said) == 'So it may be [1, 2] or so.' and not told
        assert reporter.finish().objects == tuple(told) == (FOUND,)


class TestEmbodied:
    @pytest.mark.parametrize('parser', ['strict', 'repair'])
    @pytest.mark.parametrize('thought', ['', 'Hm. ', '<think>Hm.</think>', 'Hm [1].</think>\n'])
    @pytest.mark.parametrize(
        ('answer', 'found'),
        [
            ('{"boxes": [100, 200, 500, 1000]}', [GroundedObject((64, 96, 320, 480))]),
            (
                '```json\n{"boxes": [100, 200, 500, 1000]}\n```',
                [GroundedObject((64, 96, 320, 480))],
            ),
            ('[{"boxes": [100, 200, 500, 1000]}]', [GroundedObject((64, 96, 320, 480))]),
            (
                '{"boxes": [[0, 0, 500, 500], [500, 500, 1000, 1000]]}',
                [GroundedObject((0, 0, 320, 240)), GroundedObject((320, 240, 640, 480))],
            ),
            (
                '```json\n[{"point_2d": [500, 250]}, {"point_2d": [250, 500]}]\n```',
                [
                    GroundedObject(None, ((320.0, 120.0),)),
                    GroundedObject(None, ((160.0, 240.0),)),
                ],
            ),
            ('[{"point_2d": [500, 250]}]', [GroundedObject(None, ((320.0, 120.0),))]),
            ('{"point_2d": [500, 250]}', [GroundedObject(None, ((320.0, 120.0),))]),
            ('[]', []),
            ('{"boxes": []}', []),
        ],
    )
    def test_boxes_and_points_are_read_with_and_without_a_fence(
        self, answer: str, found: list[GroundedObject], thought: str, parser: str
    ) -> None:
        text = f'{thought}<answer>{answer}</answer>'
        grounding = read('embodied_r1_5', text, Task.POINT, parser)
        assert list(grounding.objects) == found and grounding.note == ''
        assert grounding.reasoning.startswith('Hm') == bool(thought)

    @pytest.mark.parametrize('parser', ['strict', 'repair'])
    @pytest.mark.parametrize(
        'text',
        [
            '',
            '<think>Perhaps [{"point_2d": [1, 2]}]',
            'Perhaps [{"point_2d": [1, 2]}], but',
            'On the left.',
            '<answer>left</answer>',
            '<answer>{"boxes": [1, 2, 3]}</answer>',
            '<answer>{"boxes": "left"}</answer>',
            '<answer>[{"point_2d": [1]}]</answer>',
            '<answer>[{"point_2d": [1, 2',
        ],
    )
    def test_what_says_no_place_is_malformed(self, text: str, parser: str) -> None:
        with pytest.raises(MalformedAnswer):
            read('embodied_r1_5', text, Task.POINT, parser)

    def test_words_come_from_the_answers_tags(self) -> None:
        text = 'The cup is blue, I think. <answer>Blue.</answer>'
        grounding = read('embodied_r1_5', text, Task.ANSWER)
        assert grounding.answer == 'Blue.' and grounding.reasoning == 'The cup is blue, I think.'

    def test_the_answer_is_complete_with_its_closing_tag(self) -> None:
        reader = dialect_named('embodied_r1_5').reader(640, 480)
        reader.feed('Hm. <answer>{"boxes": [100, 200, 500, 1000]}</ans')
        assert not reader.complete
        reader.feed('wer>')
        assert reader.complete
        reader.feed('<answer>[]</answer>')
        assert reader.finish().objects == (GroundedObject((64, 96, 320, 480)),)


class TestMolmo:
    def test_points_are_read_by_object_with_their_label(self) -> None:
        text = '<points coords="1 1 990 800 2 005 1000 1 500 250">red mug</points>'
        for parser in ('strict', 'repair'):
            grounding = read('molmo2', text, Task.POINT, parser)
            assert grounding.objects == (
                GroundedObject(None, ((990 * 0.64, 384.0), (320.0, 120.0)), 'red mug'),
                GroundedObject(None, ((3.2, 480.0),), 'red mug'),
            )
            assert grounding.note == grounding.reasoning == ''

    @pytest.mark.parametrize(
        'text',
        [
            '<points alt="mug" coords="1 1 500 250">mug</points>',
            '<points coords="1 1 500 250"/>',
            '<points coords="1 123 500 250">mug</points>',
            'Here: <points coords="1 1 500 250">mug</points>',
        ],
    )
    def test_other_attributes_words_and_large_numbers_change_nothing(self, text: str) -> None:
        (found,) = read('molmo2', text).objects
        assert found.box is None and found.points == ((320.0, 120.0),)

    @pytest.mark.parametrize('text', ['There are none.', 'There are none', ' there are none.\n'])
    def test_that_there_are_none_is_nothing_found(self, text: str) -> None:
        for parser in ('strict', 'repair'):
            assert read('molmo2', text, parser=parser).objects == ()

    @pytest.mark.parametrize(
        'text',
        [
            '',
            'There are some.',
            'There are none of the red ones, but two blue ones.',
            '<points coords="">mug</points>',
            '<points coords="1">mug</points>',
            '<points coords="1 1 990 8',
            '<points coords="1 1 990 800 2 5',
            '<points coords="1 1 990 800 2 500">mug</points>',
            '<points coords="1 1 99 80">mug</points>',
            '<points coords="1 1 99.5 80.5">mug</points>',
            '<points x1="10.5" y1="20.5">mug</points>',
        ],
    )
    def test_what_says_no_place_is_malformed(self, text: str) -> None:
        for parser in ('strict', 'repair'):
            with pytest.raises(MalformedAnswer):
                read('molmo2', text, Task.POINT, parser)

    def test_the_number_beside_the_points_is_read(self) -> None:
        text = (
            'Counting the <points coords="1 1 500 250 2 100 100">mugs</points> shows a total of 2.'
        )
        grounding = read('molmo2', text, Task.COUNT)
        assert len(grounding.objects) == grounding.count == 2


class TestCounts:
    @pytest.mark.parametrize(
        ('text', 'count'),
        [
            (FENCED, None),
            (f'There are three mugs.\n{FENCED}', 3),
            (f'{FENCED}\nThere are 2 mugs in the picture.', 2),
            (f'```json\n{{"count": 4, "objects": [{MUG}]}}\n```', 4),
            (f'There are 9, or eight?</think>{FENCED}', None),
            (f'I see 2 mugs. No, I see 3 mugs.\n{FENCED}', None),
            (f"The one at 10 o'clock.\n{FENCED}", None),
            (f'The number of mugs is 12.\n{FENCED}', 12),
            (f'Mug 7 and mug 8.\n{FENCED}', None),
            (f'There are 1.5 mugs.\n{FENCED}', None),
            ('<think>There are three mugs', None),
            ('12', 12),
            ('Three red mugs.', 3),
            ('', None),
        ],
    )
    def test_a_number_counts_only_where_it_says_how_many(
        self, text: str, count: int | None
    ) -> None:
        assert written_count(text) == count

    def test_the_number_stands_beside_the_objects_in_the_task_count_only(self) -> None:
        text = f'There are three mugs.\n{FENCED}'
        assert read('qwen3_vl', text, Task.COUNT).count == 3
        assert read('qwen3_vl', text, Task.COUNT).objects == (FOUND,)
        assert read('qwen3_vl', text).count is read('qwen3_vl', text, Task.DETECT).count is None
        text = (
            '<think>Two, or three?</think><answer>{"count": 2, "objects": ['
            '{"bbox_2d": [84,84,420,420], "point_2d": [168,210]}]}</answer>'
        )
        assert read('vision_reasoner', text, Task.COUNT).count == 2

    def test_a_number_without_objects_is_an_answer_to_how_many(self) -> None:
        grounding = read('qwen3_vl', 'There are three mugs.', Task.COUNT)
        assert grounding.count == 3 and grounding.objects == () and 'no objects' in grounding.note
        with pytest.raises(MalformedAnswer):
            read('qwen3_vl', 'There are three mugs.')
        with pytest.raises(MalformedAnswer):
            read('vision_reasoner', '<think>There are three mugs', Task.COUNT)
        with pytest.raises(MalformedAnswer):
            read('qwen3_vl', 'There are three mugs: [{"bbox_2d": [1, 2', Task.COUNT)


@pytest.mark.parametrize('parser', ['strict', 'repair'])
@pytest.mark.parametrize(
    'text', ['<answer>[]</answer>', '<think>None.</think><answer>[ ]</answer>']
)
def test_visurfs_empty_list_is_nothing_found(text: str, parser: str) -> None:
    grounding = read('vision_reasoner', text, parser=parser)
    assert grounding.objects == () and grounding.note == ''
