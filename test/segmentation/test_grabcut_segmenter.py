"""GrabCut masks on drawn pictures and generated scenes."""

import cv2
import numpy as np
import pytest

from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, Roi


def segment(image, *objects):
    segmenter = GrabCutSegmenter()
    encoding = segmenter.encode(Frame(image))
    return [made.mask for made in segmenter.segment(encoding, Grounding('', objects))]


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def drawn(height=120, width=160):
    """Return a noisy grey picture with a red disc and a blue square, and their masks."""
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    image = np.full((height, width, 3), 150.0) + noise
    disc = np.zeros((height, width), np.uint8)
    cv2.circle(disc, (50, 60), 25, 1, cv2.FILLED)
    square = np.zeros((height, width), bool)
    square[40:80, 90:130] = True
    image[disc > 0] += (60, -100, -100)
    image[square] += (-110, -90, 60)
    return np.clip(image, 0, 255).astype(np.uint8), disc > 0, square


def test_each_object_gets_its_own_mask():
    image, disc, square = drawn()
    made = segment(
        image,
        GroundedObject((24.0, 34.0, 77.0, 87.0), ((50.0, 60.0),)),
        GroundedObject((88.0, 38.0, 132.0, 82.0), ((110.0, 60.0),)),
    )
    assert iou(made[0], disc) > 0.95
    assert iou(made[1], square) > 0.95


def test_a_box_without_points_is_enough():
    image, disc, _ = drawn()
    (mask,) = segment(image, GroundedObject((24.0, 34.0, 77.0, 87.0)))
    assert iou(mask, disc) > 0.95


def test_nothing_is_marked_outside_the_box():
    image, _, _ = drawn()
    (mask,) = segment(image, GroundedObject((40.0, 50.0, 60.0, 70.0), ((50.0, 60.0),)))
    outside = mask.copy()
    outside[50:70, 40:60] = False
    assert mask.any()
    assert not outside.any()


def test_another_objects_point_is_background():
    image, disc, square = drawn()
    both = GroundedObject((24.0, 34.0, 132.0, 87.0), ((50.0, 60.0),))
    other = GroundedObject((88.0, 38.0, 132.0, 82.0), ((110.0, 60.0),))
    mask = segment(image, both, other)[0]
    assert iou(mask, disc) > 0.9
    assert not mask[60, 110]
    assert (mask & square).sum() < 0.1 * square.sum()


@pytest.mark.parametrize(
    'box',
    [(0.0, 0.0, 160.0, 120.0), (159.0, 119.0, 160.0, 120.0), (0.0, 0.0, 1.0, 1.0), (0, 5, 160, 6)],
)
def test_boxes_of_any_size_give_a_mask_inside_them(box):
    image, _, _ = drawn()
    (mask,) = segment(image, GroundedObject(box, ((box[0], box[1]),)))
    assert mask.shape == image.shape[:2]
    x1, y1, x2, y2 = map(int, box)
    assert mask[y1:y2, x1:x2].any()
    assert mask.sum() == mask[y1:y2, x1:x2].sum()


@pytest.mark.parametrize('image', [np.zeros((30, 40, 3), np.uint8), drawn()[0][:3, :3].copy()])
def test_a_picture_without_colour_or_room_does_not_fail(image):
    height, width = image.shape[:2]
    (mask,) = segment(image, GroundedObject((0.0, 0.0, float(width), float(height))))
    assert mask.shape == (height, width)


@pytest.mark.slow
def test_the_same_question_gives_the_same_mask():
    scene = make_scene(5, sentences=False)
    objects = [GroundedObject(found.box) for found in scene.objects if found.area > 100]
    first, second = (segment(scene.frame.image, *objects) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_masks_of_generated_objects_fit():
    fits = []
    for seed in range(4):
        scene = make_scene(seed, sentences=False)
        for index, found in enumerate(scene.objects):
            if found.clutter or found.area < 200:
                continue
            truth = scene.mask(index)
            roi = Roi.around(truth)
            inside = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 3)[
                1:-1, 1:-1
            ]
            row, column = np.unravel_index(inside.argmax(), inside.shape)
            box = (roi.x, roi.y, roi.x + roi.width, roi.y + roi.height)
            asked = GroundedObject(tuple(map(float, box)), ((float(column), float(row)),))
            fits.append(iou(segment(scene.frame.image, asked)[0], truth))
    assert len(fits) > 15
    assert np.mean(fits) > 0.92


def test_a_check_that_raises_ends_the_work_between_two_objects():
    image, _, _ = drawn()
    found = GroundedObject((24.0, 34.0, 77.0, 87.0))
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled('enough')

    segmenter = GrabCutSegmenter()
    with pytest.raises(Cancelled):
        segmenter.segment(segmenter.encode(Frame(image)), Grounding('', (found,) * 100), check)
    assert len(calls) == 3
