"""SAM 2 on a live camera: the package's own video masks, from memory that does not grow."""

from dataclasses import replace

import cv2
import numpy as np
from omegaconf import OmegaConf
import pytest
from skimage import measure
import torch

from segzero_ros import onednn
from segzero_ros.loading import load_segmenter, load_tracker, SegmenterOptions
from segzero_ros.segmentation import sam2_checkpoint
from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
from segzero_ros.tracking import sam2_tracker
from segzero_ros.tracking.sam2_tracker import fill_holes, Sam2Tracker
from segzero_ros.types import Frame, Roi, Segment

HEIGHT, WIDTH = 120, 160
LENGTH = 20  # longer than anything that the network looks back


def expect_presence(model, logit):
    """Have the network's random weights take objects for present (above 0) or absent."""
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    with torch.no_grad():
        head.bias.fill_(logit)


@pytest.fixture(scope='module')
def segmenter(tiny_sam2):
    made = Sam2Segmenter(str(tiny_sam2), device='cpu')
    # So small a network gains nothing from more threads, and loses much where cores are shared.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expect_presence(made.model, 3.0)
    yield made
    torch.set_num_threads(threads)
    made.close()


@pytest.fixture(scope='module')
def film():
    """Two discs and a bar that move over stripes; the bar hides the discs for a while."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = []
    for number in range(LENGTH):
        image = np.stack([90 + 40 * np.sin(x / 7), 110 + 30 * np.cos(y / 9), 0 * x + 120], axis=-1)
        image = image.clip(0, 255).astype(np.uint8)
        cv2.circle(image, (30 + 3 * number, 40), 16, (210, 40, 30), cv2.FILLED)
        cv2.circle(image, (130 - 2 * number, 85), 20, (40, 60, 220), cv2.FILLED)
        cv2.rectangle(image, (70, 4 * number - 30), (95, 4 * number), (230, 220, 60), cv2.FILLED)
        frames.append(Frame(image, stamp_ns=number))
    return frames


def disc(number, x, y, radius):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (x, y), radius, 1, cv2.FILLED)
    roi = Roi.around(mask > 0)
    return Segment(number, f'disc {number}', 0.9, roi, ((x, y),), roi, mask[roi.slices] > 0)


FIRST, SECOND = disc(4, 30, 40, 16), disc(7, 130, 85, 20)


class PublishedSam2:
    """The package's own predictor, on the same weights and the same prepared pictures."""

    def __init__(self, tiny_sam2, segmenter, film, monkeypatch, hole_area):
        from hydra.utils import instantiate
        from sam2 import sam2_video_predictor

        config = OmegaConf.load(tiny_sam2.with_suffix('.yaml')).model
        config = OmegaConf.merge(config, sam2_checkpoint.BUILD_OVERRIDES)
        config._target_ = 'sam2.sam2_video_predictor.SAM2VideoPredictor'
        self.predictor = instantiate(config, fill_hole_area=hole_area, _recursive_=True).eval()
        self.predictor.load_state_dict(segmenter.model.state_dict())
        pictures = torch.cat([segmenter.prepare(frame.image) for frame in film])
        monkeypatch.setattr(
            sam2_video_predictor, 'load_video_frames', lambda **_: (pictures, HEIGHT, WIDTH)
        )
        self.state = self.predictor.init_state('the film')

    def add(self, number, segment):
        self.predictor.add_new_mask(
            self.state, number, segment.id, segment.full_mask(HEIGHT, WIDTH)
        )

    def masks(self, first, last):
        """Follow from one frame to another; return the masks by frame number and id."""
        steps = self.predictor.propagate_in_video(self.state, first, last - first)
        return {
            number: dict(zip(ids, (logits[:, 0] > 0).numpy(), strict=True))
            for number, ids, logits in steps
        }

    def logits(self, index, number):
        """The decoder's own map of an object, before it is enlarged."""
        outputs = self.state['output_dict_per_obj'][index]['non_cond_frame_outputs']
        return outputs[number]['pred_masks']


@pytest.fixture
def published(tiny_sam2, segmenter, film, monkeypatch):
    return lambda hole_area=0: PublishedSam2(tiny_sam2, segmenter, film, monkeypatch, hole_area)


@pytest.fixture
def logits(monkeypatch):
    """What the tracker's network says of each frame, in the order of its objects."""
    said = []
    step = sam2_tracker._Group.step

    def listen(group, view):
        result = step(group, view)
        said.append(result[0])
        return result

    monkeypatch.setattr(sam2_tracker._Group, 'step', listen)
    return said


