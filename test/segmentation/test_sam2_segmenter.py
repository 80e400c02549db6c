"""SAM 2: the package's own masks, pixel for pixel, and errors that name cause and cure."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import logging
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from segzero_ros import onednn
from segzero_ros.loading import load_segmenter, SegmenterOptions
from segzero_ros.segmentation import prompted_masks, sam2_checkpoint
from segzero_ros.segmentation.prompted_masks import batches
from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
from segzero_ros.segmentation.torch_model import choose_device
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, SegmenterUnavailable

SIZES = [(480, 640), (720, 1280), (333, 217), (64, 500)]


@pytest.fixture(scope='module')
def segmenter(tiny_sam2):
    made = Sam2Segmenter(str(tiny_sam2), device='cpu')
    yield made
    made.close()


@pytest.fixture(scope='module')
def predictor(tiny_sam2):
    """The package's own way, on a model built by the package's own classes."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    checkpoint = sam2_checkpoint.find_checkpoint(str(tiny_sam2))
    made = SAM2ImagePredictor(sam2_checkpoint.build_model(checkpoint, torch.device('cpu')))
    # It knows these for 1024-pixel models only.
    made._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
    return made


def picture(height: int, width: int) -> np.ndarray:
    """Smooth blobs of colour with some noise: edges for the encoder to see."""
    random = np.random.default_rng(height * 10_000 + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(9, 80) + y / random.uniform(9, 80)) for _ in range(3)]
    smooth = 128 + 90 * np.stack(waves, axis=-1)
    return (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def some_objects(
    count: int, points: list[int], height: int, width: int
) -> tuple[GroundedObject, ...]:
    random = np.random.default_rng(count * 100 + sum(points))
    made = []
    for number in range(count):
        x1, x2 = np.sort(random.choice(width + 1, 2, replace=False))
        y1, y2 = np.sort(random.choice(height + 1, 2, replace=False))
        inside = tuple(
            (float(random.integers(x1, x2)), float(random.integers(y1, y2)))
            for _ in range(points[number % len(points)])
        )
        made.append(GroundedObject((float(x1), float(y1), float(x2), float(y2)), inside))
    return tuple(made)


def published_masks(predictor, image, objects):
    """The published procedure: one object after the other, the first of the sorted scores."""
    with torch.inference_mode():
        predictor.set_image(image)
        for found in objects:
            masks, scores, _ = predictor.predict(
                point_coords=np.array(found.points) if found.points else None,
                point_labels=np.ones(len(found.points)) if found.points else None,
                box=np.array(found.box),
            )
            best = np.argsort(scores)[::-1][0]
            yield masks[best].astype(bool), scores[best]


@pytest.mark.parametrize('height, width', SIZES)
def test_the_picture_is_prepared_as_the_package_does_it(segmenter, predictor, height, width):
    image = picture(height, width)
    ours = segmenter.prepare(image)[0]
    theirs = predictor._transforms(image)
    assert ours.shape == theirs.shape == (3, 256, 256)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize('height, width', SIZES)
@pytest.mark.parametrize('count, points', [(1, [0]), (1, [1]), (1, [2]), (8, [1]), (8, [0, 1, 2])])
def test_masks_are_those_of_the_package_pixel_for_pixel(
    segmenter, predictor, height, width, count, points
):
    image = picture(height, width)
    objects = some_objects(count, points, height, width)
    made = segmenter.segment(segmenter.encode(Frame(image)), Grounding('', objects))
    expected = list(published_masks(predictor, image, objects))
    assert len(made) == len(expected) == count
    for (mask, score), (expected_mask, expected_score) in zip(made, expected, strict=True):
        assert mask.dtype == np.bool_ and mask.shape == (height, width)
        assert np.array_equal(mask, expected_mask), (
            f'{(mask != expected_mask).sum()} pixels differ'
        )
        assert score == pytest.approx(expected_score, abs=1e-5)
    # The comparison means something: there are masks, and they are not all of the picture.
    assert 0.01 < np.mean([mask.mean() for mask, _ in made]) < 0.99


def test_one_encoding_serves_many_queries(segmenter):
    frame = Frame(picture(240, 320))
    encoding = segmenter.encode(frame)
    first, second = (Grounding('', some_objects(n, [1], 240, 320)) for n in (2, 3))
    before = segmenter.segment(encoding, first)
    segmenter.segment(encoding, second)
    again = segmenter.segment(encoding, first)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(before, again, strict=True))


