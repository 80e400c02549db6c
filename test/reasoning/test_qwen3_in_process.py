"""Qwen3-VL and Qwen3.5 in process, on small checkpoints of the real architectures."""

from __future__ import annotations

import json
import logging
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from PIL import Image
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning.checkpoints import open_checkpoint
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.memory import needs_of
from segzero_ros.reasoning.processors import load_processor
from segzero_ros.types import Frame, MalformedAnswer, Query, ReasonerUnavailable, Task

ARCHITECTURES = ('qwen3_vl', 'qwen3_5')
STRANGE = 'something that nobody ever asked'


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def folders(tiny_qwen3_vl: Path, tiny_qwen3_5: Path) -> dict[str, Path]:
    return {'qwen3_vl': tiny_qwen3_vl, 'qwen3_5': tiny_qwen3_5}


def load(folder: Path, dialect: str, **options: Any) -> Any:
    return load_reasoner(ReasonerOptions('transformers', str(folder), dialect, **options))


@pytest.fixture(scope='module')
def reasoners(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load(folder, name, max_new_tokens=120) for name, folder in folders.items()}


def text_of(reasoner: Any, frame: Frame, query: Query) -> str:
    """Return the model's whole text, readable or not."""
    try:
        return str(reasoner.reason(frame, query).raw_answer)
    except MalformedAnswer as error:
        return error.raw_answer


class Published:
    """What transformers alone makes of the published prompt and the source image."""

    def __init__(self, folder: Path, name: str) -> None:
        import transformers

        self._processor = transformers.AutoProcessor.from_pretrained(folder, padding_side='left')
        # The cap of the authors' example; the image processor itself resizes the image.
        self._processor.image_processor.size['longest_edge'] = 1280 * 32 * 32
        self._model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        self._name = name

    def text_of(self, frame: Frame, query: Query, count: int) -> str:
        prompt = dialect_named(self._name).for_task(query.task or Task.SEGMENT).prompt(query.text)
        image = Image.fromarray(frame.image)
        content = [{'type': 'image', 'image': image}, {'type': 'text', 'text': prompt}]
        off = {'enable_thinking': False} if self._name == 'qwen3_5' else {}
        text = self._processor.apply_chat_template(
            [{'role': 'user', 'content': content}],
            tokenize=False,
            add_generation_prompt=True,
            **off,
        )
        inputs = self._processor(text=[text], images=[image], return_tensors='pt')
        ids = self._model.generate(**inputs, max_new_tokens=count, do_sample=False)
        new = ids[0, inputs['input_ids'].shape[1] :]
        return str(self._processor.tokenizer.decode(new, skip_special_tokens=True))


@pytest.mark.parametrize('name', ARCHITECTURES)
class TestAnswers:
    def test_what_was_learnt_is_said_and_read(
        self, name: str, reasoners: dict[str, Any], make_tiny_checkpoints: Any
    ) -> None:
        pairs = make_tiny_checkpoints.qwen3_pairs(name)
        red = (80, 150, 240, 330)
        for pair in pairs:
            grounding = reasoners[name].reason(Frame(pair.image), Query(pair.query))
            assert grounding.raw_answer == pair.answer and grounding.note == ''
            assert len(grounding.objects) == pair.answer.count('bbox_2d')
        first = reasoners[name].reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert first.objects[0].box == pytest.approx(red, abs=0.5)
        assert first.objects[0].label == 'box'
        # The same one for counting, where the objects count.
        counted = reasoners[name].reason(
            Frame(pairs[2].image), Query(pairs[2].query, task=Task.COUNT)
        )
        assert len(counted.objects) == 2 and counted.count is None

    def test_tokens_are_those_of_generate_whatever_image_came_before(
        self, name: str, folders: dict[str, Path], make_tiny_checkpoints: Any
    ) -> None:
        reasoner = load(folders[name], name, max_new_tokens=16)
        pairs = make_tiny_checkpoints.qwen3_pairs(name)
        noise = np.random.default_rng(1).integers(0, 256, (330, 550, 3), np.uint8)
        frames = [Frame(pairs[0].image), Frame(noise), Frame(pairs[1].image)]
        queries = [
            Query(pairs[0].query),
            Query(STRANGE, task=Task.POINT),
            Query('What colour is it?', task=Task.ANSWER),
        ]
        published = Published(folders[name], name)
        expected = {
            (at, query): published.text_of(frame, query, 16)
            for at, frame in enumerate(frames)
            for query in queries
        }
        assert len({expected[at, queries[0]] for at in range(3)}) > 1
        assert len(set(expected.values())) > 2
        # Alternating images, one question after the other about the same, and back.
        order = [(at, query) for query in queries for at in (0, 1, 2, 0)]
        order += [(0, query) for query in queries]
        for at, query in order:
            assert text_of(reasoner, frames[at], query) == expected[at, query]


