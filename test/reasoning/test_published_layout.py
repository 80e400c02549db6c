"""Checkpoints as the hub holds them: the same tokens, or one sentence while loading."""

from __future__ import annotations

from dataclasses import replace
import json
import logging
from pathlib import Path
import re
import shutil
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from packaging.specifiers import SpecifierSet
from published_layout import rewrite, Variant
from published_sizes import PUBLISHED, shapes, write
from safetensors.torch import load_file, save_file

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.detokenizer import Detokenizer
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.weights import read_weights
from segzero_ros.types import Frame, MalformedAnswer, Query, ReasonerUnavailable

ARCHITECTURES = ('qwen2_5_vl', 'qwen2_vl')
SPEAKERS = [
    ('qwen2_5_vl', 'vision_reasoner'),
    ('qwen2_5_vl', 'seg_zero'),
    ('qwen2_5_vl', 'qwen2_5_vl'),
    ('qwen2_5_vl', 'mini'),
    ('qwen2_vl', 'vision_reasoner'),
    ('qwen2_vl', 'seg_zero'),
    ('qwen2_vl', 'qwen2_vl'),
]


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def modern(tiny_qwen2_5_vl: Path, tiny_qwen2_vl: Path) -> dict[str, Path]:
    return {'qwen2_5_vl': tiny_qwen2_5_vl, 'qwen2_vl': tiny_qwen2_vl}


@pytest.fixture(scope='module')
def published(modern: dict[str, Path], tmp_path_factory: Any) -> dict[str, Path]:
    place = tmp_path_factory.mktemp('published')
    return {name: rewrite(folder, place / name) for name, folder in modern.items()}


@pytest.fixture(scope='module')
def pairs(make_tiny_checkpoints: Any) -> Any:
    return make_tiny_checkpoints.example_pairs()


@pytest.fixture
def broken(published: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(published['qwen2_5_vl'], tmp_path / 'broken'))


def load(folder: Path, dialect: str = 'vision_reasoner', **options: Any) -> Any:
    options = {'device': 'cpu', 'dtype': 'float32', 'max_new_tokens': 100} | options
    return load_reasoner(ReasonerOptions('transformers', str(folder), dialect, **options))


def change(path: Path, **entries: Any) -> None:
    """Change entries of a file of JSON; None takes one away."""
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: content[key] for key in content if content[key] is not None}))


def tokens_of(reasoner: Any, frame: Frame, query: str) -> list[int]:
    """Return the tokens that a model writes, readable or not."""
    written: list[int] = []
    plainly = Detokenizer.add

    def add(self: Detokenizer, token: int) -> str:
        written.append(token)
        return plainly(self, token)

    Detokenizer.add = add  # type: ignore[method-assign]
    try:
        reasoner.reason(frame, Query(query))
    except MalformedAnswer:
        pass
    finally:
        Detokenizer.add = plainly  # type: ignore[method-assign]
    return written


