"""What is counted and measured quickly is what NumPy and OpenCV say, to the last bit."""

import cv2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
import numpy as np
import pytest

from segzero_ros.reasoning.attributes.oversegmentation import (
    compact,
    connected_parts,
    inward_distance,
    mean_colour,
    mean_of,
    means,
    only,
)

PICTURES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


@pytest.mark.slow
@given(
    st.sampled_from([np.bool_, np.uint8, np.int64]).flatmap(
        lambda dtype: arrays(dtype, st.integers(1, 300))
    )
)
def test_means_of_whole_numbers_are_numpys(whole):
    whole = whole // 2**20 if whole.dtype == np.int64 else whole
    assert mean_of(whole) == whole.mean()


@pytest.mark.slow
@given(arrays(np.uint8, st.tuples(st.integers(1, 300), st.just(3))))
def test_mean_colours_are_numpys(pixels):
    assert mean_colour(pixels).tobytes() == pixels.mean(axis=0).tobytes()


@pytest.mark.parametrize('neighbours', [4, 8])
@given(mask=arrays(np.uint8, PICTURES, elements=st.integers(0, 1)))
def test_parts_are_opencvs(neighbours, mask):
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=neighbours)
    numbers, areas = connected_parts(mask, neighbours)
    assert (numbers == parts).all()
    assert areas.tolist() == stats[:count, cv2.CC_STAT_AREA].tolist()


@given(arrays(np.int32, PICTURES, elements=st.integers(0, 9)), st.data())
def test_only_the_labels_to_keep_are_left_and_numbered_in_order(labels, data):
    keep = data.draw(arrays(np.bool_, 10))
    left = only(labels, keep)
    kept = [number for number in range(1, 10) if keep[number]]
    for number in range(10):
        expected = kept.index(number) + 1 if number in kept else 0
        assert (left[labels == number] == expected).all()
    present = sorted(set(labels.ravel().tolist()) - {0})
    assert sorted(set(compact(labels).ravel().tolist()) - {0}) == list(range(1, len(present) + 1))


def test_pieces_have_the_mean_of_their_own_pixels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (20, 30)).astype(np.int32)
    values = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    found = means(labels, values, 6)
    for number in range(1, 5):
        assert found[number].tolist() == values[labels == number].mean(axis=0).tolist()
    assert not found[[0, 5, 6]].any()


@pytest.mark.parametrize('turned', [False, True])
def test_how_far_points_lie_inwards_of_each_side(turned):
    square = np.array([[0, 0], [2, 0], [2, 1], [0, 1]], np.float32)
    points = np.array([[0.5, 0.25], [3.0, 0.5]], np.float32)
    inside = [[0.25, 0.5], [1.5, -1.0], [0.75, 0.5], [0.5, 3.0]]
    if turned:
        # The same sides the other way around: the first is now the third.
        square, inside = square[::-1].copy(), [inside[k] for k in (2, 1, 0, 3)]
    found = inward_distance(square, points)
    assert found.dtype == np.float32
    assert found.tolist() == inside
