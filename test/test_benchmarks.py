"""The benchmark of the reasoner goes the way of a full-size run, on a CPU and in seconds."""

import json
from pathlib import Path
import re
from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('sam2')

from benchmarks import decode_step, reasoner, segmenter
from benchmarks.published import predictor_of
from benchmarks.random_checkpoints import make_random_sam2, SHAPES
from segzero_ros.loading import load_segmenter, SegmenterOptions


def test_a_full_size_run_writes_every_figure_under_the_machines_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoner, '_device_name', lambda _: 'Some GPU 80GB')
    arguments = '--full-size small --device cpu --rounds 1 --tokens 70 --bandwidth 10'
    reasoner.main([*arguments.split(), '--output', str(tmp_path)])
    (path,) = tmp_path.iterdir()
    results = json.loads(path.read_text())
    assert path.name == f'reasoner_small_some_gpu_80gb_{results["threads"]}.json'
    assert results['device'] == 'Some GPU 80GB'
    runs = [name for name in results if name.endswith(' tokens')]
    assert runs[0] == '1 objects, 70 tokens'
    assert runs[1].startswith('8 objects, ')
    for name in (*runs, 'further question, same frame'):
        for way in ('published', 'here'):
            figures = results[name][way]
            assert 0 < figures['first_word'] < figures['mask']
    assert results['tokens_per_second'] > 0
    assert results['bandwidth_GB_s'] == 10
    assert 0 < results['share_of_bandwidth_floor'] < 1
    cancels = results['seconds from cancel to idle, while']
    assert all(len(seconds) == 3 and min(seconds) >= 0 for seconds in cancels.values())


def test_peers_write_the_same_answer_beside_ours_and_one_that_cannot_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = '--full-size small --device cpu --rounds 1 --tokens 8 --peer published'
    words = [*arguments.split(), '--peer', 'flash']
    reasoner.main([*words, '--output', str(tmp_path)])
    (path,) = tmp_path.iterdir()
    results = json.loads(path.read_text())
    assert set(results['ways']) == {'ours', 'published'}
    assert results['missing'] == {'flash': 'flash-attention needs a GPU'}
    assert 'flash: not measured: flash-attention needs a GPU' in capsys.readouterr().out
    for way in results['ways'].values():
        assert way['tokens_right'] == 1.0
        assert way['box_shift_px'] == 0.0
        assert 0 < way['first_token_s']['median'] < way['answer_s']['median']
        assert 100 < way['resident_MB'] <= way['peak_MB']


def test_parts_are_compared_step_by_step_and_the_first_way_is_the_measure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    decode_step.main(['--size', 'small', '--rounds', '2'])
    _, *lines = capsys.readouterr().out.strip().splitlines()
    found = [re.fullmatch(r'(.+), (.+): [\d.]+ ms, ([\d.]+) x', line) for line in lines]
    titles = [each[1] for each in found if each]
    assert titles == ['one token'] * 3 + ['8 rows'] * 2 + ['3600 patches'] * 2
    ratios = [float(each[3]) for each in found if each]
    assert ratios[0] == ratios[3] == ratios[5] == 1
    assert min(ratios) > 0


def test_a_part_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reasoner.main(['--without', 'magic'])
    assert 'there is no part magic' in capsys.readouterr().err


def test_what_is_read_for_a_token_is_that_of_the_published_sizes(tmp_path: Path) -> None:
    bench = reasoner.Bench('small', 'cpu', tmp_path)
    weight = next(iter(bench.published.model.parameters())).element_size()
    width, layers, _, key_heads, inner = SHAPES['small'][0]
    attention = 2 * width * width + 2 * width * key_heads * width // 2
    biases_and_norms = width + 2 * (key_heads * width // 2) + 2 * width
    layer = attention + 3 * width * inner + biases_and_norms
    assert bench.weights == weight * (layers * layer + width * SHAPES['small'][2])
    assert bench.cache_per_token == 2 * layers * key_heads * (width // 2) * weight


def test_without_a_gpu_a_full_size_run_says_what_can_be_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        reasoner.main(['--full-size', '7b'])
    assert 'no GPU' in capsys.readouterr().err


def test_random_weights_fit_the_packages_own_configuration_both_ways(tmp_path: Path) -> None:
    weights = make_random_sam2(tmp_path, 'sam2/sam2_hiera_t.yaml')
    loaded: Any = load_segmenter(
        SegmenterOptions('sam2', str(weights), device='cpu', runtime='torch')
    )
    ours, theirs = loaded.model.state_dict(), predictor_of(weights, 'cpu').model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.model.image_size == 1024


def test_sizes_that_are_published_stand_beside_sam_2_large() -> None:
    from segzero_ros.segmentation.sam2_checkpoint import PUBLISHED

    known = {published.config for published in PUBLISHED.values()}
    assert set(reasoner.SAM2.values()) <= known
    assert {Path(config).name for config in reasoner.SAM2.values()} == {'sam2_hiera_l.yaml'}


def test_the_segmenters_peers_are_measured_beside_it_with_the_same_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('skimage')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

    def missing(*_: object) -> Any:
        raise ModuleNotFoundError("No module named 'onnx'")

    monkeypatch.setitem(segmenter.WAYS, 'onnxruntime', missing)
    peers = '--peer here_torch --peer onnxruntime'
    output = tmp_path / 'figures.json'
    words = f'{peers} --size test --rounds 1 --prompts 4 --output {output}'
    segmenter.main(words.split())
    ways = json.loads(output.read_text())['ways']
    # What cannot be run is left out, and the package is always there to compare with.
    assert list(ways) == ['here', 'here_torch', 'sam2']
    for row in ways.values():
        assert 0 < row['encode'][0] <= row['encode'][1] <= row['encode'][2]
        assert len(row['times_sam2']) == 2 and min(row['times_sam2']) > 0
    assert ways['here_torch']['iou'] == [1, 1]
    # Less than 1 where the processor computes in bfloat16: random weights make frayed masks.
    assert ways['here']['iou'][0] > 0.97
