"""Real steps of TRL's trainers on a small model: what is learnt, kept, resumed and handed on."""

from __future__ import annotations

from dataclasses import replace
import io
import json
from pathlib import Path
import shutil
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from PIL import Image
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytest.importorskip('trl')
pytest.importorskip('peft')

from segzero_ros.cli.main import main
from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.training.callbacks import ThinkingLengthCallback
from segzero_ros.training.models import _leave_all_but_last, gigabytes
from segzero_ros.training.presets import load_composition, TrainingError
from segzero_ros.training.row_sources import open_rows
from segzero_ros.training.rows import answer_of, Row, solution_for, true_boxes
from segzero_ros.training.settings import load_settings, PRESETS, Settings
from segzero_ros.training.trainer import halve, thinking_share, train
from segzero_ros.training.validation import box_union_iou
from segzero_ros.training.vision_dedup import deduplicate_images
from segzero_ros.types import Frame, Query, ReasonerUnavailable

MINI = dialect_named('mini')


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings(taught: Path, rows_folder: Path, tmp_path: Path) -> Settings:
    overrides = {
        'model': str(taught),
        'data': str(rows_folder),
        'output': str(tmp_path / 'run'),
        'steps': 4,
        'prompts': 2,
        'generations': 4,
        'micro_batch': 8,
        'max_completion': 80,
        'temperature': 1.2,
        'learning_rate': 3e-4,
        'save_every': 2,
        'last_layers': 0,
    }
    return load_settings('mini', overrides)


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / 'figures.jsonl').read_text().splitlines())
    return [{key: line[key] for key in line if key != 'step_time'} for line in lines]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / 'model.safetensors')


class TestGrpo:
    @pytest.mark.parametrize('lora_rank', [0, 4])
    def test_killed_and_resumed_gives_the_same_curve(self, settings, tmp_path, lora_rank):
        settings = replace(settings, beta=0.02, lora_rank=lora_rank)
        train(settings)
        whole = figures(settings.folder)
        rewards = [line['reward'] for line in whole if 'reward' in line]
        # The run must have something to lose.
        assert len(set(rewards)) > 1
        assert any(line.get('grad_norm') for line in whole)
        # As a kill after step 3 leaves it, in the midst of writing a checkpoint.
        other = replace(settings, output=str(tmp_path / 'other'))
        shutil.copytree(settings.folder, other.folder)
        shutil.rmtree(other.checkpoint)
        late = other.folder / 'steps' / 'checkpoint-4'
        (late / 'trainer_state.json').unlink()
        said: list[str] = []
        train(other, said.append)
        assert any('resuming after step 2' in line for line in said)
        assert figures(other.folder) == whole
        before, after = weights(settings.checkpoint), weights(other.checkpoint)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_the_output_is_a_model_that_the_node_takes(self, settings, taught):
        settings = replace(settings, steps=1, validation=settings.data, validation_rows=2)
        folder = train(settings)
        assert (folder / 'generation_config.json').read_text() == (
            taught / 'generation_config.json'
        ).read_text()
        moved = weights(folder)
        assert not torch.equal(moved['lm_head.weight'], weights(taught)['lm_head.weight'])
        assert all(
            torch.equal(moved[name], value)
            for name, value in weights(taught).items()
            if 'visual' in name
        )
        reasoner = load_reasoner(
            ReasonerOptions(
                backend='transformers', model=str(folder), dialect='mini', device='cpu'
            )
        )
        row = open_rows(settings.data, MINI, 0).read(0)
        found = reasoner.reason(Frame(row.image), Query(row.problem))
        reasoner.close()
        assert len(found.objects) == 1
        assert box_union_iou(row, [found.objects[0].box]) > 0.5
        lines = figures(settings.folder)
        assert [line['step'] for line in lines if 'validation_box_giou' in line] == [0, 1]
        assert (settings.folder / 'curves.png').stat().st_size > 10_000
        assert list((settings.folder / 'tensorboard').rglob('events*'))

    def test_lora_is_merged_into_the_output(self, settings, taught):
        settings = replace(settings, steps=1, lora_rank=4, learning_rate=0.01)
        moved, before = weights(train(settings)), weights(taught)
        assert moved.keys() == before.keys()
        changed = {name for name in before if not torch.equal(moved[name], before[name])}
        assert changed
        assert all('proj' in name and 'visual' not in name for name in changed)

    def test_all_but_the_last_layers_may_stay_as_they_are(self, settings, taught):
        settings = replace(settings, steps=1, last_layers=1, learning_rate=0.01)
        moved, before = weights(train(settings)), weights(taught)
        changed = {name for name in before if not torch.equal(moved[name], before[name])}
        layers = {name.split('.layers.')[1][0] for name in before if '.layers.' in name}
        trained = (f'.layers.{max(layers)}.', 'language_model.norm.', 'model.norm.', 'lm_head.')
        assert any('lm_head' in name for name in changed)
        assert any(f'.layers.{max(layers)}.' in name for name in changed)
        assert all(any(part in name for part in trained) for name in changed)

    def test_a_head_that_is_the_embedding_stays_as_it_is(self, taught):
        config = transformers.AutoConfig.from_pretrained(taught)
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
        model = transformers.AutoModelForImageTextToText.from_config(config)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        _leave_all_but_last(model, 1)
        language = model.model.language_model
        trained = {name for name, weight in language.named_parameters() if weight.requires_grad}
        last = f'layers.{len(language.layers) - 1}.'
        assert trained and all(name.startswith((last, 'norm.')) for name in trained)
        with pytest.raises(TrainingError, match='last_layers is 99'):
            _leave_all_but_last(model, 99)

    def test_a_run_whose_time_is_over_goes_on(self, settings):
        said: list[str] = []
        train(replace(settings, minutes=1e-6), said.append)
        assert any('stopped at step 1' in line for line in said)
        train(settings, said.append)
        assert any('resuming after step 1 of 4' in line for line in said)
        assert figures(settings.folder)[-1]['step'] == 4

    def test_a_run_of_other_settings_is_left_alone(self, settings):
        train(replace(settings, steps=1))
        with pytest.raises(TrainingError, match='another steps, seed'):
            train(replace(settings, steps=2, seed=1))