class TestTokens:
    @pytest.mark.parametrize(('name', 'dialect'), SPEAKERS)
    def test_every_dialect_gets_the_tokens_of_todays_layout(
        self, name: str, dialect: str, modern: Any, published: Any, pairs: Any
    ) -> None:
        said = []
        for folder in (modern[name], published[name]):
            reasoner = load(folder, dialect, max_new_tokens=40)
            frames = [Frame(pair.image[:240, :280]) for pair in (pairs[0], pairs[3])]
            said.append([tokens_of(reasoner, frame, 'the red box') for frame in frames])
            reasoner.close()
        assert said[0] == said[1]
        # How much the small model says in a dialect that it did not learn depends on the
        # processor that it was trained on.
        assert all(said[0]) and max(map(len, said[0])) > 3

    @pytest.mark.parametrize(
        'variant',
        [
            Variant(),
            Variant(generation_config=True, parts=1),
            Variant(tokenizer_json=False, template='chat_template.jinja'),
            Variant(template='tokenizer_config.json', parts=2),
            Variant(eos_in_config=False, parts=2),
            Variant(preprocessor=(('image_processor_type', 'Qwen2VLImageProcessor'),)),
            Variant(preprocessor=(('size', {'min_pixels': 3136, 'max_pixels': 12845056}),)),
            Variant(preprocessor=(('size', None), ('processor_class', None))),
        ],
        ids=[
            'merged GRPO',
            'one file',
            'no tokenizer.json',
            'template of the tokenizer',
            'eos of the tokenizer',
            'processor of 4.50',
            'bounds as 4.49 called them',
            'bounds of 2024',
        ],
    )
    def test_variants_answer_as_learnt(
        self, variant: Variant, modern: Any, tmp_path: Path, pairs: Any
    ) -> None:
        reasoner = load(rewrite(modern['qwen2_5_vl'], tmp_path / 'model', variant))
        answer = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer
        np.testing.assert_allclose(answer.objects[0].box, (80, 150, 240, 330), atol=1)

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_transformers_own_generate_answers_the_same(
        self, name: str, published: Any, pairs: Any
    ) -> None:
        answer = load(published[name], fast_decoding=False).reason(
            Frame(pairs[0].image), Query(pairs[0].query)
        )
        assert answer.raw_answer == pairs[0].answer

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_a_head_that_is_the_embedding_is_not_missing(
        self, name: str, modern: Any, tmp_path: Path, pairs: Any
    ) -> None:
        tied = Path(shutil.copytree(modern[name], tmp_path / 'tied'))
        weights = load_file(tied / 'model.safetensors')
        del weights['lm_head.weight']
        save_file(weights, tied / 'model.safetensors', {'format': 'pt'})
        change(tied / 'config.json', tie_word_embeddings=True)
        old = rewrite(modern[name], tmp_path / 'old', Variant(tied=True))
        frame = Frame(pairs[0].image)
        said = [
            tokens_of(load(folder, max_new_tokens=12), frame, 'the red box')
            for folder in (tied, old)
        ]
        assert said[0] == said[1] != []

    def test_float32_weights_of_a_bfloat16_model_and_todays_names_in_parts(
        self, broken: Path, pairs: Any
    ) -> None:
        # As FSDP trainers export: the numbers as trained, the configuration of before.
        change(broken / 'config.json', torch_dtype='bfloat16')
        weight_map = {}
        for path in sorted(broken.glob('model-*.safetensors')):
            weights = {
                name.replace('visual.', 'model.visual.', 1)
                if name.startswith('visual.')
                else name.replace('model.', 'model.language_model.', 1): value
                for name, value in load_file(path).items()
            }
            save_file(weights, path, {'format': 'pt'})
            weight_map |= dict.fromkeys(weights, path.name)
        change(broken / 'model.safetensors.index.json', weight_map=weight_map)
        answer = load(broken).reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer

    def test_a_turn_ends_where_the_template_ends_it(
        self, modern: Any, tmp_path: Path, pairs: Any
    ) -> None:
        # Settings of the base model, which knows no turns.
        folder = rewrite(modern['qwen2_vl'], tmp_path / 'base', Variant(generation_config=True))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        end, padding = (
            tokenizer.convert_tokens_to_ids(f'<|{name}|>') for name in ('im_end', 'endoftext')
        )
        change(folder / 'generation_config.json', eos_token_id=padding, pad_token_id=None)
        change(folder / 'tokenizer_config.json', eos_token='<|endoftext|>', pad_token=None)
        change(folder / 'special_tokens_map.json', eos_token='<|endoftext|>', pad_token=None)
        reasoner = load(folder)
        assert reasoner._end_tokens == {end, padding}
        assert reasoner._processor.tokenizer.pad_token_id == padding
        assert tokens_of(reasoner, Frame(pairs[4].image), pairs[4].query)


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_published_weight_finds_its_place_at_full_size(name: str, tmp_path: Path) -> None:
    config, parts, count = PUBLISHED[name]
    weights = shapes(config)
    assert len(weights) == count
    folder = write(tmp_path / name, config, weights, parts)
    checkpoint = checkpoints.open_checkpoint(folder, dialect_named('vision_reasoner'))
    assert {tensor.name for tensor in checkpoint.tensors} == set(weights)
    # Missing and unknown names are errors there, as are other shapes.
    model = read_weights(folder, dtype=torch.bfloat16, device_map='meta')
    assert {weight.device.type for weight in model.parameters()} == {'meta'}
    assert sum(weight.numel() for weight in model.parameters()) == checkpoint.parameters
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == config['tie_word_embeddings']
    rope = model.config.get_text_config().rope_parameters
    assert (rope['mrope_section'], rope['rope_theta']) == ([16, 24, 24], 1e6)
    assert model.generation_config.eos_token_id == 151645