def test_deepstack_features_reach_the_answer(folders: dict[str, Path]) -> None:
    """The small Qwen3-VL depends on what a prefill of its own would drop."""
    reasoner = load(folders['qwen3_vl'], 'qwen3_vl', max_new_tokens=24)
    visual = reasoner._model.model.visual
    assert len(visual.deepstack_merger_list) == 2
    frame = Frame(np.random.default_rng(1).integers(0, 256, (330, 550, 3), np.uint8))
    whole = text_of(reasoner, frame, Query(STRANGE))
    with torch.no_grad():
        for merger in visual.deepstack_merger_list:
            for weight in merger.parameters():
                weight.zero_()
    assert text_of(reasoner, frame, Query(STRANGE)) != whole


@pytest.mark.parametrize('name', ARCHITECTURES)
class TestCheckpoints:
    @pytest.mark.parametrize(
        'size', [(640, 480), (1920, 1080), (64, 48), (10, 1000), (4000, 3000), (333, 777)]
    )
    def test_images_have_the_size_that_the_image_processor_leaves_alone(
        self, name: str, size: tuple[int, int], folders: dict[str, Path]
    ) -> None:
        dialect = dialect_named(name)
        loaded = load_processor(open_checkpoint(folders[name], dialect), dialect)
        width, height = loaded.dialect.image_size(*size)
        assert width % 32 == height % 32 == 0
        image = np.zeros((height, width, 3), np.uint8)
        grid = loaded.processor.image_processor(images=[image], return_tensors='pt')
        rows, columns = (int(patches) * 16 for patches in grid['image_grid_thw'][0, 1:])
        assert (columns, rows) == (width, height)
        assert 65_536 <= width * height <= 1280 * 32 * 32
        tokens = int(grid['image_grid_thw'][0].prod()) // 4
        assert tokens <= loaded.dialect.max_image_tokens == 1280

    def test_another_dialect_is_refused_with_the_right_ones(
        self, name: str, folders: dict[str, Path]
    ) -> None:
        right = {'qwen3_vl': 'qwen3_vl or embodied_r1_5', 'qwen3_5': 'qwen3_5'}[name]
        for dialect in ('vision_reasoner', 'qwen2_5_vl'):
            with pytest.raises(ReasonerUnavailable, match=f'reasoner.dialect:={right}') as error:
                load(folders[name], dialect)
            assert repr(name) in str(error.value)

    def test_keys_and_values_are_estimated_from_the_layers_that_keep_them(
        self, name: str, folders: dict[str, Path]
    ) -> None:
        checkpoint = open_checkpoint(folders[name], dialect_named(name))
        layers = {'qwen3_vl': 2, 'qwen3_5': 1}[name]
        assert needs_of(checkpoint, 2, 1000, 300, on_gpu=False).cache == (
            2 * layers * 1 * 32 * 1000 * 2
        )


def test_a_model_that_is_served_only_is_refused_in_process(folders: dict[str, Path]) -> None:
    with pytest.raises(ReasonerUnavailable, match='molmo2 are asked through a server only'):
        load(folders['qwen3_vl'], 'molmo2')


def test_a_thinking_template_opens_the_reasoning(
    folders: dict[str, Path], make_tiny_checkpoints: Any, tmp_path: Path, caplog: Any
) -> None:
    folder = tmp_path / 'Tiny-Thinking'
    shutil.copytree(folders['qwen3_vl'], folder)
    for file in folder.glob('chat_template*'):
        file.unlink()
    (folder / 'chat_template.jinja').write_text(make_tiny_checkpoints.THINKING_TEMPLATE)
    with caplog.at_level(logging.WARNING):
        reasoner = load(folder, 'qwen3_vl', max_new_tokens=40)
    assert 'reasoner.max_new_tokens:=2048' in caplog.text
    # Whatever it writes, without </think> none of it is an answer.
    pair = make_tiny_checkpoints.qwen3_pairs('qwen3_vl')[0]
    with pytest.raises(MalformedAnswer, match='before the reasoning does'):
        reasoner.reason(Frame(pair.image), Query(pair.query))


def test_the_size_bounds_of_a_checkpoint_hold_within_those_of_the_dialect(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / 'bounded'
    shutil.copytree(folders['qwen3_vl'], folder)
    for file in ('processor_config.json', 'preprocessor_config.json'):
        if (folder / file).is_file():
            settings = json.loads((folder / file).read_text())
            images = settings.get('image_processor', settings)
            images['size'] = {'shortest_edge': 65_536, 'longest_edge': 512 * 32 * 32}
            (folder / file).write_text(json.dumps(settings))
    dialect = dialect_named('qwen3_vl')
    loaded = load_processor(open_checkpoint(folder, dialect), dialect)
    assert loaded.dialect.max_image_tokens == 512
    assert loaded.dialect.image_size(1920, 1080) == (960, 512)
