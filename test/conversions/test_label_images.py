"""Label images have each object's id or class at its pixels; LabelInfo says what they mean."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segzero_ros.conversions.label_images import (
    BACKGROUND,
    class_ids,
    class_image,
    confidence_image,
    label_image,
    label_info,
    too_large,
)
from segzero_ros.types import Answer, Frame, Query, Roi, Segment, Status

HEIGHT, WIDTH = 4, 8


def make(name: str, /, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, **fields)


def segment(number: int, column: int, label: str = 'cup', score: float = 0.5) -> Segment:
    """Return an object that covers two columns of the image."""
    roi = Roi(column, 0, 2, HEIGHT)
    return Segment(number, label, score, roi, (), roi, np.ones((HEIGHT, 2), np.bool_))


def answer(*segments: Segment) -> Answer:
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 12, 'optical')
    return Answer(Query('cups'), Status.OK, frame=frame, segments=segments)


def first_row(image: Any) -> list[int]:
    kind = {'mono8': np.uint8, 'mono16': np.uint16}[image.encoding]
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    assert image.step == WIDTH * np.dtype(kind).itemsize
    pixels = np.frombuffer(image.data, kind).reshape(HEIGHT, WIDTH)
    assert (pixels == pixels[0]).all()
    return [int(value) for value in pixels[0]]


@pytest.mark.parametrize('encoding', ['mono8', 'mono16'])
def test_each_object_has_its_id_and_the_first_one_wins(encoding: str) -> None:
    image = label_image(make, answer(segment(7, 1), segment(9, 2), segment(200, 6)), encoding)
    assert image.encoding == encoding
    assert first_row(image) == [0, 7, 7, 9, 0, 0, 200, 200]


def test_sixteen_bits_are_the_default() -> None:
    assert label_image(make, answer(segment(65534, 0))).encoding == 'mono16'


@pytest.mark.parametrize(('encoding', 'largest'), [('mono8', 254), ('mono16', 65534)])
def test_an_id_that_does_not_fit_is_left_out_and_never_another_one(
    encoding: str, largest: int
) -> None:
    found = answer(*(segment(largest + each, 2 * each) for each in range(3)), segment(1, 6))
    assert first_row(label_image(make, found, encoding)) == [largest] * 2 + [0] * 4 + [1] * 2
    assert too_large(found, encoding) == [largest + 1, largest + 2]


def test_objects_without_a_mask_need_no_value() -> None:
    nothing = np.zeros((0, 0), np.bool_)
    point = Segment(999, 'cup', math.nan, Roi(0, 0, 0, 0), (), Roi(0, 0, 0, 0), nothing)
    assert too_large(answer(point), 'mono8') == []


def test_objects_of_one_label_are_one_class() -> None:
    labels = {0: BACKGROUND, 1: 'cup', 2: 'plate', 3: 'cup', 9: 'plate'}
    classes = class_ids(labels)
    assert classes == {0: 0, 1: 1, 2: 2, 3: 1, 9: 2}
    found = answer(segment(9, 0, 'plate'), segment(3, 2), segment(1, 4))
    assert first_row(class_image(make, found, classes, 'mono8')) == [2, 2, 1, 1, 1, 1, 0, 0]


def test_an_id_of_large_number_may_be_of_a_class_that_fits() -> None:
    found = answer(segment(300, 0))
    assert first_row(class_image(make, found, {300: 1}, 'mono8')) == [1, 1] + [0] * 6


def test_a_reader_finds_the_label_of_an_id_and_the_class_of_a_label() -> None:
    labels = {0: BACKGROUND, 1: 'cup', 2: 'plate', 3: 'cup', 9: 'plate'}
    info = label_info(make, 'the header', labels)
    assert (info.name, info.header) == ('vision_msgs/msg/LabelInfo', 'the header')
    assert {each.class_id: each.class_name for each in info.class_map} == labels
    # A costmap layer keeps one id for each name, the last one.
    by_name = {each.class_name: each.class_id for each in info.class_map}
    assert by_name == {BACKGROUND: 0, 'cup': 1, 'plate': 2}


def test_confidence_is_the_score_in_255_parts() -> None:
    scores = (0.5, 1.0, math.nan, -0.2)
    found = answer(*(segment(n + 1, 2 * n, score=score) for n, score in enumerate(scores)))
    image = confidence_image(make, found)
    assert image.encoding == 'mono8'
    assert first_row(image) == [128, 128, 255, 255, 255, 255, 0, 0]
    assert first_row(confidence_image(make, answer(segment(70000, 0, score=1.5))))[0] == 255
