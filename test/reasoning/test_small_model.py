"""The small model in NumPy: the tokens of transformers' `generate`, without its imports."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip('tokenizers')
pytest.importorskip('threadpoolctl')

from safetensors.numpy import load_file, save_file

from segzero_ros.config import read_profile, reasoner_options
from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.small_model.network import attend, gelu, silu
from segzero_ros.reasoning.small_model.reasoner import load_small_model, SmallModelReasoner
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.types import Cancelled, Frame, Query, ReasonerTimeout, ReasonerUnavailable, Task

OPTIONS = reasoner_options(read_profile('mini').__getitem__)
FOLDER = Path(checkpoints.__file__).parent.parent / 'checkpoints' / 'mini'


@pytest.fixture(scope='module')
def small() -> Any:
    reasoner = load_reasoner(OPTIONS)
    assert isinstance(reasoner, SmallModelReasoner)
    return reasoner


def heard(reasoner: Any, frame: Frame, query: Query) -> Any:
    """Return an answer, with the pieces of text and the objects as they came."""
    texts: list[str] = []
    objects: list[Any] = []
    grounding = reasoner.reason(frame, query, on_text=texts.append, on_object=objects.append)
    return grounding, texts, objects


def test_answers_are_those_of_transformers(small: Any) -> None:
    pytest.importorskip('transformers')
    from segzero_ros.reasoning.transformers_reasoner import TransformersReasoner

    published = load_reasoner(replace(OPTIONS, fast_decoding=False))
    assert isinstance(published, TransformersReasoner)
    tasks = (Task.SEGMENT, Task.COUNT, Task.POINT, Task.DETECT)
    scene = make_scene(310_000)
    for task, sentence in zip(tasks, scene.sentences, strict=False):
        query = Query(sentence.text, task=task)
        assert heard(small, scene.frame, query) == heard(published, scene.frame, query)
    published.close()


@pytest.mark.parametrize(
    'text',
    [
        'the <|im_end|> cup',
        'the <|image_pad|> cup',
        '',
        'l\u00e4nger \u4e2d\u6587 \U0001f600',
        'a' * 900,
    ],
)
def test_odd_sentences_have_the_prompt_of_transformers(small: Any, text: str) -> None:
    transformers = pytest.importorskip('transformers')
    processor: Any = transformers.AutoProcessor.from_pretrained(FOLDER, local_files_only=True)
    from segzero_ros.reasoning.control_tokens import control_tokens
    from segzero_ros.reasoning.dialects import dialect_named
    from segzero_ros.reasoning.processors import chat_text

    prompt = dialect_named('mini').prompt(text, control_tokens(processor))
    expected = processor.tokenizer(chat_text(processor, prompt))['input_ids']
    before, after = small._ids(Query(text))
    assert [*before, 5, *after] == expected


def test_the_profile_mini_answers_without_torch() -> None:
    code = (
        'import sys\n'
        'from segzero_ros.config import read_profile, reasoner_options, segmenter_options\n'
        'from segzero_ros.loading import load_pipeline\n'
        'from segzero_ros.simulation.scenes import make_scene\n'
        'from segzero_ros.types import Query\n'
        'get = read_profile("mini").__getitem__\n'
        'pipeline = load_pipeline(reasoner_options(get), segmenter_options(get))\n'
        'scene = make_scene(310_000)\n'
        'assert pipeline.answer(scene.frame, Query(scene.sentences[0].text)).segments\n'
        'print(*{name.partition(".")[0] for name in sys.modules})'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {'torch', 'torchvision', 'transformers', 'scipy', 'huggingface_hub', 'sympy'}
    assert 'tokenizers' in done.stdout.split()
    assert not heavy & set(done.stdout.split())


class Changed:
    """A copy of the checkpoint that differs in something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / 'copy'
        shutil.copytree(FOLDER, self.folder)

    def set(self, file: str, *path: str, value: Any) -> None:
        """Set one value of a JSON file."""
        content = inner = json.loads((self.folder / file).read_text())
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        (self.folder / file).write_text(json.dumps(content))

    def weights(self, change: Any) -> None:
        """Write the weights that a function makes of them."""
        path = self.folder / 'model.safetensors'
        save_file(change(load_file(path)), path)

    def options(self) -> ReasonerOptions:
        """Return the profile's, with this folder."""
        return replace(OPTIONS, model=str(self.folder))


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    return Changed(tmp_path)