def test_only_releases_of_transformers_that_load_checkpoints_are_allowed() -> None:
    root = Path(__file__).parents[2]
    stated, lock = ((root / name).read_text() for name in ('pyproject.toml', 'requirements.lock'))
    allowed = re.findall(r'"transformers(?:\[serving\])?([<>=][^"]+)"', stated)
    locked = re.findall(r'^transformers==(\S+)', lock, re.MULTILINE)
    assert len(allowed) == 2 and locked
    for bound in map(SpecifierSet, allowed):
        assert not list(bound.filter(['5.0.0', '5.10.0', '5.16.1', '6.0.0']))
        assert list(bound.filter(locked)) == locked


@pytest.mark.parametrize('spoilt', ['missing', 'misnamed', 'shape', 'adapter left in'])
def test_weights_that_are_not_the_models_are_refused(spoilt: str, broken: Path) -> None:
    path = min(broken.glob('model-*.safetensors'))
    weights = load_file(path)
    name = 'model.layers.0.mlp.down_proj.weight'
    path = next(one for one in broken.glob('model-*.safetensors') if name in load_file(one))
    weights = load_file(path)
    value = weights.pop(name)
    if spoilt == 'misnamed':
        weights[f'module.{name}'] = value
    elif spoilt == 'shape':
        weights[name] = value[:, :-1].contiguous()
    elif spoilt == 'adapter left in':
        weights[name] = value
        weights['model.layers.0.mlp.down_proj.lora_A.weight'] = value[:4].clone()
    save_file(weights, path, {'format': 'pt'})
    said = {
        'missing': r'down_proj.weight is missing, none left over',
        'misnamed': r'down_proj.weight is missing, module\..*left over',
        'shape': 'cannot be loaded: RuntimeError',
        'adapter left in': r'lora_A.weight is left over.*merged',
    }
    with pytest.raises(ReasonerUnavailable, match=said[spoilt]) as caught:
        load(broken)
    assert '\n' not in str(caught.value)


def test_weights_of_no_use_are_told(broken: Path, caplog: Any) -> None:
    path = min(broken.glob('model-*.safetensors'))
    weights = load_file(path) | {'v_head.summary.weight': torch.zeros(1, 64)}
    save_file(weights, path, {'format': 'pt'})
    load(broken)
    assert 'v_head.summary.weight is left over' in caplog.text