@pytest.mark.parametrize(
    'threads, processors, takes_all', [(1, 1, False), (1, 2, False), (2, 2, True), (2, 3, False)]
)
def test_it_takes_all_processors_where_two_teams_of_its_threads_have_no_room(
    segmenter, monkeypatch, threads, processors, takes_all
):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(processors)))
    assert segmenter.takes_all_processors == takes_all


def test_encoding_is_ended_by_what_the_check_raises_and_leaves_nothing_behind(segmenter):
    frame = Frame(picture(240, 320))
    expected = segmenter.encode(frame).features
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 40:
            raise Cancelled('enough')

    with pytest.raises(Cancelled):
        segmenter.encode(frame, check)
    assert torch.equal(segmenter.encode(frame).features, expected)
    assert len(calls) == 40


@pytest.mark.parametrize('at', [1, 30, 500])
def test_segmenting_is_ended_by_what_the_check_raises_and_leaves_nothing_behind(segmenter, at):
    encoding = segmenter.encode(Frame(picture(240, 320)))
    grounding = Grounding('', some_objects(20, [0, 1], 240, 320))
    expected = segmenter.segment(encoding, grounding)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == at:
            raise Cancelled('enough')

    with pytest.raises(Cancelled):
        segmenter.segment(encoding, grounding, check)
    again = segmenter.segment(encoding, grounding)
    assert len(calls) == at
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(expected, again, strict=True))


def test_segmenting_checks_at_every_layer(segmenter):
    encoding = segmenter.encode(Frame(picture(240, 320)))
    layers = len(list(segmenter.model.sam_mask_decoder.transformer.layers))
    calls = []
    segmenter.segment(
        encoding, Grounding('', some_objects(5, [1], 240, 320)), lambda: calls.append(1)
    )
    assert len(calls) > 5 * (layers + 1)


@pytest.mark.parametrize('height, width', SIZES)
def test_masks_of_a_large_image_are_enlarged_a_few_at_a_time_and_the_same(
    segmenter, monkeypatch, height, width
):
    encoding = segmenter.encode(Frame(picture(height, width)))
    grounding = Grounding('', some_objects(7, [0, 1], height, width))
    at_once = segmenter.segment(encoding, grounding)
    monkeypatch.setattr(prompted_masks, 'MAX_UPSAMPLED_PIXELS', 1)
    in_turn = segmenter.segment(encoding, grounding)
    for one, other in zip(at_once, in_turn, strict=True):
        assert np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize('part', ['image_encoder', 'sam_mask_decoder'])
def test_onednn_is_there_whatever_the_reasoner_does(segmenter, monkeypatch, part):
    module, seen = getattr(segmenter.model, part), []
    plainly = module.forward

    def compute(*given, **named):
        seen.append(bool(torch.backends.mkldnn.enabled))
        return plainly(*given, **named)

    monkeypatch.setattr(module, 'forward', compute)
    with onednn.avoided():
        encoding = segmenter.encode(Frame(picture(240, 320)))
    with onednn.avoided():
        segmenter.segment(encoding, Grounding('', some_objects(1, [1], 240, 320)))
    assert seen == [True]


@pytest.mark.parametrize('part', ['image_encoder', 'sam_mask_decoder'])
def test_memory_that_runs_out_is_named_and_the_next_picture_is_cut(segmenter, monkeypatch, part):
    frame = Frame(picture(240, 320))
    grounding = Grounding('', some_objects(2, [1], 240, 320))
    before = segmenter.segment(segmenter.encode(frame), grounding)

    def compute(*given, **named):
        raise torch.OutOfMemoryError('Tried to allocate 2.00 GiB.')

    with monkeypatch.context() as patched:
        patched.setattr(getattr(segmenter.model, part), 'forward', compute)
        with pytest.raises(
            SegmenterUnavailable, match=r'too little free memory.*smaller checkpoint'
        ):
            segmenter.segment(segmenter.encode(frame), grounding)
    again = segmenter.segment(segmenter.encode(frame), grounding)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(before, again, strict=True))


def test_a_picture_in_a_view_of_memory_is_read_as_it_looks(segmenter):
    image = picture(120, 160)
    mirrored = segmenter.prepare(image[:, ::-1])
    assert torch.equal(mirrored, segmenter.prepare(image[:, ::-1].copy()))


