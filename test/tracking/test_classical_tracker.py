"""Following without weights: ids and masks through occlusion, loss and finding again."""

from dataclasses import replace
import itertools
import pickle

import cv2
import numpy as np
import pytest

from segzero_ros.simulation import make_motion
from segzero_ros.tracking.classical_tracker import ClassicalTracker
from segzero_ros.tracking.image_motion import compose, motion, moved, shift
from segzero_ros.types import BadImage, Frame, Roi, Segment

HEIGHT, WIDTH = 240, 320
RED, BLUE, GREEN, BOARD = (190, 45, 40), (40, 70, 190), (60, 140, 60), (150, 120, 160)


class Stage:
    """A grainy table on which painted things are moved about; what is drawn last is in front."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        grain = cv2.GaussianBlur(random.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 3)
        self.table = np.stack([150 + 90 * grain, 130 + 80 * grain, 100 + 60 * grain], axis=-1)
        self.noise = random.normal(0, 3, (HEIGHT, WIDTH, 3))
        self.paint = {
            colour: cv2.GaussianBlur(random.normal(0, 60, (90, 90)), (0, 0), 2)
            for colour in (RED, BLUE, GREEN, BOARD)
        }

    def picture(self, *things):
        """Return the frame and the visible mask of every thing (shape, colour, x, y)."""
        image = self.table.copy()
        masks = []
        for shape, colour, x, y in things:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            if shape == 'disc':
                cv2.circle(mask, (round(x), round(y)), 24, 1, cv2.FILLED)
            elif shape == 'card':
                corner = (round(x) - 30, round(y) - 18)
                cv2.rectangle(mask, corner, (corner[0] + 60, corner[1] + 36), 1, cv2.FILLED)
            else:  # a board of this half width
                cv2.rectangle(
                    mask,
                    (round(x) - shape, round(y) - 45),
                    (round(x) + shape, round(y) + 45),
                    1,
                    -1,
                )
            rows, columns = np.nonzero(mask)
            grain = self.paint[colour][(rows - round(y)) % 90, (columns - round(x)) % 90]
            image[rows, columns] = np.array(colour) + grain[:, None]
            masks = [earlier & (mask == 0) for earlier in masks] + [mask > 0]
        image += self.noise
        return Frame(image.clip(0, 255).astype(np.uint8)), masks


def segment_of(number, mask, label=''):
    roi = Roi.around(mask)
    return Segment(number, label, 0.9, roi, (), roi, mask[roi.slices].copy())


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def full(track, frame):
    return track.segment.full_mask(frame.height, frame.width)


def started(stage, *things, ids=(1, 2, 3)):
    frame, masks = stage.picture(*things)
    tracker = ClassicalTracker()
    tracker.start(frame, [segment_of(i, mask) for i, mask in zip(ids, masks, strict=False)])
    return tracker


@pytest.mark.slow
def test_ids_and_masks_last_through_partial_occlusion():
    stage = Stage()

    def things(number):
        share = number / 59
        return (
            ('disc', RED, 60 + 40 * share, 60 + 10 * share),
            ('card', BLUE, 200 - 30 * share, 80 + 40 * share),
            ('disc', GREEN, 110, 190 - 20 * share),
            # Passes over all three, and hides up to two thirds of each.
            (16, BOARD, -20 + 330 * share, 60 + 130 * share),
        )

    tracker = started(stage, *things(0), ids=(5, 2, 9))
    kept, overlaps, hidden = [], [], 1.0
    for number in range(1, 60):
        frame, masks = stage.picture(*things(number))
        tracks = tracker.step(frame)
        assert [track.segment.id for track in tracks] == [5, 2, 9]
        for place, track in enumerate(tracks):
            mask = full(track, frame)
            overlaps.append(iou(mask, masks[place]))
            inside = [(mask & other).sum() for other in masks[:3]]
            kept.append(not track.lost and int(np.argmax(inside)) == place)
            hidden = min(hidden, masks[place].sum() / masks[place].size)
            assert (mask & masks[3]).sum() < 0.1 * masks[place].sum() + 40, (
                'it grows onto the board'
            )
    assert np.mean(kept) >= 0.95
    assert np.mean(overlaps) >= 0.85
    assert min(overlaps) >= 0.5


def test_what_is_hidden_is_said_to_be_lost_and_found_again_under_its_id():
    stage = Stage(1)

    def things(number):
        # The card waits behind a board that comes and goes.
        return ('disc', RED, 80, 60), ('card', BLUE, 210, 130), (40, BOARD, 60 + 10 * number, 130)

    tracker = started(stage, *things(0), ids=(1, 2))
    ages = []
    for number in range(1, 30):
        frame, masks = stage.picture(*things(number))
        disc, card = tracker.step(frame)
        assert not disc.lost
        if not masks[1].any():
            assert card.lost
            assert card.segment.mask_roi == (0, 0, 0, 0) and np.isnan(card.segment.score)
            ages.append(card.age)
    assert len(ages) >= 3
    assert np.all(np.diff(ages) == 1)
    assert not card.lost and card.age == 0 and card.segment.id == 2
    assert iou(full(card, frame), masks[1]) > 0.85


def test_what_was_moved_while_hidden_is_found_where_it_turns_up():
    stage = Stage(2)
    tracker = started(stage, ('card', BLUE, 70, 60), ('disc', RED, 250, 60))
    for _ in range(4):
        frame, _ = stage.picture(('disc', RED, 250, 60), (50, BOARD, 70, 60))
        card, disc = tracker.step(frame)
    assert card.lost and not disc.lost
    for _ in range(3):
        frame, masks = stage.picture(('card', BLUE, 240, 190), ('disc', RED, 250, 60))
        card, disc = tracker.step(frame)
    assert not card.lost and not disc.lost
    assert iou(full(card, frame), masks[0]) > 0.85


def test_a_look_alike_is_not_taken_for_what_is_hidden():
    stage = Stage(3)
    twin = ('disc', RED, 250, 180)
    tracker = started(stage, ('disc', RED, 70, 60), twin, ids=(1,))
    for _ in range(2):
        tracker.step(stage.picture(('disc', RED, 70, 60), twin)[0])
    for _ in range(10):
        (track,) = tracker.step(stage.picture(('disc', RED, 70, 60), twin, (40, BOARD, 70, 60))[0])
        assert track.lost
    frame, masks = stage.picture(('disc', RED, 70, 60), twin)
    (track,) = tracker.step(frame)
    assert iou(full(track, frame), masks[0]) > 0.85


@pytest.mark.slow
def test_two_of_the_same_colour_that_pass_each_other_keep_their_ids():
    stage = Stage(4)

    def things(number):
        return ('disc', RED, 60 + 4 * number, 100), ('disc', RED, 260 - 4 * number, 130)

    tracker = started(stage, *things(0), ids=(1, 2))
    for number in range(1, 50):
        frame, masks = stage.picture(*things(number))
        tracks = tracker.step(frame)
        one, other = (full(track, frame) for track in tracks)
        assert not (one & other).any(), 'a pixel belongs to one object'
    assert [track.segment.id for track in tracks] == [1, 2]
    for track, mask in zip(tracks, masks, strict=True):
        assert iou(full(track, frame), mask) > 0.8


def test_most_frames_may_be_left_out():
    stage = Stage(5)

    def things(number):
        return ('card', BLUE, 60 + 2 * number, 70 + number), ('disc', RED, 250 - 2 * number, 180)

    tracker = started(stage, *things(0), ids=(1, 2))
    for number in range(6, 61, 6):
        frame, masks = stage.picture(*things(number))
        for track, mask in zip(tracker.step(frame), masks, strict=True):
            assert iou(full(track, frame), mask) > 0.85


@pytest.mark.slow
def test_what_turns_and_comes_nearer_keeps_a_fitting_mask():
    random = np.random.default_rng(0)
    paint = cv2.GaussianBlur(random.normal(0, 60, (120, 120, 3)), (0, 0), 3) * 3 + (180, 60, 50)
    stage = Stage(6)
    tracker = None
    for number in range(40):
        place = cv2.getRotationMatrix2D((60, 60), 1.5 * number, 0.6 + 0.015 * number)
        place[:, 2] += (100, 60)
        mask = cv2.warpAffine(np.ones((120, 120), np.uint8), place, (WIDTH, HEIGHT)) > 0
        image = stage.table + stage.noise
        image[mask] = cv2.warpAffine(paint, place, (WIDTH, HEIGHT))[mask]
        frame = Frame(image.clip(0, 255).astype(np.uint8))
        if tracker is None:
            tracker = ClassicalTracker()
            tracker.start(frame, [segment_of(1, mask)])
            continue
        (track,) = tracker.step(frame)
        assert iou(full(track, frame), mask) > 0.85


def growing_box(stage, number):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.rectangle(mask, (100, 90), (130 + number // 2, 140), 1, cv2.FILLED)
    image = stage.table + stage.noise
    image[mask > 0] = RED
    return Frame(image.clip(0, 255).astype(np.uint8)), mask > 0


@pytest.mark.slow
def test_the_shape_is_learnt_as_another_side_comes_into_view():
    stage = Stage(12)
    frame, mask = growing_box(stage, 0)
    tracker = ClassicalTracker()
    tracker.start(frame, [segment_of(1, mask)])
    for number in range(1, 80):
        frame, mask = growing_box(stage, number)
        (track,) = tracker.step(frame)
        assert iou(full(track, frame), mask) > 0.8


@pytest.mark.slow
def test_what_hides_a_part_for_long_does_not_change_the_shape():
    stage = Stage(13)
    card = ('card', BLUE, 150, 100)
    tracker = started(stage, card)
    for number in range(60):
        # It creeps over half of the card and stays there.
        tracker.step(stage.picture(card, (20, BOARD, min(100 + 2 * number, 140), 100))[0])
    frame, masks = stage.picture(card)
    (track,) = tracker.step(frame)
    assert iou(full(track, frame), masks[0]) > 0.9


def test_what_leaves_the_picture_is_lost():
    stage = Stage(7)
    tracker = started(stage, ('disc', RED, 270, 100))
    for number in range(1, 25):
        frame, masks = stage.picture(('disc', RED, 270 + 5 * number, 100))
        (track,) = tracker.step(frame)
        if masks[0].sum() > 400:
            assert iou(full(track, frame), masks[0]) > 0.6
    assert track.lost


def test_an_object_may_be_added_from_an_earlier_frame():
    stage = Stage(8)

    def things(number):
        return ('disc', RED, 80 + number, 60), ('card', BLUE, 200 - number, 150)

    tracker = started(stage, *things(0), ids=(1,))
    for number in range(1, 6):
        tracker.step(stage.picture(*things(number))[0])
    old, masks = stage.picture(*things(3))
    tracker.add(old, [segment_of(2, masks[1], 'card')])
    frame, masks = stage.picture(*things(6))
    tracks = tracker.step(frame)
    assert [(track.segment.id, track.segment.label) for track in tracks] == [(1, ''), (2, 'card')]
    for track, mask in zip(tracks, masks, strict=True):
        assert iou(full(track, frame), mask) > 0.9
    with pytest.raises(ValueError, match='tracked already'):
        tracker.add(old, [segment_of(1, masks[0])])


@pytest.mark.slow
def test_the_same_frames_give_the_same_masks_and_memory_does_not_grow():
    stage = Stage(9)

    def run():
        tracker = started(stage, ('card', BLUE, 100, 100), ('disc', RED, 240, 100))
        sizes, masks = [], []
        for number in range(40):
            board = (30, BOARD, 20 * (number % 16), 100)
            frame, _ = stage.picture(('card', BLUE, 100, 100), ('disc', RED, 240, 100), board)
            masks.append([full(track, frame) for track in tracker.step(frame)])
            sizes.append(len(pickle.dumps(tracker)))
        return masks, sizes

    (first, sizes), (second, _) = run(), run()
    for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
        assert np.array_equal(a, b)
    assert max(sizes[20:]) <= max(sizes[:20])


def test_an_image_of_another_size_is_refused_until_a_new_start():
    stage = Stage(10)
    frame, masks = stage.picture(('disc', RED, 80, 60))
    tracker = started(stage, ('disc', RED, 80, 60))
    small = Frame(frame.image[::2, ::2])
    with pytest.raises(BadImage, match='320x240 pixels, but this one has 160x120'):
        tracker.step(small)
    tracker.start(small, [segment_of(1, masks[0][::2, ::2])])
    assert not tracker.step(small)[0].lost
    tracker.close()
    assert tracker.step(frame) == []


def test_an_empty_mask_is_not_followed():
    frame, masks = Stage().picture(('disc', RED, 80, 60))
    segment = segment_of(1, masks[0])
    tracker = ClassicalTracker()
    tracker.start(frame, [replace(segment, mask=np.zeros_like(segment.mask))])
    assert tracker.step(frame) == []


@pytest.mark.slow
def test_generated_scenes_are_followed():
    kept, overlaps = [], []
    for seed in (1, 4):
        tracker = ClassicalTracker()
        for scene in make_motion(seed, 15, width=WIDTH, height=HEIGHT):
            if scene.frame.stamp_ns == 0:
                chosen = [o for o in scene.objects if o.area > 150 and not o.clutter][:3]
                tracker.start(
                    scene.frame, [segment_of(o.id, scene.labels == o.id) for o in chosen]
                )
                continue
            for track in tracker.step(scene.frame):
                mask, truth = full(track, scene.frame), scene.labels == track.segment.id
                if truth.any():
                    overlaps.append(iou(mask, truth))
                    kept.append(not track.lost and (mask & truth).sum() > 0.5 * mask.sum())
    assert len(kept) > 50
    assert np.mean(kept) >= 0.95
    assert np.mean(overlaps) >= 0.7


def test_points_on_something_else_do_not_count_as_motion():
    stage = Stage(11)
    _, (card,) = stage.picture(('card', BLUE, 100, 100))
    before, _ = stage.picture(('card', BLUE, 100, 100), (8, BOARD, 122, 100))
    after, _ = stage.picture(('card', BLUE, 107, 96), (8, BOARD, 118, 100))
    gray = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    found = motion(*gray, card, shift(0, 0))
    assert found is not None
    assert np.allclose(moved(found, np.array([[90.0, 100.0]])), [[97, 96]], atol=0.5)
    there_and_back = compose(shift(-7, 4), found)
    assert np.allclose(moved(there_and_back, np.array([[90.0, 100.0]])), [[90, 100]], atol=0.5)
    nothing = np.zeros((HEIGHT, WIDTH), np.bool_)
    assert motion(*gray, nothing, shift(0, 0)) is None
