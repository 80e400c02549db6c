"""Lines of results hold the whole answer, and masks are in COCO's code."""

from __future__ import annotations

from dataclasses import replace
import json
import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
import numpy as np
import pytest

from segzero_ros.replay.coco_rle import from_rle, to_rle
from segzero_ros.replay.records import BadRecord, from_line, record_of, to_line, with_frame
from segzero_ros.types import (
    Answer,
    Frame,
    Pose3D,
    PoseStatus,
    Query,
    Roi,
    Segment,
    Status,
    Timing,
)

FRAME = Frame(np.zeros((30, 50, 3), np.uint8), 1_700_000_000_123_456_789, 'optical')


def answer() -> Answer:
    mask = np.random.default_rng(0).random((10, 20)) > 0.4
    mask[0, 0] = mask[-1, -1] = True
    pose = Pose3D((0.1, -0.2, 1 / 3), (0.0, 0.0, 0.6, 0.8), (0.05, 0.06, 0.07))
    cup = Segment(
        1, 'the cup', 0.1 + 0.2, Roi(3, 4, 20, 10), ((10.5, 8.25),), Roi(5, 6, 20, 10), mask,
        pose, PoseStatus.POSE_OK,
    )  # fmt: skip
    nothing = Segment(
        2, 'Häuschen \ud800', math.nan, Roi(0, 0, 1, 1), (), Roi(0, 0, 0, 0),
        np.zeros((0, 0), np.bool_),
    )  # fmt: skip
    timing = Timing(1.0, 2.0, 3.0, 4.0, 10.0, 0.25, 17)
    return Answer(
        Query('the\ncup', 'q1'), Status.OK, 'note', FRAME, 'why', '{}', (cup, nothing), 'r', 's',
        timing,
    )  # fmt: skip


def test_an_answer_survives_its_line():
    record = record_of(answer(), 99)
    line = to_line(record)
    again = from_line(line)
    assert '\n' not in line
    assert to_line(again) == line
    assert again[1:] == (99, FRAME.stamp_ns, 'optical', (30, 50))
    cup, nothing = again.answer.segments
    before = answer().segments[0]
    assert (cup.mask == before.mask).all()
    assert replace(cup, mask=before.mask).__dict__ == before.__dict__
    assert math.isnan(nothing.score)
    assert nothing.label == 'Häuschen \ud800'
    assert with_frame(again, FRAME).frame is FRAME


def test_a_line_holds_nothing_that_the_machine_took():
    slow = replace(answer(), timing=Timing(9.0, 9.0, 9.0, 9.0, 9.0, 0.25, 17))
    assert to_line(record_of(slow, 99)) == to_line(record_of(answer(), 99))


def test_an_answer_without_an_image_survives_too():
    bare = Answer(Query('cup', 'q'), Status.NO_IMAGE, 'There is none.')
    again = from_line(to_line(record_of(bare, 5)))
    assert (again.stamp_ns, again.size, again.answer.segments) == (None, (0, 0), ())
    assert again.answer.status is Status.NO_IMAGE


@pytest.mark.parametrize('change', [{'status': 'FINE'}, {'image_size': 3}, {'objects': [{}]}])
def test_a_line_that_is_none_is_refused(change):
    line = json.dumps({**json.loads(to_line(record_of(answer(), 1))), **change})
    with pytest.raises(BadRecord, match='is not a valid line of results'):
        from_line(line)


def test_the_code_of_known_masks_is_the_one_that_the_data_set_documents():
    # Down the columns: 6 of background, 1 object, then 2 and, told by difference, so on.
    mask = np.zeros((3, 3), np.bool_)
    mask[0, 2] = True
    assert to_rle(mask) == '612'
    assert to_rle(np.ones((2, 2), np.bool_)) == '04'
    # 40 takes two groups: 8 with more to follow (8 + 32 + 48 = 'X'), then 1.
    assert to_rle(np.zeros((5, 8), np.bool_)) == 'X1'
    # A fourth run of 2 after a second one of 5 is written as -3: 29 without more, 'M'.
    runs = np.repeat([False, True, False, True], [1, 5, 1, 2])
    assert to_rle(runs.reshape((9, 1))) == '151M'


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.booleans()))
def test_every_mask_survives_its_code(mask):
    assert (from_rle(to_rle(mask), *mask.shape) == mask).all()


def test_the_code_of_another_size_is_refused():
    with pytest.raises(ValueError, match='3x4 pixels add up to 9'):
        from_rle('612', 4, 3)
