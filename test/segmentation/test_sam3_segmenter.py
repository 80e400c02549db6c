"""SAM 3: the masks and boxes of transformers' own classes, and errors that name cause and cure."""

import json
import logging
import os
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
import transformers

from segzero_ros import hub
from segzero_ros.loading import load_segmenter, load_tracker, SegmenterOptions
from segzero_ros.segmentation import prompted_masks, sam3_checkpoint
from segzero_ros.segmentation.sam3_segmenter import Sam3Segmenter
from segzero_ros.tracking.classical_tracker import ClassicalTracker
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, SegmenterUnavailable

SIZES = [(240, 320), (333, 217), (64, 250)]
PHRASES = ['red mug', 'cup', 'blue box', 'plate', 'green ball', 'yellow spoon', 'tin', 'banana']


@pytest.fixture(scope='module')
def segmenter(tiny_sam3):
    made = Sam3Segmenter(str(tiny_sam3), device='cpu', phrases=True)
    yield made
    made.close()


@pytest.fixture(scope='module')
def library(tiny_sam3):
    """transformers' own classes for boxes and points, loaded as its documentation does."""
    return (
        transformers.Sam3TrackerModel.from_pretrained(tiny_sam3).eval(),
        transformers.Sam3TrackerProcessor.from_pretrained(tiny_sam3),
    )


@pytest.fixture(scope='module')
def phrase_library(tiny_sam3):
    """transformers' own classes for phrases."""
    return (
        transformers.Sam3Model.from_pretrained(tiny_sam3).eval(),
        transformers.Sam3Processor.from_pretrained(tiny_sam3),
    )


