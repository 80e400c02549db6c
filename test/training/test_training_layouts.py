"""Training from checkpoints as the hub holds them, and checkpoints made of what trainers leave."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('trl')
pytest.importorskip('peft')

from published_layout import published_name, rewrite, Variant
from safetensors.torch import load_file, save_file

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.training.export import export, main
from segzero_ros.training.settings import load_settings
from segzero_ros.training.trainer import train
from segzero_ros.types import Frame, Query


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def published(taught: Path, tmp_path_factory: Any) -> Path:
    """The taught model as GRPO trainers of 2025 export one, bound to too few pixels."""
    bounds = (('max_pixels', 25088), ('size', {'shortest_edge': 3136, 'longest_edge': 25088}))
    folder = tmp_path_factory.mktemp('published') / 'model'
    return rewrite(taught, folder, Variant(eos_in_config=False, preprocessor=bounds))


def learnt(model: Path, rows: Path, output: Path, **changes: Any) -> Path:
    """Train one step, and return the folder of the run."""
    overrides = {
        'model': str(model),
        'data': str(rows),
        'output': str(output),
        'steps': 1,
        'prompts': 2,
        'generations': 4,
        'micro_batch': 8,
        'max_completion': 40,
        'learning_rate': 1e-2,
        'save_every': 1,
        'last_layers': 0,
    }
    settings = load_settings('mini', overrides | changes)
    train(settings)
    return settings.folder


@pytest.fixture(scope='module')
def adapted(published: Path, rows_folder: Path, tmp_path_factory: Any) -> Path:
    """The folder of a run that trained an adapter."""
    output = tmp_path_factory.mktemp('adapted') / 'run'
    return learnt(published, rows_folder, output, lora_rank=4, method='sft', micro_batch=2)


@pytest.fixture
def adapter(adapted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapted / 'steps' / 'checkpoint-1', tmp_path / 'adapter'))


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.glob('model*.safetensors'):
        found |= load_file(path)
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize('method', ['grpo', 'sft'])
def test_the_same_is_learnt_from_either_layout(method, taught, published, rows_folder, tmp_path):
    changes = {'method': method, 'micro_batch': 8 if method == 'grpo' else 2}
    runs = [
        learnt(model, rows_folder, tmp_path / model.parent.name, **changes)
        for model in (taught, published)
    ]
    after = [weights(run / 'checkpoint') for run in runs]
    assert same(*after)
    before = {published_name(name): value for name, value in weights(taught).items()}
    assert not same({published_name(name): value for name, value in after[0].items()}, before)
    # The image processor goes along as it came.
    written = json.loads((runs[1] / 'checkpoint' / 'processor_config.json').read_text())
    assert written['image_processor']['size']['longest_edge'] == 25088


class TestExport:
    def test_an_adapter_of_this_release(self, adapted, adapter, published, tmp_path):
        export(adapter, tmp_path / 'whole')
        merged = weights(tmp_path / 'whole')
        assert same(merged, weights(adapted / 'checkpoint'))
        assert not same(merged, weights(published))

    @pytest.mark.parametrize('targets', ['list', 'pattern'])
    def test_an_adapter_of_2025_reaches_every_layer(
        self, targets, adapted, adapter, published, tmp_path
    ):
        file = adapter / 'adapter_model.safetensors'
        prefix = 'base_model.model.'
        saved = {
            prefix + published_name(name.removeprefix(prefix)): value
            for name, value in load_file(file).items()
        }
        assert all('language_model' not in name for name in saved)
        save_file(saved, file)
        kinds = {'list': ['q_proj', 'v_proj'], 'pattern': r'model\.layers\.\d+\.self_attn\..*'}
        change(adapter / 'adapter_config.json', target_modules=kinds[targets])
        main([str(adapter), str(tmp_path / 'whole'), '--base', str(published)])
        assert same(weights(tmp_path / 'whole'), weights(adapted / 'checkpoint'))

    def test_pickled_weights(self, published, tmp_path, make_tiny_checkpoints):
        folder = Path(shutil.copytree(published, tmp_path / 'pickled'))
        torch.save(weights(folder), folder / 'pytorch_model.bin')
        for path in folder.glob('model*'):
            path.unlink()
        main([str(folder), str(tmp_path / 'whole')])
        assert same(weights(tmp_path / 'whole'), weights(published))
        options = ReasonerOptions('transformers', str(tmp_path / 'whole'), 'mini', device='cpu')
        image = make_tiny_checkpoints.scene(224, 224, (40, 60, 120, 160, 'red'))
        assert len(load_reasoner(options).reason(Frame(image), Query('the red box')).objects) == 1

    @pytest.mark.parametrize(
        ('spoil', 'said'),
        [
            ({'base_model_name_or_path': None}, 'does not name its base model: use --base'),
            (
                {'base_model_name_or_path': '/gone/base'},
                '/gone/base of the adapter .* does not exist: use --base',
            ),
            ({'peft_type': 'IA3'}, 'is IA3, not LoRA'),
            ({'r': 8}, 'does not fit the model'),
        ],
    )
    def test_what_cannot_be_merged_is_named(self, spoil, said, adapter, tmp_path):
        change(adapter / 'adapter_config.json', **spoil)
        with pytest.raises(SystemExit, match=said):
            main([str(adapter), str(tmp_path / 'whole')])
        assert not (tmp_path / 'whole').exists()

    def test_an_adapter_of_another_model(self, adapter, tmp_path):
        file = adapter / 'adapter_model.safetensors'
        saved = {
            name.replace('.layers.1.', '.layers.9.'): v for name, v in load_file(file).items()
        }
        save_file(saved, file)
        with pytest.raises(SystemExit, match=r'no layer model.language_model.layers.9'):
            main([str(adapter), str(tmp_path / 'whole')])

    def test_nothing_to_export(self, published, tmp_path):
        with pytest.raises(SystemExit, match='there is nothing to export'):
            main([str(published), str(tmp_path / 'whole')])
        with pytest.raises(SystemExit, match='is not empty: choose a new folder'):
            main([str(published), str(published)])