def test_objects_are_decoded_together_only_with_equally_many_points():
    objects = some_objects(40, [1, 2], 100, 100)
    groups = list(batches(objects))
    assert sorted(number for group in groups for number in group) == list(range(40))
    assert max(len(group) for group in groups) <= 15
    assert all(len({len(objects[number].points) for number in group}) == 1 for group in groups)


@pytest.mark.parametrize('height, width', SIZES)
def test_objects_decoded_at_once_get_the_masks_they_get_alone(
    segmenter, monkeypatch, height, width
):
    encoding = segmenter.encode(Frame(picture(height, width)))
    grounding = Grounding('', some_objects(20, [0, 1, 2], height, width))
    alone = segmenter.segment(encoding, grounding)
    monkeypatch.setitem(prompted_masks.MAX_PER_PASS, 'cpu', 15)
    together = segmenter.segment(encoding, grounding)
    for (mask, score), (expected_mask, expected_score) in zip(together, alone, strict=True):
        assert score == pytest.approx(expected_score, abs=1e-5)
        # Rounding differs with the batch: a pixel whose logit is almost zero may fall either way.
        assert (mask != expected_mask).sum() <= max(2, 1e-5 * mask.size)


def test_of_equal_scores_the_last_mask_is_taken(segmenter, monkeypatch):
    frame = Frame(picture(100, 100))
    objects = some_objects(2, [1], 100, 100)
    decoder = segmenter.model.sam_mask_decoder

    def tied(**inputs):
        logits = torch.full((2, 3, 64, 64), -1.0)
        logits[0, 2] = logits[1, 1] = 1.0
        scores = torch.tensor([[0.9, 0.2, 0.9], [0.1, 0.5, 0.5]])
        return logits, scores, None, None

    monkeypatch.setitem(prompted_masks.MAX_PER_PASS, 'cpu', 2)

    monkeypatch.setattr(decoder, 'forward', tied)
    first, second = segmenter.segment(segmenter.encode(frame), Grounding('', objects))
    assert first.mask.all() and first.score == pytest.approx(0.9)
    assert not second.mask.any() and second.score == pytest.approx(0.5)


def test_the_factory_knows_sam2_and_its_name_is_published(tiny_sam2):
    made = load_segmenter(SegmenterOptions('sam2', str(tiny_sam2), device='cpu'))
    assert made.name == 'tiny_sam2.pt'
    made.close()


def test_a_folder_and_a_safetensors_file_load_too(tiny_sam2, tmp_path, segmenter):
    from safetensors.torch import save_file

    save_file(sam2_checkpoint.read_weights(tiny_sam2), tmp_path / 'own.safetensors')
    shutil.copy(tiny_sam2.with_suffix('.yaml'), tmp_path / 'own.yaml')
    made = Sam2Segmenter(str(tmp_path), device='cpu')
    assert made.name == 'own.safetensors'
    frame = Frame(picture(64, 64))
    assert torch.equal(made.encode(frame).features, segmenter.encode(frame).features)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_16_bits_can_be_had_and_give_nearly_the_same_masks(tiny_sam2, segmenter, dtype):
    frame = Frame(picture(240, 320))
    grounding = Grounding('', some_objects(4, [1], 240, 320))
    rough = Sam2Segmenter(str(tiny_sam2), device='cpu', dtype=dtype)
    masks = rough.segment(rough.encode(frame), grounding)
    exact = segmenter.segment(segmenter.encode(frame), grounding)
    assert rough.encode(frame).high_resolution[0].dtype == getattr(torch, dtype)
    differing = np.mean([np.mean(a.mask != b.mask) for a, b in zip(masks, exact, strict=True)])
    assert 0 < differing < 0.2


def test_every_published_name_leads_to_the_packages_own_files():
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    ours = {
        name: (f'configs/{published.config}', published.file)
        for name, published in sam2_checkpoint.PUBLISHED.items()
    }
    assert ours == HF_MODEL_ID_TO_FILENAMES
    for published in sam2_checkpoint.PUBLISHED.values():
        assert (sam2_checkpoint._configs() / published.config).is_file()


@pytest.mark.parametrize(
    'name',
    [
        'sam2.1_hiera_t.yaml',
        'sam2.1_hiera_t',
        'configs/sam2.1/sam2.1_hiera_t.yaml',
        'facebook/sam2.1-hiera-tiny',
    ],
)
def test_a_configuration_may_be_named_in_any_usual_way(tiny_sam2, name):
    found = sam2_checkpoint.find_checkpoint(str(tiny_sam2), name)
    assert found.config.name == 'sam2.1_hiera_t.yaml'