class TestRefusals:
    def refused(self, folder: Path, said: str, **options: Any) -> None:
        with pytest.raises(ReasonerUnavailable, match=said) as caught:
            load(folder, **options)
        assert '\n' not in str(caught.value)

    def test_no_chat_template_anywhere(self, broken: Path) -> None:
        (broken / 'chat_template.json').unlink()
        self.refused(broken, r'has no chat template: .*tokenizer_config.json.*trained from')

    @pytest.mark.parametrize(
        'template',
        [
            # A model of text: contents are strings.
            "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}",
            "{{ raise_exception('images are not supported') }}",
            '<|im_start|>{% if %}',
            "{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}",
            '<|image_pad|>',
        ],
    )
    def test_a_template_that_shows_no_image(self, template: str, broken: Path) -> None:
        (broken / 'chat_template.json').write_text(json.dumps({'chat_template': template}))
        self.refused(broken, 'has an unfit chat template: .*question about an image')

    def test_nothing_that_ends_an_answer(self, modern: Any, tmp_path: Path) -> None:
        folder = rewrite(modern['qwen2_vl'], tmp_path / 'endless', Variant(eos_in_config=False))
        for path in folder.glob('*.json'):
            path.write_text(path.read_text().replace('<|im_end|>', '<|turn_end|>'))
        for name in ('tokenizer_config.json', 'special_tokens_map.json', 'config.json'):
            content = json.loads((folder / name).read_text())
            ends = {'eos_token': None, 'eos_token_id': None, 'bos_token_id': None}
            (folder / name).write_text(json.dumps(content | ends))
        self.refused(folder, 'which token ends an answer: set eos_token_id')

    def test_special_tokens_of_another_model(self, broken: Path) -> None:
        change(broken / 'config.json', image_token_id=151655)
        self.refused(broken, r'is of another model: <\|image_pad\|> is its token \d+, and 151655')

    def test_special_tokens_that_config_does_not_name(self, broken: Path, pairs: Any) -> None:
        names = ('image_token_id', 'video_token_id', 'vision_start_token_id')
        change(broken / 'config.json', **dict.fromkeys(names))
        answer = load(broken).reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer

    def test_a_tokenizer_without_an_image(self, broken: Path) -> None:
        for path in broken.glob('*token*.json'):
            path.write_text(path.read_text().replace('<|image_pad|>', '<|picture|>'))
        self.refused(broken, r'no place for an image: its tokenizer has no token <\|image_pad\|>')

    def test_a_tokenizer_with_more_tokens_than_the_model(self, broken: Path) -> None:
        change(broken / 'config.json', vocab_size=100)
        self.refused(broken, r'is of another model: .* token \d+, but the model knows 100')

    def test_an_image_processor_of_another_model(self, broken: Path) -> None:
        change(broken / 'preprocessor_config.json', patch_size=16)
        self.refused(broken, 'is of another model: its patch_size is 16, and 14 in config.json')

    def test_a_file_that_is_cut_short(self, broken: Path) -> None:
        path = broken / 'tokenizer_config.json'
        path.write_text(path.read_text()[:200])
        self.refused(broken, 'The processor .* cannot be read')

    def test_merges_that_were_abandoned(self, broken: Path) -> None:
        (broken / 'tokenizer.json').unlink()
        (broken / 'merges.txt').unlink()
        self.refused(broken, 'incomplete: merges.txt missing')

    def test_a_part_that_is_absent(self, broken: Path) -> None:
        (broken / 'model-00003-of-00004.safetensors').unlink()
        self.refused(broken, 'incomplete: model-00003-of-00004.safetensors missing')

    @pytest.mark.parametrize('left', ['index', 'index and parts'])
    def test_a_whole_file_beside_an_index_of_before(
        self, left: str, modern: Any, published: Any, tmp_path: Path, pairs: Any, caplog: Any
    ) -> None:
        folder = Path(shutil.copytree(modern['qwen2_5_vl'], tmp_path / 'resaved'))
        pattern = 'model*.json' if left == 'index' else 'model*'
        for path in published['qwen2_5_vl'].glob(pattern):
            shutil.copy(path, folder)
        answer = load(folder).reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer
        told = [
            record for record in caplog.records if 'the whole file is loaded' in record.message
        ]
        assert [record.levelno for record in told] == [logging.WARNING]

    def test_an_adapter(self, tmp_path: Path, broken: Path) -> None:
        stated = {'base_model_name_or_path': 'Qwen/Qwen2.5-VL-7B-Instruct', 'peft_type': 'LORA'}
        adapter = tmp_path / 'adapter'
        adapter.mkdir()
        (adapter / 'adapter_config.json').write_text(json.dumps(stated))
        (adapter / 'adapter_model.safetensors').write_bytes(b'')
        self.refused(
            adapter,
            r'an adapter \(LoRA\) of Qwen/Qwen2.5-VL-7B-Instruct, not a model.*'
            rf'python -m segzero_ros.training.export {adapter} {adapter}-merged',
        )
        shutil.copy(adapter / 'adapter_config.json', broken)
        self.refused(broken, 'a whole model and an adapter of Qwen.*remove adapter_config.json')

    @pytest.mark.parametrize(
        ('file', 'said'),
        [
            ('pytorch_model.bin', 'pickled.*segzero_ros.training.export'),
            ('pytorch_model.bin.index.json', 'pickled.*segzero_ros.training.export'),
            ('model_world_size_8_rank_0.pt', 'shards of an FSDP run.*model_merger'),
            ('../model_world_size_8_rank_0.pt', 'shards of an FSDP run.*model_merger'),
            ('zero_to_fp32.py', 'DeepSpeed.*zero_to_fp32.py'),
            ('model.gguf', 'llama-server.*profile:=remote'),
        ],
    )
    def test_what_trainers_leave_in_place_of_weights(
        self, file: str, said: str, broken: Path
    ) -> None:
        for path in broken.glob('model*'):
            path.unlink()
        (broken / file).write_text('{}')
        self.refused(broken, f'cannot be loaded: its weights .*{said}')

    def test_a_folder_of_checkpoints(self, broken: Path) -> None:
        self.refused(broken.parent, 'no checkpoint but holds some: .*: broken')