@pytest.fixture
def connected_components(monkeypatch):
    """Give the package the components that its CUDA extension would find."""

    def label(outside):
        labels = [measure.label(plane[0].numpy(), connectivity=2) for plane in outside]
        areas = [np.bincount(plane.ravel())[plane] for plane in labels]
        return torch.from_numpy(np.stack(labels))[:, None], torch.from_numpy(np.stack(areas))[
            :, None
        ]

    monkeypatch.setattr('sam2.utils.misc.get_connected_components', label)


def masks_of(tracks):
    return {track.segment.id: track.segment.full_mask(HEIGHT, WIDTH) for track in tracks}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for number, expected in theirs.items():
        assert ours[number].keys() == expected.keys()
        for identity, mask in expected.items():
            differing = int((ours[number][identity] != mask).sum())
            assert differing == 0, f'frame {number}, object {identity}: {differing} pixels differ'


@pytest.mark.parametrize('hole_area', [0, 8])
def test_masks_of_several_objects_are_those_of_the_package(
    segmenter, film, published, logits, connected_components, hole_area
):
    package = published(hole_area)
    package.add(0, FIRST)
    package.add(0, SECOND)
    expected = package.masks(0, LENGTH - 1)
    tracker = Sam2Tracker(segmenter, hole_area)
    tracker.start(film[0], [FIRST, SECOND])
    ours = {n: masks_of(tracker.step(film[n])) for n in range(1, LENGTH)}
    expected.pop(0)  # the frame of the answer, whose masks are the answer's
    assert_same(ours, expected)
    # The maps behind the masks are the same to the last bit, and not the same for all objects.
    theirs = [package.logits(index, n) for n in range(1, LENGTH) for index in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(logits, theirs, strict=True))
    assert not torch.equal(logits[-1], logits[-2])
    assert np.mean([mask.mean() for masks in ours.values() for mask in masks.values()]) > 0.01


def test_masks_of_many_objects_in_a_large_image_are_enlarged_a_few_at_a_time_and_the_same(
    segmenter, film, monkeypatch
):
    def followed():
        tracker = Sam2Tracker(segmenter)
        tracker.start(film[0], [FIRST, SECOND, disc(9, 60, 60, 10)])
        return {n: masks_of(tracker.step(film[n])) for n in range(1, 4)}

    at_once = followed()
    monkeypatch.setattr(sam2_tracker, 'MAX_UPSAMPLED_PIXELS', 1)
    assert_same(followed(), at_once)


def test_objects_added_while_running_get_the_masks_of_the_package(
    segmenter, film, published, logits
):
    package = published()
    package.add(0, FIRST)
    expected = package.masks(0, 9)
    package.add(9, SECOND)
    expected.update(package.masks(9, LENGTH - 1))
    tracker = Sam2Tracker(segmenter, hole_area=0)
    tracker.start(film[0], [FIRST])
    ours = {n: masks_of(tracker.step(film[n])) for n in range(1, 10)}
    tracker.add(film[9], [SECOND])
    ours.update({n: masks_of(tracker.step(film[n])) for n in range(10, LENGTH)})
    del expected[0], expected[9][SECOND.id]
    assert_same(ours, expected)
    assert torch.equal(logits[-2], package.logits(0, LENGTH - 1))
    assert torch.equal(logits[-1], package.logits(1, LENGTH - 1))


def test_objects_followed_as_one_batch_get_the_masks_they_get_alone(
    segmenter, film, logits, monkeypatch
):
    alone = Sam2Tracker(segmenter)
    alone.start(film[0], [FIRST, SECOND])
    separate = [masks_of(alone.step(frame)) for frame in film[1:6]]
    monkeypatch.setitem(sam2_tracker.MAX_PER_PASS, 'cpu', 2)
    together = Sam2Tracker(segmenter)
    together.start(film[0], [FIRST, SECOND])
    for frame, expected in zip(film[1:6], separate, strict=True):
        masks = masks_of(together.step(frame))
        assert list(masks) == [4, 7]
        assert len(logits[-1]) == 2
        # Rounding differs with the batch: a cell whose logit is almost zero may fall either way.
        for identity, mask in masks.items():
            assert (mask != expected[identity]).sum() <= 20
    assert torch.allclose(logits[-1], torch.cat(logits[8:10]), atol=1e-3)


