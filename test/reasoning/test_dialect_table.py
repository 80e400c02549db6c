"""Each dialect in one row: prompt, image size, limits, answer and schema."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from segzero_ros.reasoning.dialects import dialect_named, DIALECTS
from segzero_ros.reasoning.guided_decoding import answer_format
from segzero_ros.types import GroundedObject, Task, UnsupportedTask


class Row(NamedTuple):
    """What a dialect does with one query, one image of 1000 by 500 pixels, and one answer."""

    prompt: str
    image_size: tuple[int, int]
    max_image_tokens: int
    max_new_tokens: int
    resampling: str
    architectures: set[str]
    answer: str
    found: GroundedObject
    schema: object = None
    grid: int = 28
    tasks: str = 'detect count point answer'
    point_prompt: str = ''
    template_options: tuple[tuple[str, object], ...] = ()


def of_integers(**lengths: int) -> dict[str, object]:
    fields = {
        name: {'type': 'array', 'items': {'type': 'integer'}, 'minItems': n, 'maxItems': n}
        for name, n in lengths.items()
    }
    return {
        'type': 'object',
        'properties': fields,
        'required': list(lengths),
        'additionalProperties': False,
    }


BOTH = {'qwen2_5_vl', 'qwen2_vl'}
LOCATE = (
    'Locate every object that matches the description "The red cup?." in the image. '
    'Report bbox coordinates in JSON format.'
)
LOCATE_POINT = 'Locate The red cup?. in this image. Output the point coordinates in JSON format.'
MONOLOGUE = (
    'The red cup?.\nPlease answer this question based on the visual content.You FIRST think about '
    'the reasoning process as an internal monologue and then provide the final answer.At the end, '
    'you must output the final answer in the format:\n<answer><your_answer_here></answer>\n'
)
FENCED = '```json\n[{"bbox_2d": [125,126,500,500], "label": "cup"}]\n```'
TABLE = {
    'vision_reasoner': Row(
        'Please find "the red cup" with bboxs and points.Compare the difference between object(s)',
        (840, 840), 900, 1024, 'bilinear', BOTH,
        '<think>x</think><answer>[{"bbox_2d": [84,84,420,420], "point_2d": [168,210]}]</answer>',
        GroundedObject((100, 50, 500, 250), ((200, 125),)),
        {'type': 'array', 'items': of_integers(bbox_2d=4, point_2d=2)},
    ),
    'seg_zero': Row(
        "Please find 'the red cup?' with bbox and points.Compare the difference between objects",
        (840, 840), 900, 1024, 'bilinear', BOTH,
        '<think>x</think><answer>{"bbox": [84,84,420,420], "points_1": [168,210], '
        '"points_2": [252,168]}</answer>',
        GroundedObject((100, 50, 500, 250), ((200, 125), (300, 100))),
        of_integers(bbox=4, points_1=2, points_2=2),
        tasks='detect point',
    ),
    'qwen2_5_vl': Row(
        'Locate "The red cup?.", report the bboxes coordinates in JSON format.',
        (1008, 504), 1280, 1024, 'bicubic', {'qwen2_5_vl'},
        '```json\n[{"bbox_2d": [126,63,504,252], "label": "cup"}]\n```',
        GroundedObject((125, 62, 500, 250), (), 'cup'),
        tasks='detect count answer',
    ),
    'qwen2_vl': Row(
        'Please identify "The red cup?." in the image. ',
        (1008, 504), 1280, 1024, 'bicubic', {'qwen2_vl'},
        '```json\n[{"bbox": [125,125,500,500], "label": "cup"}]\n```',
        GroundedObject((125, 62, 500, 250), (), 'cup'),
        tasks='detect count answer',
    ),
    'qwen3_vl': Row(
        LOCATE,
        (992, 512), 1280, 2048, 'bicubic', {'qwen3_vl'},
        FENCED,
        GroundedObject((125, 63, 500, 250), (), 'cup'),
        grid=32, point_prompt=LOCATE_POINT,
    ),
    'qwen3_5': Row(
        LOCATE,
        (992, 512), 1280, 2048, 'bicubic', {'qwen3_5'},
        FENCED,
        GroundedObject((125, 63, 500, 250), (), 'cup'),
        grid=32, point_prompt=LOCATE_POINT, template_options=(('enable_thinking', False),),
    ),
    'embodied_r1_5': Row(
        MONOLOGUE + "Please provide only the bounding box as JSON with key 'boxes' within the "
        '<answer>...</answer> tags.\nExample:\n<answer>{"boxes": [35, 227, 437, 932]}</answer>',
        (992, 512), 1280, 2048, 'bicubic', {'qwen3_vl'},
        'It is on the left. <answer>{"boxes": [125, 126, 500, 500]}</answer>',
        GroundedObject((125, 63, 500, 250)),
        grid=32, tasks='detect point answer',
        point_prompt=MONOLOGUE + 'Please pointing to answer the question within the '
        '<answer>...</answer> tags.\nExample:\n<answer>```json\n[{"point_2d": [230, 138]}]\n'
        '```</answer>',
    ),
    'molmo2': Row(
        "Point to The red cup?.\nPlease say 'There are none.' if it is not in the image.",
        (1008, 504), 1280, 1024, 'bicubic', set(),
        '<points coords="1 1 125 0126">cup</points>',
        GroundedObject(None, ((125, 63),), 'cup'),
        tasks='count point answer',
    ),
    'mini': Row(
        'the red cup',
        (224, 224), 196, 256, 'bilinear', {'qwen2_5_vl'},
        '<think>x</think><answer>[{"bbox_2d": [56,56,112,112], "point_2d": [84,84]}]</answer>',
        GroundedObject((250, 125, 500, 250), ((375, 188),)),
        tasks='detect count point',
    ),
}  # fmt: skip


class TestTable:
    def test_every_dialect_is_described(self) -> None:
        assert set(TABLE) == set(DIALECTS)

    @pytest.mark.parametrize('name', TABLE)
    def test_each_dialect_is_as_described(self, name: str) -> None:
        dialect, row = dialect_named(name), TABLE[name]
        assert dialect.prompt('The red cup?.').startswith(row.prompt)
        assert dialect.image_size(1000, 500) == row.image_size
        assert dialect.max_image_tokens == row.max_image_tokens
        assert dialect.max_new_tokens == row.max_new_tokens
        assert dialect.resampling == row.resampling
        assert set(dialect.architectures) == row.architectures
        for parser in ('strict', 'repair'):
            grounding = dialect.parse(row.answer, 1000, 500, parser)
            assert grounding.objects == (row.found,)
            assert grounding.note == ''
        assert dialect.schema == row.schema
        assert dialect.grid == row.grid
        assert tuple(dialect.template_options.items()) == row.template_options

    @pytest.mark.parametrize('task', ['detect', 'count', 'point', 'answer'])
    @pytest.mark.parametrize('name', TABLE)
    def test_each_dialect_does_its_tasks_and_refuses_others(self, name: str, task: str) -> None:
        dialect, row = dialect_named(name), TABLE[name]
        if task not in row.tasks.split():
            with pytest.raises(UnsupportedTask, match=f'{name} cannot do the task {task!r}'):
                dialect.for_task(Task[task.upper()])
            return
        form = dialect.for_task(Task[task.upper()])
        assert form.in_words == (task == 'answer') and form.counts == (task == 'count')
        if task == 'point' and row.point_prompt:
            assert form.prompt('The red cup?.') == row.point_prompt
        elif task != 'answer':
            assert form.prompt('The red cup?.') == dialect.prompt('The red cup?.')

    @pytest.mark.parametrize('name', TABLE)
    def test_only_dialects_with_a_schema_can_be_constrained(self, name: str) -> None:
        row = TABLE[name]
        if row.schema is None:
            with pytest.raises(ValueError, match='those of vision_reasoner, seg_zero can'):
                answer_format(dialect_named(name))
            return
        *_, answer = answer_format(dialect_named(name))['format']['elements']
        assert answer['content'] == {'type': 'json_schema', 'json_schema': row.schema}
