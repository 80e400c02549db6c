"""Each convention's figures are those of the published scripts, which are restated here."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from segzero_ros.evaluation.measurements import box_iou, Failure, measure, Prediction
from segzero_ros.evaluation.metrics import bootstrap, CONVENTIONS, figures, intervals
from segzero_ros.evaluation.samples import Sample

CLOSE = {'rel': 0, 'abs': 1e-9}


class ShapesDiffer(Exception):
    """What NumPy raises in the published scripts."""


def sample(mask, ignore=None, boxes=(), count=None):
    picture = np.zeros((*mask.shape, 3), np.uint8)
    return Sample(picture, 'it', mask, ignore, tuple(boxes), count)


# The published procedures, one loop each, from what they do and not from how we do it.


def overlap(first, second):
    if first.shape != second.shape:
        raise ShapesDiffer
    return np.logical_and(first, second).sum(), np.logical_or(first, second).sum()


def area_of(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def oracle_box_iou(first, second):
    inside = [*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])]
    both = max(0, inside[2] - inside[0]) * max(0, inside[3] - inside[1])
    union = area_of(first) + area_of(second) - both
    return both / union if union != 0 else 0


def true_of(one):
    return one.mask if one.ignore is None else one.mask | one.ignore


def seg_zero_lines(pairs, segmenter_error_is_penalised):
    """Intersection and union of every sample that is written; raise like the scripts."""
    lines = []
    for one, said in pairs:
        true = true_of(one)
        if said.failure in (Failure.ANSWER, Failure.CRASH):
            lines.append((0, true.sum()))
        elif said.failure is Failure.SEGMENTER:
            if segmenter_error_is_penalised:
                lines.append((0, true.sum()))
        else:
            try:
                both, union = overlap(said.mask, true)
            except ShapesDiffer:
                continue
            if union == 0:  # A bare 0 comes back, which cannot be unpacked.
                continue
            lines.append((both, union))
    return lines


def vision_reasoner_lines(pairs):
    """What the no-target script writes; failures come as empty lists of boxes and empty masks."""
    lines = []
    for one, said in pairs:
        true = true_of(one)
        mask = np.zeros_like(true) if said.mask is None else said.mask
        boxes = list(said.boxes)
        try:
            both, union = overlap(mask, true)
        except ShapesDiffer:
            lines.append((0, true.sum(), 0.0, 0.0, 0.0, int(true.sum() == 0)))
            continue
        old = float(any(oracle_box_iou(b, t) > 0.5 for b in boxes for t in one.boxes))
        lines.append(
            (
                both,
                union,
                old,
                # Where the script would end with an error nothing is right.
                float(said.failure is not Failure.CRASH) and new_box_rule(boxes, one, true),
                float(true.sum() == 0 and not boxes and said.failure is not Failure.CRASH),
                int(true.sum() == 0),
            )
        )
    return lines


def new_box_rule(boxes, one, true):
    wanted = list(one.boxes[0]) if one.boxes else []
    if not wanted and true.any():
        rows, columns = np.where(true)
        wanted = [columns.min(), rows.min(), columns.max(), rows.max()]
    if not wanted:
        return float(not boxes)
    hit = any(oracle_box_iou(box, wanted) > 0.5 for box in boxes)
    if boxes:
        corners = np.array(boxes)
        around = [*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)]
        hit = hit or oracle_box_iou(around, wanted) > 0.5
    return float(hit)


def lisa(pairs):
    """Classes 0, 1 and 255, histograms as torch makes them, and the meters."""
    accuracy, unions, intersections = [], 0.0, 0.0
    for one, said in pairs:
        target = one.mask.astype(np.int64)
        if one.ignore is not None:
            target[one.ignore] = 255
        output = np.zeros_like(target)
        if said.mask is not None and said.mask.shape == target.shape:
            output = said.mask.astype(np.int64)
        output[target == 255] = 255
        both = float((output[output == target] == 1).sum())
        union = float((output == 1).sum() + (target == 1).sum()) - both
        iou = both / (union + 1e-5)
        # LISA's script knows no failure: what gave no answer has not said "nothing".
        right = union == 0 and said.failure is Failure.NONE
        accuracy.append(iou + 1.0 if right else iou)
        intersections += both
        unions += union
    return {
        'giou': np.mean(accuracy),
        'giou_meter': sum(accuracy) / (len(accuracy) + 1e-5),
        'ciou': intersections / (unions + 1e-10),
    }


def ratio(both, union):
    return both / union if union > 0 else 0


def by_oracles(pairs):
    expected = {'lisa': lisa(pairs)}
    for name, penalised in (('seg_zero', True), ('seg_zero_multi', False)):
        lines = seg_zero_lines(pairs, penalised)
        ious = [ratio(both, union) for both, union in lines]
        total = [sum(column) for column in zip(*lines, strict=True)] or [0, 0]
        expected[name] = {
            'giou': np.mean(ious) if ious else math.nan,
            'ciou': ratio(*total),
            'scored': len(lines),
            'dropped': len(pairs) - len(lines),
        }
    lines = vision_reasoner_lines(pairs)
    both, union, old, new, none, none_true = map(np.array, zip(*lines, strict=True))
    ious = [ratio(*line[:2]) for line in lines]
    expected['vision_reasoner'] = {
        'giou': np.mean(ious),
        'ciou': ratio(both.sum(), union.sum()),
        'bbox_ap': old.mean(),
        'bbox_ap_merged': new.mean(),
        'giou_no_target': np.mean(
            [1.0 if flag else iou for flag, iou in zip(none, ious, strict=True)]
        ),
        'n_acc': ratio(none.sum(), none_true.sum()),
        'scored': len(pairs),
        'dropped': 0,
    }
    return expected


def check(pairs):
    items = [measure(one, said) for one, said in pairs]
    for name, expected in by_oracles(pairs).items():
        found = figures(items, CONVENTIONS[name])
        for figure, value in expected.items():
            assert found[figure] == pytest.approx(value, **CLOSE, nan_ok=True), (name, figure)
        assert found['failed'] == sum(said.failure is not Failure.NONE for _, said in pairs)


def masks(rng, height, width):
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((height, width), np.bool_)
    if kind == 1:
        return np.ones((height, width), np.bool_)
    return rng.random((height, width)) < rng.random()


def boxes_of(rng, width, height, most):
    found = []
    for _ in range(rng.integers(most + 1)):
        x, y = rng.integers(-2, width), rng.integers(-2, height)
        found.append(tuple(map(float, (x, y, x + rng.integers(-1, 9), y + rng.integers(0, 9)))))
    return tuple(found)


def random_pair(rng):
    height, width = rng.integers(1, 14, 2)
    true = masks(rng, height, width)
    ignore = masks(rng, height, width) & ~true if rng.random() < 0.4 else None
    one = sample(true, ignore, boxes_of(rng, width, height, 1))
    failure = list(Failure)[rng.integers(4)] if rng.random() < 0.4 else Failure.NONE
    if failure is not Failure.NONE:
        boxes = boxes_of(rng, width, height, 3) if failure is Failure.SEGMENTER else ()
        return one, Prediction(None, boxes, (), failure)
    other = rng.random() < 0.1
    said = masks(rng, height + 2 if other else height, width + 2 if other else width)
    return one, Prediction(said, boxes_of(rng, width, height, 3))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_random_pairs_give_the_published_figures(seed, count):
    rng = np.random.default_rng(seed)
    check([random_pair(rng) for _ in range(count)])


FULL, EMPTY = np.ones((4, 6), np.bool_), np.zeros((4, 6), np.bool_)
LEFT = EMPTY.copy()
LEFT[:, :2] = True


@pytest.mark.parametrize(
    'pair',
    [
        (sample(EMPTY), Prediction(EMPTY)),
        (sample(EMPTY), Prediction(EMPTY, ((0.0, 0.0, 2.0, 2.0),))),
        (sample(EMPTY), Prediction(None, (), (), Failure.ANSWER)),
        (sample(EMPTY, LEFT), Prediction(LEFT)),
        (sample(LEFT, ~LEFT), Prediction(FULL)),
        (sample(LEFT), Prediction(EMPTY)),
        (sample(LEFT), Prediction(None, ((0.0, 0.0, 2.0, 4.0),), (), Failure.SEGMENTER)),
        (sample(LEFT), Prediction(FULL[:3])),
        (sample(EMPTY), Prediction(EMPTY[:3])),
        # Where masks cannot be compared, no box counts.
        (
            sample(LEFT, None, [(0.0, 0.0, 2.0, 4.0)]),
            Prediction(FULL[:3], ((0.0, 0.0, 2.0, 4.0),)),
        ),
        # IoU of exactly one half is no hit.
        (sample(LEFT, None, [(0.0, 0.0, 2.0, 2.0)]), Prediction(LEFT, ((0.0, 0.0, 2.0, 4.0),))),
        # Only both boxes together meet the true one.
        (
            sample(FULL, None, [(0.0, 0.0, 6.0, 4.0)]),
            Prediction(FULL, ((0.0, 0.0, 3.0, 4.0), (3.0, 0.0, 6.0, 4.0))),
        ),
    ],
)
def test_edge_cases_give_the_published_figures(pair):
    check([pair])
    check([pair, (sample(LEFT), Prediction(FULL, ((0.0, 0.0, 2.0, 4.0),)))])


def test_an_empty_union_is_dropped_by_seg_zero_nothing_to_vision_reasoner_and_right_to_lisa():
    items = [measure(sample(EMPTY), Prediction(EMPTY)), measure(sample(LEFT), Prediction(LEFT))]
    found = {name: figures(items, convention) for name, convention in CONVENTIONS.items()}
    assert found['seg_zero']['giou'] == 1 and found['seg_zero']['dropped'] == 1
    assert 'n_acc' not in found['seg_zero'] and found['vision_reasoner']['n_acc'] == 1
    assert found['vision_reasoner']['giou'] == 0.5
    assert found['vision_reasoner']['giou_no_target'] == 1
    assert found['lisa']['giou'] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('failure', [Failure.ANSWER, Failure.CRASH, Failure.SEGMENTER])
@pytest.mark.parametrize('name', CONVENTIONS)
def test_a_failure_about_nothing_is_right_by_no_convention(name, failure):
    boxes = ((0.0, 0.0, 2.0, 4.0),) if failure is Failure.SEGMENTER else ()
    failed = measure(sample(EMPTY), Prediction(None, boxes, (), failure))
    found = figures([failed, measure(sample(LEFT), Prediction(LEFT))], CONVENTIONS[name])
    if name == 'seg_zero_multi' and failure is Failure.SEGMENTER:
        assert (found['scored'], found['dropped'], found['giou']) == (1, 1, 1.0)
        return
    assert found['scored'] == 2 and found['failed'] == 1
    assert found['giou'] == pytest.approx(0.5, abs=1e-5)


def test_a_crash_about_nothing_is_no_answer_and_unreadable_text_has_no_box_as_published():
    by_failure = {
        failure: figures(
            [measure(sample(EMPTY), Prediction(None, (), (), failure))],
            CONVENTIONS['vision_reasoner'],
        )
        for failure in (Failure.CRASH, Failure.ANSWER)
    }
    for name in ('n_acc', 'giou_no_target', 'bbox_ap_merged'):
        assert (by_failure[Failure.CRASH][name], by_failure[Failure.ANSWER][name]) == (0, 1)


class TestBoxesAlone:
    BOX = (0.0, 0.0, 2.0, 4.0)

    def test_they_count_in_the_box_figures_and_nowhere_else(self):
        boxed = Sample(np.zeros((4, 6, 3), np.uint8), 'x', boxes=(self.BOX,), count=1)
        hit = measure(boxed, Prediction(FULL, (self.BOX,)))
        missed = measure(boxed, Prediction(EMPTY))
        masked = measure(sample(LEFT, None, [self.BOX]), Prediction(LEFT, (self.BOX,)))
        for convention in CONVENTIONS.values():
            found = figures([hit, missed], convention)
            assert (found['scored'], found['dropped'], found['boxes_alone']) == (0, 0, 2)
            assert (found['bbox_ap'], found['bbox_ap_merged'], found['with_box']) == (0.5, 0.5, 2)
            assert math.isnan(found['giou'])
            assert found['count_accuracy'] == 0.5
            mixed = figures([hit, missed, masked], convention)
            assert mixed['scored'] == 1 and mixed['bbox_ap'] == pytest.approx(2 / 3)
            assert mixed['giou'] == pytest.approx(1, abs=1e-5)
            low, high = intervals([hit, missed, masked], convention)['bbox_ap']
            assert low < 2 / 3 <= high
        assert 'giou' not in intervals([hit, missed], CONVENTIONS['lisa'])

    def test_a_set_that_only_counts_has_no_box_figure(self):
        counted = Sample(np.zeros((4, 6, 3), np.uint8), 'x', count=1)
        found = figures([measure(counted, Prediction(FULL, (self.BOX,)))], CONVENTIONS['lisa'])
        assert (found['boxes_alone'], found['with_box'], found['count_accuracy']) == (0, 0, 1)


def test_ignored_pixels_are_meant_by_seg_zero_and_count_nowhere_in_lisa():
    item = measure(sample(LEFT, ~LEFT), Prediction(LEFT))
    assert figures([item], CONVENTIONS['seg_zero'])['giou'] == pytest.approx(8 / 24)
    assert figures([item], CONVENTIONS['lisa'])['giou'] == pytest.approx(1, abs=1e-5)


def test_a_box_has_no_extra_pixel():
    assert box_iou((0, 0, 2, 2), (0, 0, 2, 4)) == 0.5
    assert box_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


def test_counts_are_those_of_the_published_script():
    rng = np.random.default_rng(3)
    said = rng.integers(0, 6, 40)
    true = rng.integers(0, 6, 40)
    items = [
        measure(sample(LEFT, count=int(t)), Prediction(LEFT, ((0.0, 0.0, 1.0, 1.0),) * int(s)))
        for s, t in zip(said, true, strict=True)
    ]
    items.append(measure(sample(LEFT, count=4), Prediction(None, (), (), Failure.CRASH)))
    items.append(measure(sample(LEFT, count=4), Prediction(None, (), (), Failure.ANSWER)))
    errors = np.array([*(said - true), 1 - 4, 0 - 4])
    found = figures(items, CONVENTIONS['vision_reasoner'])
    assert found['count_mae'] == pytest.approx(np.abs(errors).mean(), **CLOSE)
    assert found['count_rmse'] == pytest.approx(np.sqrt((errors**2).mean()), **CLOSE)
    assert found['count_accuracy'] == pytest.approx((errors == 0).mean(), **CLOSE)
    assert found['counted'] == 42


def test_points_are_on_target_when_their_pixel_is():
    points = ((0.0, 0.0), (1.4, 3.0), (1.6, 3.0), (-1.0, 0.0), (float('nan'), 0.0))
    item = measure(sample(LEFT), Prediction(LEFT, (), points))
    assert (item.points, item.points_on_target) == (5, 2)


def test_intervals_are_the_same_for_the_same_seed_and_hold_the_figure():
    rng = np.random.default_rng(0)
    items = [measure(*random_pair(rng)) for _ in range(60)]
    convention = CONVENTIONS['vision_reasoner']
    found = intervals(items, convention, resamples=300)
    assert found == intervals(items, convention, resamples=300)
    assert found != intervals(items, convention, resamples=300, seed=1)
    for name, (low, high) in found.items():
        assert low < figures(items, convention)[name] < high
    narrow = intervals(items, convention, resamples=300, level=0.5)
    assert narrow['giou'][0] > found['giou'][0] and narrow['giou'][1] < found['giou'][1]


def test_no_items_are_no_figure():
    found = figures([], CONVENTIONS['seg_zero'])
    assert math.isnan(found['giou']) and found['scored'] == 0
    assert intervals([], CONVENTIONS['seg_zero']) == {}


def test_the_interval_of_a_mean_is_that_of_many_resamples():
    values = np.random.default_rng(3).random(400)
    low, high = bootstrap(list(values))
    spread = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), rel=0.02)
    assert bootstrap([0.25]) == (0.25, 0.25)
    assert all(map(math.isnan, bootstrap([])))
