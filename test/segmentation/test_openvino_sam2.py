"""SAM 2 by OpenVINO: torch's masks, a cache that survives anything, and torch where it fails."""

import builtins
import errno
import logging
from pathlib import Path
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

pytest.importorskip('segzero_ros.segmentation.openvino_import')

from segzero_ros.loading import load_segmenter, load_tracker, SegmenterOptions
from segzero_ros.segmentation import compiled_cache, openvino_sam2, sam2_runtime
from segzero_ros.segmentation.compiled_cache import (
    cache_folder,
    CacheError,
    read_entry,
    write_entry,
)
from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, Roi, Segment

OBJECTS = (
    GroundedObject((100.0, 80.0, 400.0, 300.0), ()),
    GroundedObject((10.0, 20.0, 200.0, 380.0), ((100.0, 200.0), (60.0, 90.0))),
    GroundedObject(None, ((300.0, 200.0),)),
)


def options(weights: Path, runtime: str = 'auto', dtype: str = 'float32') -> SegmenterOptions:
    return SegmenterOptions('sam2', str(weights), device='cpu', dtype=dtype, runtime=runtime)


@pytest.fixture(scope='module')
def warm_cache(tiny_sam2, tmp_path_factory):
    """A cache folder that holds the tiny checkpoint in float32."""
    folder = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(folder))
        load_segmenter(options(tiny_sam2)).close()
    return folder


@pytest.fixture
def cache(warm_cache, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(warm_cache))
    return cache_folder()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return cache_folder()


@pytest.fixture
def photograph():
    return Frame(pytest.importorskip('skimage.data').coffee())


@pytest.fixture
def never_converted(monkeypatch):
    """Fail where something is converted that should have come from the cache."""
    monkeypatch.setattr(openvino_sam2, '_convert', lambda *_: pytest.fail('it was converted'))


@pytest.fixture
def quickly_converted(warm_cache, monkeypatch):
    """Take what was converted before, as conversion takes seconds."""
    (entry,) = (warm_cache / 'segzero_ros' / 'openvino').iterdir()
    blobs = read_from(entry)
    made = openvino_sam2.OpenVinoSam2
    parts = 'encoder.blob', 'decoder.blob'
    monkeypatch.setattr(
        made, '_converted', lambda self: tuple(self._read(blobs[part]) for part in parts)
    )
    return entry


def read_from(entry: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in entry.glob('*.blob')}


def masks(segmenter, frame):
    return segmenter.segment(segmenter.encode(frame), Grounding('', OBJECTS))


def iou(ours, theirs) -> float:
    return (ours & theirs).sum() / max(1, (ours | theirs).sum())


def warnings_in(caplog) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and 'finds no GPU' not in record.getMessage()
    ]


def test_masks_and_scores_of_a_photograph_are_torchs(tiny_sam2, cache, photograph):
    ours = load_segmenter(options(tiny_sam2))
    theirs = load_segmenter(options(tiny_sam2, 'torch'))
    assert ours.runtime.startswith('OpenVINO 20') and theirs.runtime == 'torch'
    for got, expected in zip(masks(ours, photograph), masks(theirs, photograph), strict=True):
        assert iou(got.mask, expected.mask) >= 0.999
        assert got.score == pytest.approx(expected.score, abs=1e-4)
        assert 0.01 < expected.mask.mean() < 0.99


def test_bfloat16_is_used_where_the_processor_has_it_and_its_masks_agree(
    tiny_sam2, empty_cache, photograph
):
    from segzero_ros.segmentation.openvino_import import openvino

    has_it = 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    ours = load_segmenter(options(tiny_sam2, dtype='auto'))
    assert ours.runtime.endswith('bf16' if has_it else 'f32')
    theirs = load_segmenter(options(tiny_sam2, 'torch'))
    pairs = zip(masks(ours, photograph), masks(theirs, photograph), strict=True)
    assert min(iou(got.mask, expected.mask) for got, expected in pairs) >= 0.95


def test_tracking_goes_through_the_same_encoder(tiny_sam2, cache, photograph):
    mask = np.zeros(photograph.image.shape[:2], bool)
    mask[100:250, 150:400] = True
    roi = Roi(0, 0, mask.shape[1], mask.shape[0])
    segment = Segment(1, 'mug', 0.9, roi, (), roi, mask)
    moved = Frame(np.roll(photograph.image, 5, axis=1))
    tracked = []
    for runtime in ('openvino', 'torch'):
        chosen = options(tiny_sam2, runtime)
        segmenter = load_segmenter(chosen)
        if runtime == 'openvino':
            # The encoder of torch must not be what encodes.
            segmenter.model.image_encoder.forward = lambda *_: pytest.fail('torch encoded')
        tracker = load_tracker(chosen, segmenter)
        tracker.start(photograph, [segment])
        tracked.append([tracker.step(moved) for _ in range(2)])
    for (ours,), (theirs,) in zip(*tracked, strict=True):
        assert ours.lost == theirs.lost
        if not theirs.lost:
            a, b = (track.segment.full_mask(*mask.shape) for track in (ours, theirs))
            assert iou(a, b) >= 0.99


