"""With a standing query a label keeps its id, and no two objects of an answer share one."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip('rclpy', reason='its package needs ROS 2')

from segzero_ros.conversions.label_images import MAX_IDS
from segzero_ros.ros.perception.stable_ids import StableIds


@pytest.fixture
def ids() -> StableIds:
    stable = StableIds()
    stable.enabled = True
    return stable


def test_a_label_keeps_its_id_whatever_comes_before_it(ids: StableIds) -> None:
    assert list(ids.number(['cup', 'plate'])) == [1, 2]
    assert list(ids.number(['plate', 'fork', 'cup'])) == [2, 3, 1]
    assert list(ids.number([])) == []
    assert list(ids.number(['cup'])) == [1]


def test_objects_of_one_label_keep_an_id_each(ids: StableIds) -> None:
    assert list(ids.number(['cup', 'cup', 'plate'])) == [1, 2, 3]
    assert list(ids.number(['plate', 'cup', 'cup', 'cup'])) == [3, 1, 2, 4]


def test_without_a_standing_query_ids_count_up() -> None:
    stable = StableIds()
    assert list(stable.number(['cup', 'plate'])) == [1, 2]
    assert list(stable.number(['plate', 'cup'])) == [1, 2]


def test_a_node_that_is_activated_again_knows_no_labels(ids: StableIds) -> None:
    ids.number(['cup', 'plate'])
    ids.reset()
    assert list(ids.number(['plate', 'cup'])) == [1, 2]


@pytest.mark.parametrize('encoding', MAX_IDS)
def test_ids_fit_into_the_label_image(
    ids: StableIds, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids.encoding = encoding
    largest = MAX_IDS[encoding]
    for first in range(0, largest - 100, 100):
        ids.number([f'thing {first + each}' for each in range(100)])
    before = list(ids.number(['thing 0', 'thing 1']))
    assert before == [1, 2]
    with caplog.at_level(logging.WARNING):
        numbers = list(ids.number(['cup', 'thing 1', *(f'new {each}' for each in range(198))]))
    assert numbers == list(range(1, 201))
    assert encoding in caplog.text