def test_supervised_training_learns_the_solutions(settings):
    settings = replace(settings, method='sft', micro_batch=2, steps=12, learning_rate=3e-3)
    train(settings)
    losses = [line['loss'] for line in figures(settings.folder) if 'loss' in line]
    assert losses[-1] < losses[0] / 2


class TestCommand:
    def test_train_and_say_where(self, settings, capsys):
        words = ['train', '--config', 'mini', '--model', settings.model, '--data', settings.data]
        words += ['--steps', '1', '-o', settings.output, '-p', 'prompts:=2']
        words += ['-p', 'generations:=2', '-p', 'micro_batch:=4', '-p', 'max_completion:=20']
        assert main(words) == 0
        output = capsys.readouterr()
        assert f'reasoner_model:={settings.checkpoint} dialect:=mini' in output.out
        assert 'step 1 of 1' in output.err

    @pytest.mark.parametrize(
        ('words', 'reason'),
        [
            (['--config', 'grpo'], 'choose one of seg_zero, vision_reasoner, robot, mini'),
            ([], 'Give the base model'),
            (['--model', 'm', '-p', 'lora:=3'], "the nearest is 'lora_rank'"),
            (['--model', 'm', '-p', 'beta:=much'], 'beta must be like'),
            (['--model', 'm', '-p', 'generations:=1'], 'generations must be 2 or more'),
            (
                ['--model', 'm', '-p', 'lora_rank:=4', '-p', 'last_layers:=1'],
                'set either lora_rank:=0 or last_layers:=0',
            ),
            (['--model', 'm', '-p', 'micro_batch:=3'], 'are not divisible'),
            (['--model', 'm', '-p', 'dialect:=qwen2_vl'], 'keeps the aspect ratio of images'),
            (['--model', 'm', '--data', 'scenes'], 'set the steps'),
            (['--model', 'm', '--data', './none'], 'neither a folder or file'),
            (['--model', 'm', '-p', 'reward:=none'], 'There is no reward'),
        ],
    )
    def test_what_is_wrong_is_named(self, words, reason, capsys, tmp_path):
        assert main(['train', '-o', str(tmp_path / 'run'), *words]) == 2
        assert reason in capsys.readouterr().err
        assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_are_whole(preset):
    settings = load_settings(preset, {'model': 'm', 'steps': 1})
    load_composition(settings.reward)