def grid_of(reasoner: Any, frame: Frame) -> Any:
    """Return the grid of patches that the processor makes of what it is given, (1, 3)."""
    image = reasoner._pixels(frame).permute(2, 0, 1)
    made = reasoner._processor.image_processor(images=[image], return_tensors='pt')
    return made['image_grid_thw']


BOUNDS = [(3136, 401408), (1003520, 12845056), (2000000, 2000000), (784, 100352)]


class TestPixelBounds:
    @pytest.mark.parametrize(
        ('bounds', 'fast'), [(BOUNDS[0], True), (BOUNDS[0], False), (BOUNDS[2], True)]
    )
    def test_the_square_is_shown_whatever_a_processor_is_bound_to(
        self, bounds: tuple[int, int], fast: bool, modern: Any, tmp_path: Path, pairs: Any,
        caplog: Any,
    ) -> None:  # fmt: skip
        variant = bounded(*bounds)
        reasoner = load(
            rewrite(modern['qwen2_5_vl'], tmp_path / 'model', variant), fast_decoding=fast
        )
        assert 'images are shown at 840x840 all the same' in caplog.text
        answer = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer
        assert grid_of(reasoner, Frame(pairs[0].image)).tolist() == [[1, 60, 60]]

    @pytest.mark.parametrize(
        ('name', 'bounds'),
        [*(('qwen2_5_vl', bounds) for bounds in (None, *BOUNDS)), ('qwen2_vl', BOUNDS[0])],
    )
    def test_boxes_of_native_images_follow_the_processors_own_grid(
        self, name: str, bounds: Any, modern: Any, tmp_path: Path
    ) -> None:
        variant = Variant() if bounds is None else bounded(*bounds)
        folder = rewrite(modern[name], tmp_path / 'model', variant)
        reasoner = load(folder, name, max_new_tokens=2)
        theirs = transformers.Qwen2VLImageProcessor.from_pretrained(folder)
        for width, height in ((640, 480), (1280, 720), (200, 700), (60, 40)):
            image = np.zeros((height, width, 3), np.uint8)
            grid = grid_of(reasoner, Frame(image))
            shown = 14 * int(grid[0, 2]), 14 * int(grid[0, 1])
            scale = reasoner._dialect.scale(width, height)
            if name == 'qwen2_5_vl':
                # The corner as the model writes it is the corner of the image.
                corner = [side * one for side, one in zip(shown, scale, strict=True)]
                np.testing.assert_allclose(corner, (width, height))
            else:
                assert scale == (width / 1000, height / 1000)
            if bounds is not None and bounds[1] <= 1003520 and min(bounds) >= 3136:
                own = theirs(images=[image], return_tensors='pt')['image_grid_thw']
                assert own.tolist() == grid.tolist()

    def test_a_processor_that_does_not_resize_is_given_the_right_size(
        self, modern: Any, tmp_path: Path, pairs: Any
    ) -> None:
        variant = Variant(preprocessor=(('do_resize', False), ('max_pixels', 401408)))
        reasoner = load(rewrite(modern['qwen2_5_vl'], tmp_path / 'model', variant))
        answer = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert answer.raw_answer == pairs[0].answer

    def test_a_processor_that_makes_another_grid_is_refused(
        self, published: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = transformers.Qwen2VLImageProcessor
        plainly = kind.preprocess

        def halved(self: Any, images: Any, **named: Any) -> Any:
            return plainly(self, [image[::2, ::2] for image in images], **named)

        monkeypatch.setattr(kind, 'preprocess', halved)
        with pytest.raises(ReasonerUnavailable, match='420x420 pixels of the 840x840'):
            load(published['qwen2_5_vl'])


def bounded(fewest: int, most: int) -> Variant:
    size = {'shortest_edge': fewest, 'longest_edge': most}
    changes = (('min_pixels', fewest), ('max_pixels', most), ('size', size))
    return replace(Variant(parts=1), preprocessor=changes)
