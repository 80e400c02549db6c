"""Medians and quantiles are NumPy's own, bit by bit."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
import numpy as np
import pytest

from segzero_ros.quantiles import median, quantile, quantiles

SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.0015, 0.03, 0.5, 0.97, 1 - 0.0015, 1.0])


def values(dtype, dimensions):
    """Return arrays with many equal values, and with very large and very small ones."""
    width = 8 * np.dtype(dtype).itemsize
    numbers = st.floats(-1e9, 1e9, width=width) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
    shapes = array_shapes(min_dims=1, max_dims=dimensions, min_side=1, max_side=40)
    return arrays(dtype, shapes, elements=numbers)


def same(one, other):
    """Whether two results have one dtype and the same bits; 0 may have either sign."""
    one, other = np.asarray(one) + 0.0, np.asarray(other) + 0.0
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@given(data=st.data())
def test_quantiles_are_numpys(dtype, data):
    given_values = data.draw(values(dtype, 2))
    shares = sorted(data.draw(st.lists(SHARES, min_size=1, max_size=3)))
    kept = given_values.copy()
    found = quantiles(given_values, *shares)
    assert len(found) == len(shares)
    for share, one in zip(shares, found, strict=True):
        assert same(one, np.quantile(given_values, share, axis=0))
        assert same(quantile(given_values, share), one)
    assert same(given_values, kept)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('count', [1, 2, 3, 100, 2499, 2500])
def test_quantiles_of_many_points_are_numpys(dtype, count):
    points = np.random.default_rng(count).normal(size=(count, 5)).astype(dtype)
    for share, one in zip((0.0015, 0.9985), quantiles(points, 0.0015, 0.9985), strict=True):
        assert same(one, np.quantile(points, share, axis=0))
    # What is in memory column by column, and what is part of something else.
    for other in (np.asfortranarray(points), points[:, 1:3], points[::-1]):
        assert same(quantile(other, 0.97), np.quantile(other, 0.97, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@given(data=st.data())
def test_medians_are_numpys(dtype, data):
    given_values = data.draw(values(dtype, 1))
    kept = given_values.copy()
    assert same(median(given_values), np.median(given_values))
    assert same(given_values, kept)