def test_a_warm_cache_is_read_and_nothing_is_converted(
    tiny_sam2, cache, photograph, never_converted, caplog
):
    caplog.set_level(logging.INFO)
    segmenter = load_segmenter(options(tiny_sam2))
    assert segmenter.runtime.startswith('OpenVINO') and not warnings_in(caplog)
    assert masks(segmenter, photograph)


def test_other_weights_of_the_same_name_are_another_entry(
    tiny_sam2, warm_cache, empty_cache, tmp_path, photograph
):
    shutil.copytree(warm_cache / 'segzero_ros', tmp_path / 'cache' / 'segzero_ros')
    other = tmp_path / tiny_sam2.name
    state = torch.load(tiny_sam2, weights_only=True)['model']
    state['sam_mask_decoder.iou_token.weight'] += 1
    torch.save({'model': state}, other)
    other.with_suffix('.yaml').write_bytes(tiny_sam2.with_suffix('.yaml').read_bytes())
    ours, theirs = (load_segmenter(options(other, name)) for name in ('openvino', 'torch'))
    pairs = list(zip(masks(ours, photograph), masks(theirs, photograph), strict=True))
    assert all(got.score == pytest.approx(right.score, abs=1e-4) for got, right in pairs)
    assert len(list(empty_cache.iterdir())) == 2


@pytest.mark.parametrize('damage', ['flipped', 'truncated', 'missing', 'foreign', 'a file'])
def test_a_damaged_cache_is_one_warning_and_is_made_anew(
    tiny_sam2, quickly_converted, empty_cache, photograph, caplog, damage
):
    entry = quickly_converted
    blob = (entry / 'encoder.blob').read_bytes()
    damaged = empty_cache / entry.name
    if damage == 'a file':
        damaged.parent.mkdir(parents=True)
        damaged.write_text('something else')
    else:
        write_entry(entry.name, read_from(entry))
    if damage == 'flipped':
        middle = len(blob) // 2
        flipped = blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]
        (damaged / 'encoder.blob').write_bytes(flipped)
    elif damage == 'truncated':
        (damaged / 'encoder.blob').write_bytes(blob[:1000])
    elif damage == 'missing':
        (damaged / 'encoder.blob').unlink()
    elif damage == 'foreign':
        (damaged / 'checksums.json').write_text('[1, 2]')
    segmenter = load_segmenter(options(tiny_sam2))
    (said,) = warnings_in(caplog)
    assert 'converted again' in said and entry.name in said
    assert segmenter.runtime.startswith('OpenVINO') and masks(segmenter, photograph)
    assert read_entry(entry.name).keys() == read_from(entry).keys()
    assert [path.name for path in empty_cache.iterdir()] == [entry.name]


def test_a_full_disk_is_one_warning_and_openvino_goes_on(
    tiny_sam2, quickly_converted, empty_cache, photograph, monkeypatch, caplog
):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', full)
        segmenter = load_segmenter(options(tiny_sam2))
    (said,) = warnings_in(caplog)
    assert 'No space left on device' in said and 'next start' in said
    assert segmenter.runtime.startswith('OpenVINO') and masks(segmenter, photograph)
    assert list(empty_cache.glob('*')) == []


def test_a_cache_that_cannot_be_made_is_one_warning(
    tiny_sam2, quickly_converted, tmp_path, monkeypatch, caplog
):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert load_segmenter(options(tiny_sam2)).runtime.startswith('OpenVINO')
    (said,) = warnings_in(caplog)
    assert str(tmp_path / 'file') in said


def without_openvino(monkeypatch, error):
    real = builtins.__import__

    def imported(name, *arguments, **options):
        if name.partition('.')[0] == 'openvino':
            raise error
        return real(name, *arguments, **options)

    for module in ('openvino_sam2', 'openvino_import'):
        monkeypatch.delitem(sys.modules, f'segzero_ros.segmentation.{module}')
    monkeypatch.setattr(builtins, '__import__', imported)


@pytest.mark.parametrize('runtime, said', [('auto', 0), ('openvino', 1)])
def test_without_the_extra_torch_runs_and_the_extra_is_named_where_it_was_asked_for(
    tiny_sam2, photograph, monkeypatch, caplog, runtime, said
):
    missing = ModuleNotFoundError("No module named 'openvino'", name='openvino')
    without_openvino(monkeypatch, missing)
    segmenter = load_segmenter(options(tiny_sam2, runtime))
    assert segmenter.runtime == 'torch' and masks(segmenter, photograph)
    found = warnings_in(caplog)
    assert len(found) == said
    assert all('openvino, which is not installed' in line for line in found)
    assert all('install_models openvino' in line for line in found)