@pytest.mark.parametrize(
    ('file', 'path', 'value'),
    [
        ('config.json', ('vision_config', 'window_size'), 112),
        ('config.json', ('vision_config', 'hidden_act'), 'gelu'),
        ('config.json', ('vision_config', 'rope_parameters', 'rope_theta'), 500.0),
        ('config.json', ('text_config', 'rope_parameters', 'rope_type'), 'yarn'),
        ('config.json', ('text_config', 'use_sliding_window'), True),
        ('config.json', ('tie_word_embeddings',), True),
        ('config.json', ('image_token_id',), 1000),
        ('generation_config.json', ('repetition_penalty',), 1.3),
        ('processor_config.json', ('image_processor', 'patch_size'), 14),
        ('processor_config.json', ('image_processor', 'do_normalize'), False),
    ],
)
def test_what_numpy_does_not_compute_is_left_to_transformers(
    changed: Changed, file: str, path: tuple[str, ...], value: Any
) -> None:
    assert load_small_model(changed.options()) is not None
    changed.set(file, *path, value=value)
    assert load_small_model(changed.options()) is None


@pytest.mark.parametrize(
    'change',
    [
        lambda weights: {k: v for k, v in weights.items() if k != 'visual.blocks.3.norm1.weight'},
        lambda weights: {k: v for k, v in weights.items() if k != 'lm_head.weight'},
        lambda weights: weights | {'model.norm.weight': np.ones(7, np.float16)},
        lambda weights: {k: v.astype(np.float64) for k, v in weights.items()},
    ],
)
def test_weights_that_do_not_fit_are_left_to_transformers(changed: Changed, change: Any) -> None:
    changed.weights(change)
    assert load_small_model(changed.options()) is None


def test_weights_by_their_later_names_and_in_float32_are_the_same(
    changed: Changed, small: Any
) -> None:
    def renamed(name: str) -> str:
        if name.startswith('visual.'):
            return f'model.{name}'
        return name.replace('model.', 'model.language_model.', 1)

    changed.weights(lambda weights: {renamed(k): v.astype(np.float32) for k, v in weights.items()})
    reasoner = load_small_model(changed.options())
    scene = make_scene(310_001)
    query = Query(scene.sentences[0].text)
    assert heard(reasoner, scene.frame, query) == heard(small, scene.frame, query)


@pytest.mark.parametrize(
    'options',
    [{'device': 'auto'}, {'dtype': 'auto'}, {'quantization': 'int8'}, {'fast_decoding': False}],
)
def test_other_options_are_left_to_transformers(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('transformers')
    from segzero_ros.reasoning import transformers_reasoner

    monkeypatch.setattr(transformers_reasoner, 'TransformersReasoner', lambda *_: 'transformers')
    assert load_reasoner(replace(OPTIONS, **options)) == 'transformers'


def test_it_stops_when_canceled_late_or_closed(small: Any) -> None:
    scene = make_scene(310_000)
    query = Query(scene.sentences[0].text)
    pieces: list[str] = []
    with pytest.raises(Cancelled) as stopped:
        small.reason(scene.frame, query, pieces.append, lambda: len(pieces) > 2)
    assert len(pieces) == 3
    assert str(stopped.value) or pieces
    limited = load_reasoner(replace(OPTIONS, time_limit=1e-6))
    with pytest.raises(ReasonerTimeout, match=r'limits\.answer_time'):
        limited.reason(scene.frame, query)
    limited.close()
    with pytest.raises(ReasonerUnavailable, match='closed'):
        limited.reason(scene.frame, query)


def test_an_answer_that_is_cut_off_says_so() -> None:
    from segzero_ros.types import MalformedAnswer

    short = load_reasoner(replace(OPTIONS, max_new_tokens=5))
    scene = make_scene(310_000)
    with pytest.raises(MalformedAnswer, match='cut off at max_new_tokens=5'):
        short.reason(scene.frame, Query(scene.sentences[0].text))


def test_attention_is_causal_from_the_last_keys_on() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, n, 4)).astype(np.float32) for n in (3, 5, 5))
    mixed = attend(query, key, value, causal=True)
    for number in range(3):
        seen = slice(0, 3 + number)
        alone = attend(query[:, [number]], key[:, seen], value[:, seen])
        np.testing.assert_allclose(mixed[:, [number]], alone, rtol=1e-5)


def test_activations_bear_large_values() -> None:
    values = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32)
    with np.errstate(all='raise', under='ignore'):
        np.testing.assert_allclose(silu(values), [0, -0.26894143, 0, 0.7310586, 1e4], atol=1e-6)
        np.testing.assert_allclose(gelu(values), [0, -0.15865525, 0, 0.8413447, 1e4], atol=1e-6)