def test_memory_is_calculated():
    settings = load_settings('vision_reasoner', {'model': 'm'})
    assert gigabytes(8_290_000_000, settings) == pytest.approx(165.8)
    assert gigabytes(8_290_000_000, replace(settings, beta=0.0)) == pytest.approx(132.64)
    assert gigabytes(8_290_000_000, replace(settings, lora_rank=64)) == pytest.approx(16.58)


class TestRows:
    def test_solutions_shrink_to_the_dialect_s_square(self, rows_folder):
        row = open_rows(str(rows_folder), MINI, 0).read(0)
        assert row.image.shape == (224, 224, 3)
        assert true_boxes(row.solution) == [(40, 60, 120, 160)]
        tagged = '<box>(150,225),(450,600)</box><points>(300,300),(310,310)</points>'
        assert solution_for(dialect_named('seg_zero'), tagged) == tagged
        assert true_boxes(tagged) == [(150, 225, 450, 600)]

    def table(self, folder, picture, solution, size=None, **more):
        """Write one row of an own picture, and return what is read of it."""
        import pyarrow as pa
        from pyarrow import parquet

        row = {'problem': 'x', 'solution': solution, 'image': {'bytes': picture, 'path': None}}
        if size:
            row |= {'img_width': size[0], 'img_height': size[1]}
        parquet.write_table(pa.Table.from_pylist([row | more]), folder / 'own.parquet')
        return folder / 'own.parquet'

    def marked(self, x1, y1, x2, y2, width=640, height=480):
        """Return a picture with a red box, as a PNG."""
        image = np.zeros((height, width, 3), np.uint8)
        image[y1:y2, x1:x2, 2] = 255
        return cv2.imencode('.png', image)[1].tobytes()

    @pytest.mark.parametrize('size', [(640, 480), None])
    @pytest.mark.parametrize('dialect', ['vision_reasoner', 'seg_zero', 'mini'])
    def test_boxes_are_squashed_with_their_picture(self, tmp_path, dialect, size):
        box, spoken = (160, 120, 480, 360), dialect_named(dialect)
        if spoken.grammar.single:
            solution = '<box>(160,120),(480,360)</box><points>(200.5,200),( 210, 210)</points>'
            taught = {'bbox': list(box), 'points_1': [200, 200], 'points_2': [210, 210]}
        else:
            taught = [{'bbox_2d': list(box), 'point_2d': [200, 200], 'label': 'x'}]
            solution = json.dumps(taught)
        answer = f'<think>At 160.</think><answer>{json.dumps(taught)}</answer>'
        path = self.table(tmp_path, self.marked(*box), solution, size, answer=answer)
        row = open_rows(str(path), spoken, 0).read(0)
        side = spoken.square
        ((x1, y1, x2, y2),) = true_boxes(row.solution)
        assert (x1, y1, x2, y2) == (side / 4, side / 4, side * 3 / 4, side * 3 / 4)
        if not spoken.position_code_cell:
            red = row.image[..., 0] > 128
            assert red[int(y1) : int(y2), int(x1) : int(x2)].all()
            assert red.sum() == (x2 - x1) * (y2 - y1)
        said = spoken.parse(row.answer, side, side)
        assert said.objects[0].box == (x1, y1, x2, y2)
        factor = side / 640
        assert said.objects[0].points[0] == (int(200 * factor + 0.5), int(200 * side / 480 + 0.5))
        assert row.answer.startswith('<think>At 160.</think>')

    def test_published_squares_keep_their_numbers_whatever_the_picture_was_before(self, tmp_path):
        solution = '[{"bbox_2d": [10, 20, 800, 830], "point_2d": [30, 40]}]'
        picture = self.marked(10, 20, 800, 830, 840, 840)
        path = self.table(tmp_path, picture, solution, (1024, 683))
        row = open_rows(str(path), dialect_named('vision_reasoner'), 0).read(0)
        assert row.solution == solution

    def test_a_squashed_picture_with_the_numbers_of_the_large_one_is_refused(self, tmp_path):
        solution = '[{"bbox_2d": [10, 20, 1200, 830], "point_2d": [30, 40]}]'
        picture = self.marked(10, 20, 800, 830, 840, 840)
        path = self.table(tmp_path, picture, solution, (1280, 960))
        with pytest.raises(TrainingError, match='outside its image of 840x840 pixels'):
            open_rows(str(path), dialect_named('vision_reasoner'), 0).read(0)

    @pytest.mark.parametrize(
        ('solution', 'size', 'reason'),
        [
            ('[{"bbox_2d": [10, 20, 800, 470], "point_2d": [30, 40]}]', (640, 480),
             'outside its image of 640x480 pixels'),
            ('[{"bbox_2d": [10, 20, 30, 40], "point_2d": [30, 40]}]', (1280, 960),
             '640x480 pixels, but its labels were made for 1280x960'),
        ],
    )  # fmt: skip
    def test_numbers_of_nobody_knows_which_picture_are_refused(
        self, tmp_path, solution, size, reason
    ):
        path = self.table(tmp_path, self.marked(10, 20, 30, 40), solution, size)
        rows = open_rows(str(path), dialect_named('vision_reasoner'), 0)
        with pytest.raises(TrainingError, match=rf'own\.parquet, row 0:? .*{reason}') as caught:
            rows.read(0)
        assert str(caught.value).count('row 0') == 1

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            ({'solution': None}, 'row 0 has no solution: add it'),
            ({'problem': None}, 'row 0 has no problem: add it'),
            (
                {'solution': '[{"bbox_2d": [1, 2'},
                r'row 0: The solution .* it is not valid JSON \(',
            ),
            (
                {'solution': '{"bbox_2d": [1, 2, 3, 4]}'},
                r'it is not a list; put its objects in \[\]',
            ),
            (
                {'solution': '[{"bbox_2d": [1, 2, 3, 4]}]'},
                'each object needs point_2d, a list of 2',
            ),
            (
                {'solution': '[{"bbox_2d": [1, 2, 3], "point_2d": [1, 2]}]'},
                'needs bbox_2d, a list',
            ),
            ({'solution': '[7]'}, 'each object needs bbox_2d'),
            ({'img_width': 'wide'}, "row 0: img_width is 'wide', which is not a number"),
            ({'img_width': '1280', 'img_height': '960'}, 'row 0 has 640x480 .* for 1280x960'),
            (
                {'image': {'bytes': None, 'path': None}},
                'row 0: the row has neither an image nor the path of one',
            ),
        ],
    )
    def test_what_is_wrong_with_a_row_is_said_in_a_sentence(self, tmp_path, change, reason):
        good = '[{"bbox_2d": [10, 20, 30, 40], "point_2d": ["30", "40"]}]'
        picture = self.marked(10, 20, 30, 40)
        spoken = dialect_named('vision_reasoner')
        path = self.table(tmp_path, picture, good, (640, 480))
        assert open_rows(str(path), spoken, 0).read(0).problem
        (tmp_path / 'bad').mkdir()
        own = {'solution': good, 'img_width': 640, 'img_height': 480} | change
        path = self.table(tmp_path / 'bad', picture, **own)
        with pytest.raises(TrainingError, match=rf'own\.parquet, .*{reason}') as caught:
            open_rows(str(path), spoken, 0).read(0)
        assert 'Error' not in str(caught.value)

    def test_an_answer_in_words_cannot_be_squashed(self, tmp_path):
        solution = '[{"bbox_2d": [10, 20, 30, 40], "point_2d": [30, 40]}]'
        picture = self.marked(10, 20, 30, 40)
        path = self.table(tmp_path, picture, solution, answer='at 10, 20')
        with pytest.raises(TrainingError, match='coordinates cannot be scaled'):
            open_rows(str(path), dialect_named('vision_reasoner'), 0).read(0)

    @pytest.mark.parametrize('orientation', range(1, 9))
    @pytest.mark.parametrize('sized', [True, False])
    def test_a_picture_stored_lying_is_learnt_as_it_is_shown(self, tmp_path, orientation, sized):
        shown = np.zeros((480, 640, 3), np.uint8)
        shown[120:240, 320:480, 0] = 255
        exif = Image.Exif()
        exif[0x112] = orientation
        undo = (None, 0, 3, 1, 5, 2, 6, 4)[orientation - 1]
        picture = Image.fromarray(shown)
        picture = picture if undo is None else picture.transpose(Image.Transpose(undo))
        file = io.BytesIO()
        picture.save(file, 'JPEG', quality=98, exif=exif)
        solution = '[{"bbox_2d": [320, 120, 480, 240], "point_2d": [400, 200]}]'
        size = (640, 480) if sized else None
        path = self.table(tmp_path, file.getvalue(), solution, size)
        row = open_rows(str(path), dialect_named('vision_reasoner'), 0).read(0)
        red = row.image[..., 0] > 128
        assert red[210:420, 420:630].mean() > 0.95
        red[200:430, 410:640] = False
        assert not red.any() and true_boxes(row.solution) == [(420, 210, 630, 420)]

    def test_the_other_form_is_refused(self):
        with pytest.raises(TrainingError, match='needs one box with two points'):
            solution_for(dialect_named('seg_zero'), '[]')
        with pytest.raises(TrainingError, match='needs a JSON list'):
            solution_for(MINI, '<box>(1,2),(3,4)</box><points>(1,2),(3,4)</points>')

    def test_the_taught_answer_is_worth_its_format(self):
        tagged = '<box>(150,225),(450,600)</box><points>(300,300),(310,310)</points>'
        row = Row(np.zeros((1, 1, 3), np.uint8), 'x', tagged)
        answer = answer_of(row, dialect_named('seg_zero'))
        # All but the thought.
        assert load_composition('seg_zero_strict')(answer, tagged) == 4

    def test_scenes_are_the_same_whenever_they_are_asked(self):
        rows = open_rows('scenes', MINI, 100)
        late = rows.read(57)
        again = open_rows('scenes:3000000', MINI, 100).read(57)
        assert (late.image == again.image).all()
        assert (late.problem, late.solution) == (again.problem, again.solution)
        assert load_composition('robot')(late.answer, late.solution) > 5

    def test_files_of_another_schema_are_refused(self, tmp_path):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({'text': ['x']}), tmp_path / 'x.parquet')
        with pytest.raises(TrainingError, match='no column problem and no solution and no image'):
            open_rows(str(tmp_path), MINI, 0)