def test_a_published_file_name_tells_the_configuration(tmp_path):
    (tmp_path / 'sam2_hiera_base_plus.pt').touch()
    assert sam2_checkpoint.find_checkpoint(str(tmp_path)).config.name == 'sam2_hiera_b+.yaml'


def test_the_model_is_built_as_the_package_builds_it(segmenter):
    decoder = segmenter.model.sam_mask_decoder
    assert decoder.dynamic_multimask_via_stability
    assert decoder.dynamic_multimask_stability_delta == 0.05
    assert decoder.dynamic_multimask_stability_thresh == 0.98
    assert segmenter.model.binarize_mask_from_pts_for_mem_enc
    assert not segmenter.model.training


@pytest.mark.parametrize('state', ['cleared', 'taken'])
def test_another_user_of_hydra_in_the_process_does_no_harm(tiny_sam2, tmp_path, state):
    code = f"""
import sys
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
if {state!r} == 'taken':
    initialize_config_dir({str(tmp_path)!r}, version_base='1.2')
else:
    import sam2
    GlobalHydra.instance().clear()
from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
print(Sam2Segmenter({str(tiny_sam2)!r}, device='cpu').model.image_size)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '256', done.stderr


def refused(*args, **kwargs) -> str:
    with pytest.raises(SegmenterUnavailable) as caught:
        Sam2Segmenter(*args, **{'device': 'cpu', **kwargs})
    return str(caught.value)


def test_an_unknown_name_is_answered_with_the_known_ones():
    assert 'facebook/sam2.1-hiera-base-plus' in refused('facebook/sam3')
    assert 'no/such/file.pt' in refused('no/such/file.pt')


def test_what_a_broken_checkpoint_lacks_is_said(tiny_sam2, tmp_path):
    config = str(tiny_sam2.with_suffix('.yaml'))
    content = tiny_sam2.read_bytes()
    broken = tmp_path / 'broken.pt'
    for damage in (content[: len(content) // 2], b'', b'version https://git-lfs', b'<html>'):
        broken.write_bytes(damage)
        assert 'broken.pt' in refused(str(broken), config)
    broken.with_suffix('.safetensors').write_bytes(content[:1000])
    assert 'truncated' in refused(str(broken.with_suffix('.safetensors')), config)
    torch.save({'model': 3}, broken)
    assert 'contains no weights' in refused(str(broken), config)


class RunsCode:
    def __reduce__(self):
        return print, ('this must never run',)


def test_a_checkpoint_that_would_run_code_is_refused(tiny_sam2, tmp_path, capfd):
    torch.save({'model': RunsCode()}, tmp_path / 'evil.pt')
    text = refused(str(tmp_path / 'evil.pt'), str(tiny_sam2.with_suffix('.yaml')))
    assert 'nothing else is loaded' in text
    assert 'never run' not in capfd.readouterr().out


def test_a_configuration_that_would_run_code_is_refused(tiny_sam2, tmp_path, capfd):
    config = tmp_path / 'evil.yaml'
    config.write_text('model: {_target_: builtins.print, image_encoder: this must never run}')
    assert 'builtins.print' in refused(str(tiny_sam2), str(config))
    assert 'never run' not in capfd.readouterr().out


def test_the_wrong_configuration_for_the_weights_is_named(tiny_sam2, tmp_path):
    from omegaconf import OmegaConf

    config = OmegaConf.load(tiny_sam2.with_suffix('.yaml'))
    config.model.image_encoder.trunk.stages = [1, 2, 2, 1]
    config.model.pred_obj_scores_mlp = False
    OmegaConf.save(config, tmp_path / 'other.yaml')
    text = refused(str(tiny_sam2), str(tmp_path / 'other.yaml'))
    assert 'other.yaml' in text
    assert 'missing' in text and 'unknown' in text and 'another shape' in text


def test_a_file_that_is_no_configuration_is_named(tiny_sam2, tmp_path):
    for content in ('a: [', 'model: {_target_: sam2.modeling.sam2_base.SAM2Base}', '[]'):
        (tmp_path / 'bad.yaml').write_text(content)
        assert 'bad.yaml' in refused(str(tiny_sam2), str(tmp_path / 'bad.yaml'))
    assert 'sam2_hiera_b+.yaml' in refused(str(tiny_sam2), 'sam2_hiera_huge')


def test_weights_of_unknown_name_ask_for_their_configuration(tiny_sam2, tmp_path):
    shutil.copy(tiny_sam2, tmp_path / 'fine_tuned.pt')
    assert 'fine_tuned.yaml' in refused(str(tmp_path / 'fine_tuned.pt'))


def test_a_folder_has_to_hold_exactly_one_checkpoint(tiny_sam2, tmp_path):
    assert 'contains no weights' in refused(str(tmp_path))
    for name in ('a.pt', 'b.pt'):
        shutil.copy(tiny_sam2, tmp_path / name)
    assert 'a.pt, b.pt' in refused(str(tmp_path))


def test_without_network_a_published_name_says_how_to_get_its_file(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    assert 'hf download' in refused('facebook/sam2-hiera-tiny', offline=True)


class Hub(BaseHTTPRequestHandler):
    """Serves one file at the hub's address of sam2-hiera-tiny, and says 404 to all else."""

    content = b''

    def do_HEAD(self):
        file = '/facebook/sam2-hiera-tiny/resolve/{}/sam2_hiera_tiny.pt'
        known = self.path in (file.format('main'), file.format('a' * 40))
        self.send_response(200 if known else 404)
        if known:
            self.send_header('ETag', '"0123456789"')
            self.send_header('X-Repo-Commit', 'a' * 40)
            self.send_header('Content-Length', str(len(self.content)))
        self.end_headers()
        return known

    def do_GET(self):
        if self.do_HEAD():
            self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_a_published_checkpoint_is_fetched_once_and_then_found_without_network(
    tiny_sam2, tmp_path
):
    class TinyHub(Hub):
        content = tiny_sam2.read_bytes()

    code = f"""
import logging
from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
from segzero_ros.types import SegmenterUnavailable
logging.basicConfig()
config = {str(tiny_sam2.with_suffix('.yaml'))!r}
try:
    Sam2Segmenter('facebook/sam2-hiera-small', config, 'cpu')
except SegmenterUnavailable as error:
    print('copy the file here' in str(error))
for offline in (False, True):
    print(Sam2Segmenter('facebook/sam2-hiera-tiny', config, 'cpu', offline=offline).name)
"""
    with ThreadingHTTPServer(('127.0.0.1', 0), TinyHub) as server:
        threading.Thread(target=server.serve_forever).start()
        hub = f'http://127.0.0.1:{server.server_port}'
        environment = {**os.environ, 'HF_ENDPOINT': hub, 'HF_HOME': str(tmp_path)}
        environment.pop('HF_HUB_OFFLINE', None)
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, env=environment
        )
        server.shutdown()
    name = 'facebook/sam2-hiera-tiny'
    assert done.stdout.split() == ['True', name, name], done.stderr
    assert f'Downloading sam2_hiera_tiny.pt of {name}' in done.stderr
    assert '100%' in done.stderr