def test_an_extra_that_cannot_be_imported_is_named_and_torch_runs(tiny_sam2, monkeypatch, caplog):
    without_openvino(monkeypatch, ImportError('libtbb.so.12: no such file', name='openvino'))
    assert load_segmenter(options(tiny_sam2)).runtime == 'torch'
    (said,) = warnings_in(caplog)
    assert 'libtbb.so.12' in said


def raising(*_):
    raise RuntimeError('No conversion rule for aten::new_op\nand much more')


class Shifted(torch.nn.Module):
    """An encoder with other features."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels):
        return tuple(values + 5 for values in self.encoder(pixels))


def test_a_failed_conversion_is_one_sentence_and_torch_runs(
    tiny_sam2, empty_cache, photograph, monkeypatch, caplog
):
    monkeypatch.setattr(openvino_sam2, '_convert', raising)
    segmenter = load_segmenter(options(tiny_sam2))
    (said,) = warnings_in(caplog)
    assert 'No conversion rule for aten::new_op' in said and 'much more' not in said
    assert segmenter.runtime == 'torch' and masks(segmenter, photograph)
    assert not empty_cache.exists()


def test_a_conversion_with_other_features_is_refused_and_torch_runs(
    tiny_sam2, empty_cache, monkeypatch, caplog
):
    convert = openvino_sam2._convert
    monkeypatch.setattr(
        openvino_sam2, '_convert', lambda part, inputs: convert(Shifted(part).eval(), inputs)
    )
    assert load_segmenter(options(tiny_sam2)).runtime == 'torch'
    (said,) = warnings_in(caplog)
    assert "differs from torch's" in said
    assert not empty_cache.exists()


def test_float16_and_a_gpu_are_torchs(tiny_sam2, caplog):
    network = Sam2Segmenter(str(tiny_sam2), device='cpu').model
    gpu = torch.device('cuda', 0)
    assert sam2_runtime.load_runtime('auto', network, None, gpu, 'auto') is None
    assert not warnings_in(caplog)
    assert sam2_runtime.load_runtime('openvino', network, None, gpu, 'auto') is None
    assert 'cuda:0' in warnings_in(caplog)[0]


def test_a_cancel_ends_the_encoder_and_the_next_image_is_right(
    tiny_sam2, cache, photograph, monkeypatch
):
    # The tiny network is done within the usual period.
    monkeypatch.setattr(openvino_sam2, 'CHECK_PERIOD', 0)
    segmenter = load_segmenter(options(tiny_sam2))
    expected = segmenter.encode(photograph).features

    def cancel_at(call: int):
        calls = iter(range(1, call + 1))

        def check():
            if next(calls) == call:
                raise Cancelled('enough')

        return check

    for call in (1, 2):
        with pytest.raises(Cancelled):
            segmenter.encode(photograph, cancel_at(call))
        assert torch.equal(segmenter.encode(photograph).features, expected)
    encoding = segmenter.encode(photograph)
    with pytest.raises(Cancelled):
        segmenter.segment(encoding, Grounding('', OBJECTS), cancel_at(1))


def test_two_that_write_the_same_entry_leave_one_that_can_be_read(empty_cache):
    content = {'encoder.blob': bytes(range(256)) * 4000}
    errors: list[BaseException] = []

    def write():
        try:
            for _ in range(20):
                write_entry('a' * 32, content)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert read_entry('a' * 32) == content
    assert [path.name for path in empty_cache.iterdir()] == ['a' * 32]


def test_what_a_killed_process_left_is_removed_after_a_while(empty_cache, monkeypatch):
    left = empty_cache / f'{"b" * 32}.x{compiled_cache._UNFINISHED}'
    left.mkdir(parents=True)
    write_entry('a' * 32, {'x': b'1'})
    assert left.exists()
    monkeypatch.setattr(compiled_cache, '_ABANDONED_AFTER', -1.0)
    write_entry('c' * 32, {'x': b'1'})
    assert not left.exists()


def test_an_entry_that_leads_out_of_its_folder_is_refused(empty_cache):
    write_entry('a' * 32, {'x': b'1'})
    (empty_cache / ('a' * 32) / 'checksums.json').write_text('{"../../x": "0"}')
    with pytest.raises(CacheError):
        read_entry('a' * 32)


def test_converting_reports_nothing_to_anybody(tiny_sam2, tmp_path):
    """OpenVINO's import and `convert_model` would report their use over the network."""
    code = (
        'import sys, openvino_telemetry\n'
        'def sent(*_, **__): raise SystemExit("telemetry")\n'
        'openvino_telemetry.Telemetry.__init__ = sent\n'
        'from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter\n'
        'made = Sam2Segmenter(sys.argv[1], device="cpu", runtime="openvino")\n'
        'assert made.runtime.startswith("OpenVINO"), made.runtime\n'
    )
    environment = {'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    path = ':'.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, '-c', code, str(tiny_sam2)],
        capture_output=True,
        text=True,
        env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': path, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert [found.name for found in tmp_path.iterdir()] == ['cache']