def picture(height: int, width: int) -> np.ndarray:
    """Smooth blobs of colour with some noise: edges for the encoder to see."""
    random = np.random.default_rng(height * 10_000 + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(9, 80) + y / random.uniform(9, 80)) for _ in range(3)]
    smooth = 128 + 90 * np.stack(waves, axis=-1)
    return (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def objects_in(height: int, width: int) -> tuple[GroundedObject, ...]:
    """Objects with a box, with points and with both, in no order."""
    box = (0.1 * width // 1, 0.2 * height // 1, 0.6 * width // 1, 0.9 * height // 1)
    other = (0.4 * width // 1, 0.1 * height // 1, 0.9 * width // 1, 0.5 * height // 1)
    a, b = (0.3 * width // 1, 0.5 * height // 1), (0.5 * width // 1, 0.4 * height // 1)
    return (
        GroundedObject(box),
        GroundedObject(None, (a,)),
        GroundedObject(box, (a, b)),
        GroundedObject(other),
        GroundedObject(None, (b, a)),
        GroundedObject(other, (b,)),
        GroundedObject(None, (b,)),
    )


def prompts_of(objects) -> dict:
    """The processor's arguments for objects with the same kind of prompt."""
    given = {}
    if objects[0].box is not None:
        given['input_boxes'] = [[list(found.box) for found in objects]]
    if objects[0].points:
        given['input_points'] = [[[list(point) for point in found.points] for found in objects]]
        given['input_labels'] = [[[1] * len(found.points) for found in objects]]
    return given


def library_masks(library, image, objects):
    """The library's own way: processor, model, `post_process_masks`, the best of three."""
    model, processor = library
    inputs = processor(images=image, return_tensors='pt', **prompts_of(objects))
    with torch.no_grad():
        outputs = model(**inputs)
    (masks,) = processor.post_process_masks(outputs.pred_masks, inputs['original_sizes'])
    best = outputs.iou_scores[0].argmax(1)
    for number, choice in enumerate(best.tolist()):
        yield masks[number, choice].numpy(), outputs.iou_scores[0, number, choice].item()


@pytest.mark.parametrize('height, width', SIZES)
def test_masks_are_those_of_the_library_pixel_for_pixel(segmenter, library, height, width):
    image, objects = picture(height, width), objects_in(height, width)
    made = segmenter.segment(segmenter.encode(Frame(image)), Grounding('', objects))
    assert len(made) == len(objects)
    for found, (mask, score) in zip(objects, made, strict=True):
        ((expected, expected_score),) = library_masks(library, image, [found])
        assert mask.dtype == np.bool_ and mask.shape == (height, width)
        assert np.array_equal(mask, expected), f'{(mask != expected).sum()} pixels differ'
        assert score == pytest.approx(expected_score, abs=1e-5)
    # The comparison means something: there are masks, different ones, and not of the whole image.
    covered = [mask.mean() for mask, _ in made]
    assert 0.01 < np.mean(covered) < 0.99 and len(set(covered)) > 2


def test_several_objects_are_those_of_one_call_of_the_library(segmenter, library):
    image = picture(240, 320)
    objects = tuple(found for found in objects_in(240, 320) if not found.points)
    made = segmenter.segment(segmenter.encode(Frame(image)), Grounding('', objects))
    expected = library_masks(library, image, objects)
    for (mask, _), (theirs, _) in zip(made, expected, strict=True):
        # Rounding differs with the batch: a pixel whose logit is almost zero may fall either way.
        assert (mask != theirs).sum() <= 2


def test_objects_decoded_together_get_the_masks_they_get_alone(segmenter, monkeypatch):
    objects = tuple(
        GroundedObject((float(x), 20.0, x + 60.0, 90.0), ((x + 30.0, 50.0),))
        for x in range(0, 200, 10)
    )
    encoding = segmenter.encode(Frame(picture(240, 320)))
    alone = segmenter.segment(encoding, Grounding('', objects))
    monkeypatch.setitem(prompted_masks.MAX_PER_PASS, 'cpu', 15)
    together = segmenter.segment(encoding, Grounding('', objects))
    monkeypatch.setattr(prompted_masks, 'MAX_UPSAMPLED_PIXELS', 1)
    few_at_a_time = segmenter.segment(encoding, Grounding('', objects))
    for one, two, three in zip(alone, together, few_at_a_time, strict=True):
        assert (one.mask != two.mask).sum() <= 2
        assert np.array_equal(two.mask, three.mask)


def test_an_image_is_encoded_once_for_many_queries_and_phrases(segmenter, monkeypatch):
    calls = []
    plainly = segmenter.model.vision_encoder.backbone.forward

    def counted(*given, **named):
        calls.append(1)
        return plainly(*given, **named)

    monkeypatch.setattr(segmenter.model.vision_encoder.backbone, 'forward', counted)
    encoding = segmenter.encode(Frame(picture(240, 320)))
    grounding = Grounding('', objects_in(240, 320)[:2])
    first = segmenter.segment(encoding, grounding)
    found = segmenter.find(encoding, 'red mug')
    again = segmenter.segment(encoding, grounding)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first, again, strict=True))
    assert segmenter.find(encoding, 'red mug') == found
    assert len(calls) == 1


@pytest.mark.parametrize('height, width', SIZES[:2])
def test_a_phrase_finds_the_boxes_of_the_library_at_metas_threshold(
    segmenter, phrase_library, height, width
):
    model, processor = phrase_library
    image = picture(height, width)
    encoding = segmenter.encode(Frame(image))
    counts = []
    for phrase in PHRASES:
        inputs = processor(images=image, text=phrase, return_tensors='pt')
        with torch.no_grad():
            outputs = model(**inputs)
        (expected,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.5, target_sizes=[(height, width)]
        )
        order = expected['scores'].argsort(descending=True, stable=True)
        found = segmenter.find(encoding, phrase)
        boxes = np.array([each.box for each in found]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, expected['boxes'][order].numpy(), atol=1e-3)
        assert all(each.label == phrase and not each.points for each in found)
        counts.append(len(found))
    # The comparison means something: phrases differ.
    assert len(set(counts)) > 1


def test_a_phrase_has_at_most_thirty_word_pieces(segmenter):
    encoding = segmenter.encode(Frame(picture(64, 80)))
    # Every letter is a word piece of this checkpoint's tokenizer.
    assert segmenter.find(encoding, 'x' * 30) is not None
    assert segmenter.find(encoding, 'x' * 31) is None


@pytest.mark.parametrize('step', ['encode', 'segment', 'find'])
def test_what_the_check_raises_ends_each_step_and_leaves_nothing_behind(segmenter, step):
    frame = Frame(picture(240, 320))
    grounding = Grounding('', objects_in(240, 320))

    def masks():
        return segmenter.segment(segmenter.encode(frame), grounding)

    expected, encoding = masks(), segmenter.encode(frame)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 20:
            raise Cancelled('enough')

    with pytest.raises(Cancelled):
        if step == 'encode':
            segmenter.encode(frame, check)
        elif step == 'segment':
            segmenter.segment(encoding, grounding, check)
        else:
            segmenter.find(encoding, 'red mug', check)
    again = masks()
    assert len(calls) == 20
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize('part', ['vision_encoder', 'mask_decoder'])
def test_memory_that_runs_out_is_named(segmenter, monkeypatch, part):
    def compute(*given, **named):
        raise torch.OutOfMemoryError('Tried to allocate 2.00 GiB.')

    monkeypatch.setattr(getattr(segmenter.model, part), 'forward', compute)
    grounding = Grounding('', objects_in(240, 320)[:1])
    with pytest.raises(SegmenterUnavailable, match=r'too little free memory.*with SAM 3'):
        segmenter.segment(segmenter.encode(Frame(picture(240, 320))), grounding)


def test_an_image_in_a_view_of_memory_is_read_as_it_looks(segmenter):
    image = picture(120, 160)
    assert torch.equal(segmenter.prepare(image[:, ::-1]), segmenter.prepare(image[:, ::-1].copy()))
    # Three rows are no channels.
    assert segmenter.prepare(image[:3]).shape == (1, 3, 112, 112)


def test_16_bits_give_nearly_the_same_masks(tiny_sam3, segmenter):
    frame, grounding = Frame(picture(240, 320)), Grounding('', objects_in(240, 320))
    rough = Sam3Segmenter(str(tiny_sam3), device='cpu', dtype='bfloat16')
    assert rough.encode(frame).embeddings[0].dtype == torch.bfloat16
    masks = rough.segment(rough.encode(frame), grounding)
    exact = segmenter.segment(segmenter.encode(frame), grounding)
    differing = np.mean([np.mean(a.mask != b.mask) for a, b in zip(masks, exact, strict=True)])
    assert 0 < differing < 0.2


def test_it_is_loaded_by_name_with_what_follows_its_objects_and_without_network(
    tiny_sam3, monkeypatch, caplog
):
    def refuse(*_):
        raise AssertionError('the network was asked')

    # Neither weights nor kernels are fetched; by a local folder nothing is asked at all.
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    options = SegmenterOptions('sam3', str(tiny_sam3), device='cpu', offline=True)
    with caplog.at_level(logging.WARNING):
        made = load_segmenter(options)
        assert isinstance(made, Sam3Segmenter) and made.name == tiny_sam3.name
        made.segment(made.encode(Frame(picture(64, 80))), Grounding('', objects_in(64, 80)))
    assert isinstance(load_tracker(options, made), ClassicalTracker)
    assert 'kernels' not in {name.partition('.')[0] for name in sys.modules}
    assert 'LOAD REPORT' not in caplog.text
    made.close()
    assert made.model is None


def refused(*args, **kwargs) -> str:
    with pytest.raises(SegmenterUnavailable) as caught:
        Sam3Segmenter(*args, **{'device': 'cpu', **kwargs})
    return str(caught.value)


def test_a_model_that_was_built_and_saved_keeps_its_tracker(tiny_sam3, tmp_path, segmenter):
    """`save_pretrained` doubles a prefix, unless the model came from `from_pretrained`."""
    shutil.copytree(tiny_sam3, tmp_path / 'tuned')
    loaded = transformers.Sam3VideoModel.from_pretrained(tiny_sam3)
    built = transformers.Sam3VideoModel(loaded.config)
    built.load_state_dict(loaded.state_dict())
    built.save_pretrained(tmp_path / 'tuned')
    tuned = Sam3Segmenter(str(tmp_path / 'tuned'), device='cpu')
    frame, grounding = Frame(picture(64, 80)), Grounding('', objects_in(64, 80))
    ours = tuned.segment(tuned.encode(frame), grounding)
    expected = segmenter.segment(segmenter.encode(frame), grounding)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(ours, expected, strict=True))


def test_what_a_broken_checkpoint_lacks_is_said(tiny_sam3, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / 'broken'
    shutil.copytree(tiny_sam3, folder)
    weights = folder / 'model.safetensors'
    tensors = load_file(weights)
    del tensors['tracker_model.mask_decoder.conv_s0.weight']
    save_file(tensors, weights, metadata={'format': 'pt'})
    assert 'lacks 1 tensors' in refused(str(folder)) and 'conv_s0' in refused(str(folder))
    weights.write_bytes((tiny_sam3 / 'model.safetensors').read_bytes()[:10_000])
    assert 'truncated' in refused(str(folder))
    weights.unlink()
    assert 'a file is missing' in refused(str(folder))
    (folder / 'processor_config.json').unlink()
    assert 'processor_config.json' in refused(str(folder))


def test_files_that_do_not_belong_together_are_refused(tiny_sam3, tmp_path):
    folder = tmp_path / 'mixed'
    shutil.copytree(tiny_sam3, folder)
    path = folder / 'processor_config.json'
    content = json.loads(path.read_text())
    content['target_size'] = 1008
    content['image_processor']['size'] = {'height': 1008, 'width': 1008}
    path.write_text(json.dumps(content))
    assert 'do not belong together' in refused(str(folder))


@pytest.mark.parametrize('content', ['{"model_type": "qwen2_vl"}', '{}', '[]', '{"model'])
def test_another_model_is_named(tmp_path, content):
    (tmp_path / 'config.json').write_text(content)
    (tmp_path / 'processor_config.json').write_text('{}')
    text = refused(str(tmp_path))
    assert str(tmp_path) in text and ('qwen2_vl' in text or 'Download it again' in text)


@pytest.mark.parametrize(
    ('model', 'says'),
    [
        ('/no/such/folder', 'is not the folder of a SAM 3 checkpoint'),
        ('facebook/sam2-hiera-large', r'set segmenter\.model to facebook/sam3'),
        ('no name at all', 'neither a folder here nor a name on the hub'),
    ],
)
def test_a_name_without_a_checkpoint_is_answered_with_what_to_give(model, says):
    with pytest.raises(SegmenterUnavailable, match=says):
        Sam3Segmenter(model, device='cpu')


def test_weights_that_are_not_here_are_explained(tmp_path, monkeypatch):
    from huggingface_hub import constants

    def gated(*_):
        raise hub.Gated('facebook/sam3 requires accepting its terms.')

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(hub, 'fetch', gated)
    assert 'hf download facebook/sam3' in refused('facebook/sam3', offline=True)
    text = refused('facebook/sam3')
    assert 'ask for access on https://huggingface.co/facebook/sam3' in text
    assert 'hf auth login' in text
    assert refused('somebody/tuned') == 'facebook/sam3 requires accepting its terms.'


@pytest.mark.parametrize('name', ['Sam3TrackerModel', 'Sam3Model'])
def test_an_older_transformers_is_named_with_what_helps(tiny_sam3, monkeypatch, name):
    class Older:
        __version__ = '4.57.0'

        def __getattr__(self, wanted):
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(transformers, wanted)

    monkeypatch.setattr(sam3_checkpoint, 'transformers', Older())
    text = refused(str(tiny_sam3), phrases=True)
    assert f'transformers 4.57.0 has no {name}' in text
    assert 'scripts/install_models models' in text


def test_without_the_packages_the_error_names_the_extra(tiny_sam3, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.delitem(sys.modules, 'segzero_ros.segmentation.sam3_segmenter')
    with pytest.raises(SegmenterUnavailable, match='scripts/install_models models'):
        load_segmenter(SegmenterOptions('sam3', str(tiny_sam3), device='cpu'))


def test_devices_and_formats_that_are_not_there_are_refused(tiny_sam3):
    beyond = f'cuda:{torch.cuda.device_count()}'
    assert 'SAM 3 cannot run on' in refused(str(tiny_sam3), device=beyond)
    assert 'SAM 3 has no dtype' in refused(str(tiny_sam3), dtype='float8')


@pytest.mark.parametrize(
    'threads, processors, takes_all', [(1, 2, False), (2, 2, True), (2, 3, False)]
)
def test_it_takes_all_processors_where_two_teams_of_its_threads_have_no_room(
    segmenter, monkeypatch, threads, processors, takes_all
):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(processors)))
    assert segmenter.takes_all_processors == takes_all


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_masks_are_nearly_those_of_the_cpu(tiny_sam3, segmenter):
    on_gpu = Sam3Segmenter(str(tiny_sam3), device='cuda', phrases=True)
    frame, grounding = Frame(picture(240, 320)), Grounding('', objects_in(240, 320))
    encoding = on_gpu.encode(frame)
    masks = on_gpu.segment(encoding, grounding)
    exact = segmenter.segment(segmenter.encode(frame), grounding)
    differing = [np.mean(a.mask != b.mask) for a, b in zip(masks, exact, strict=True)]
    assert np.mean(differing) < 0.2
    assert on_gpu.find(encoding, 'red mug') is not None