def test_without_the_packages_the_error_names_the_extra(tiny_sam2, monkeypatch):
    monkeypatch.setattr(sam2_checkpoint, 'find_spec', lambda _: None)
    assert 'scripts/install_models models' in refused(str(tiny_sam2))
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.delitem(sys.modules, 'segzero_ros.segmentation.sam2_segmenter')
    with pytest.raises(SegmenterUnavailable, match='scripts/install_models models'):
        load_segmenter(SegmenterOptions('sam2', str(tiny_sam2), device='cpu'))


def test_devices_and_formats_that_are_not_there_are_refused(tiny_sam2):
    beyond = f'cuda:{torch.cuda.device_count()}'
    assert '0 GPUs' in refused(str(tiny_sam2), device=beyond)
    assert 'teapot' in refused(str(tiny_sam2), device='teapot')
    assert 'float8' in refused(str(tiny_sam2), dtype='float8')


def test_without_a_gpu_auto_takes_the_cpu_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with caplog.at_level(logging.WARNING):
        assert choose_device('auto').type == 'cpu'
    assert 'runs on the CPU' in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_masks_are_those_of_the_package_under_autocast(tiny_sam2):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    segmenter = Sam2Segmenter(str(tiny_sam2), device='cuda')
    predictor = SAM2ImagePredictor(segmenter.model)
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
    image = picture(480, 640)
    objects = some_objects(8, [0, 1, 2], 480, 640)
    made = segmenter.segment(segmenter.encode(Frame(image)), Grounding('', objects))
    with torch.autocast('cuda', torch.bfloat16):
        expected = list(published_masks(predictor, image, objects))
    for (mask, _), (expected_mask, _) in zip(made, expected, strict=True):
        assert np.mean(mask != expected_mask) < 0.02