def test_onednn_is_there_whatever_the_reasoner_does(segmenter, film, monkeypatch):
    encoder, seen = segmenter.model.image_encoder, []
    plainly = encoder.forward

    def compute(*given, **named):
        seen.append(bool(torch.backends.mkldnn.enabled))
        return plainly(*given, **named)

    monkeypatch.setattr(encoder, 'forward', compute)
    tracker = Sam2Tracker(segmenter)
    with onednn.avoided():
        tracker.add(film[0], [disc(1, 30, 40, 16)])
    with onednn.avoided():
        tracker.step(film[1])
    assert seen == [True, True]


def remembered_bytes(tracker):
    """Bytes of all tensors that the tracker keeps, each storage counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for group in tracker._groups
        for half in group.memory.values()
        for entry in half.values()
        for value in entry.values()
        if value is not None
        for tensor in (value if isinstance(value, list) else [value])
    }
    return sum(storages.values())


def test_what_is_remembered_stops_growing(segmenter, film):
    tracker = Sam2Tracker(segmenter)
    tracker.start(film[0], [FIRST])
    sizes = []
    for _ in range(2):
        for frame in film:
            tracker.step(frame)
            sizes.append(remembered_bytes(tracker))
    settled = sizes[15:]
    assert len(set(settled)) == 1, 'it grows'
    assert sizes[0] < settled[0] < 10 * sizes[0]
    entries = tracker._groups[0].memory['non_cond_frame_outputs'].values()
    assert len(entries) == 15
    assert sum(entry['maskmem_features'] is not None for entry in entries) == 6


def test_an_object_is_lost_and_found_again_under_its_id(segmenter, film):
    tracker = Sam2Tracker(segmenter)
    tracker.start(film[0], [SECOND, FIRST])
    try:
        expect_presence(segmenter.model, -3.0)
        tracker.step(film[1])
        gone = tracker.step(film[2])
    finally:
        expect_presence(segmenter.model, 3.0)
    back = tracker.step(film[3])
    assert [(track.segment.id, track.lost, track.age) for track in gone] == [
        (7, True, 2),
        (4, True, 2),
    ]
    assert all(track.segment.mask_roi == (0, 0, 0, 0) for track in gone)
    assert all(np.isnan(track.segment.score) for track in gone)
    assert [(track.segment.id, track.lost, track.age) for track in back] == [
        (7, False, 0),
        (4, False, 0),
    ]
    for track in back:
        segment = track.segment
        assert segment.label == f'disc {segment.id}'
        assert 0 <= segment.score <= 1
        assert segment.box == segment.mask_roi == Roi.around(segment.full_mask(HEIGHT, WIDTH))
        assert segment.mask.any() and segment.points == ()


def test_the_same_frames_give_the_same_masks_and_a_new_start_forgets(segmenter, film):
    tracker = Sam2Tracker(segmenter)
    tracker.start(film[0], [FIRST])
    before = [masks_of(tracker.step(frame)) for frame in film[1:4]]
    tracker.start(film[5], [SECOND])
    assert list(masks_of(tracker.step(film[6]))) == [SECOND.id]
    tracker.start(film[0], [FIRST])
    again = [masks_of(tracker.step(frame)) for frame in film[1:4]]
    assert all(np.array_equal(a[4], b[4]) for a, b in zip(before, again, strict=True))


def test_an_id_is_followed_once_and_an_empty_mask_not_at_all(segmenter, film):
    tracker = Sam2Tracker(segmenter)
    nothing = replace(SECOND, mask=np.zeros_like(SECOND.mask))
    tracker.start(film[0], [FIRST, nothing])
    assert list(masks_of(tracker.step(film[1]))) == [FIRST.id]
    with pytest.raises(ValueError, match=r'the ids \[4\] are tracked already'):
        tracker.add(film[1], [FIRST])
    tracker.close()
    assert tracker.step(film[2]) == []


def test_each_segmenter_has_its_tracker(segmenter):
    tracker = load_tracker(SegmenterOptions('sam2'), segmenter)
    assert isinstance(tracker, Sam2Tracker) and tracker.name == 'tiny_sam2.pt'
    options = SegmenterOptions('grabcut')
    assert load_tracker(options, load_segmenter(options)).name == 'classical'


@pytest.mark.parametrize('area', [1, 8, 40])
def test_holes_are_filled_as_the_packages_cuda_extension_fills_them(connected_components, area):
    from sam2.utils.misc import fill_holes_in_mask_scores

    random = np.random.default_rng(3)
    noise = np.stack([cv2.GaussianBlur(random.normal(size=(64, 64)), (0, 0), 1) for _ in range(3)])
    logits = torch.from_numpy(noise[:, None].astype(np.float32) + 0.05)
    filled = fill_holes(logits, area)
    assert torch.equal(filled, fill_holes_in_mask_scores(logits, area))
    assert (filled != logits).any()
