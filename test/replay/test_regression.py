"""Answers are compared by status, count and masks; what differs is said in a line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segzero_ros.replay.records import Record, record_of, to_line
from segzero_ros.replay.regression import compare, NoGolden, read_golden
from segzero_ros.types import Answer, Frame, Query, Roi, Segment, Status


def thing(number: int, x: int, width: int = 20) -> Segment:
    roi = Roi(x, 5, width, 10)
    return Segment(number, f'thing {number}', 0.9, roi, (), roi, np.ones((10, width), np.bool_))


def record(*segments: Segment, status=Status.OK, text='cup', stamp_ns=5_000_000_000) -> Record:
    frame = Frame(np.zeros((40, 100, 3), np.uint8), stamp_ns)
    return record_of(Answer(Query(text, 'q'), status, 'Why.', frame, segments=segments), 0)


def differences(golden: list[Record], found: list[Record], iou: float = 0.95) -> list[str]:
    return compare(golden, found, iou).differences


def test_equal_answers_have_no_difference_whatever_the_order_and_ids():
    golden = [record(thing(1, 0), thing(2, 50)), record(text='bowl', status=Status.NOT_FOUND)]
    found = [golden[1], record(thing(1, 50), thing(2, 0))]
    assert compare(golden, found, 1.0) == ([], 2, 0)


def test_masks_may_differ_as_much_as_is_allowed():
    golden, found = [record(thing(1, 0))], [record(thing(1, 2))]
    assert differences(golden, found, 18 / 22) == []
    assert differences(golden, found, 0.82) == [
        'stamp 5.000000000, “cup”: object 1 (thing 1): best IoU 0.818 is below 0.82'
    ]


def test_one_mask_does_not_stand_for_two():
    golden, found = [record(thing(1, 0), thing(2, 0))], [record(thing(1, 0), thing(2, 60))]
    (line,) = differences(golden, found)
    assert 'below' in line


@pytest.mark.parametrize(
    ('found', 'line'),
    [
        ([record(status=Status.NOT_FOUND)], 'status is NOT_FOUND (Why.), was OK'),
        ([record(thing(1, 0), thing(2, 50))], '2 objects, were 1'),
        ([], 'has no answer any more'),
    ],
)
def test_every_kind_of_difference_is_named(found, line):
    assert differences([record(thing(1, 0))], found) == [f'stamp 5.000000000, “cup”: {line}']


def test_a_query_that_is_new_is_named():
    assert differences([], [record()]) == [
        'stamp 5.000000000, “cup”: is not among the accepted answers'
    ]


def test_the_same_query_about_the_same_image_is_told_apart_by_its_turn():
    twice = [record(thing(1, 0)), record(thing(1, 50))]
    assert differences(twice, twice) == []
    (line,) = differences(twice, [twice[0], twice[0]])
    assert line.startswith('stamp 5.000000000, “cup”, time 2: object 1')


def test_accepted_answers_that_are_not_there_say_how_to_make_them(tmp_path):
    with pytest.raises(NoGolden, match='--accept'):
        list(read_golden(tmp_path / 'golden.jsonl'))
    (tmp_path / 'golden.jsonl').write_text(to_line(record()) + '\n{}\n')
    with pytest.raises(NoGolden, match='cannot be read'):
        list(read_golden(tmp_path / 'golden.jsonl'))


def test_accepted_answers_from_a_windows_editor_are_read(tmp_path):
    path = tmp_path / 'golden.jsonl'
    path.write_text(to_line(record()) + '\n', 'utf-8-sig')
    (found,) = read_golden(path)
    assert to_line(found) == to_line(record())


def test_an_image_of_another_size_is_a_difference():
    other = replace(record().answer)
    smaller = record()._replace(answer=other, size=(20, 50))
    assert 'the image has (20, 50) pixels' in differences([record()], [smaller])[0]