def test_pictures_of_a_group_are_looked_at_once(taught):
    from transformers import AutoModelForImageTextToText

    visual = AutoModelForImageTextToText.from_pretrained(taught).model.visual
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 1176)
    pixels = torch.cat([first, first, second, second, first])
    grid = torch.tensor([[1, 4, 4]] * 5)
    weight = visual.merger.mlp[0].weight
    expected = visual(pixels, grid_thw=grid).pooler_output
    (wanted,) = torch.autograd.grad(expected.sin().sum(), weight)
    looked = []
    visual.blocks[0].register_forward_hook(lambda *call: looked.append(call[2].shape[0]))
    deduplicate_images(visual)
    seen = visual(pixels, grid_thw=grid).pooler_output
    (given,) = torch.autograd.grad(seen.sin().sum(), weight)
    assert looked == [3 * 16]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-4)


def test_training_stops_when_thoughts_vanish():
    class Control:
        should_training_stop = False

    class State:
        global_step = 7

    control, said = Control(), []
    watch = ThinkingLengthCallback(Settings(thinking_patience=3), said.append)
    for share in (0.1, 0.0, 0.9, 0.1, 0.1):
        watch.on_log(None, State, control, {'rewards/thinking_share/mean': share})
    assert not control.should_training_stop
    watch.on_log(None, State, control, {'rewards/thinking_share/mean': 0.0})
    assert control.should_training_stop
    assert 'stopped at step 7' in said[0]


def test_on_a_cpu_losses_alone_are_computed_in_half(settings):
    assert settings.half_on_cpu
    one = torch.ones(2, 2)
    trainer = SimpleNamespace(compute_loss=lambda scale: (one @ one * scale).dtype)
    halve(trainer)
    assert trainer.compute_loss(2) == torch.bfloat16
    assert (one @ one).dtype == torch.float32


def test_thoughts_are_counted():
    words: dict[str, float] = {}
    said = [[{'content': f'<think>{text}</think>'}] for text in ('', 'it is red', 'x')]
    assert thinking_share(said, words.__setitem__) == [0, 1, 0]
    assert words == {'thought_words': 4 / 3}


def test_a_model_of_another_dialect_is_refused(settings, tmp_path):
    model = tmp_path / 'model'
    shutil.copytree(settings.model, model)
    config = json.loads((model / 'config.json').read_text())
    (model / 'config.json').write_text(json.dumps(config | {'model_type': 'qwen2_vl'}))
    with pytest.raises(ReasonerUnavailable, match='dialect mini'):
        train(replace(settings, model=str(model)))
