"""The noise that textures are made of."""

import numpy as np
import pytest

from segzero_ros.simulation.textures import noise_at


@pytest.mark.parametrize('count', [0, 1, 1024, 1025, 70_000])
def test_noise_is_the_same_however_many_points_are_asked_for(count):
    x, y = np.random.default_rng(0).random((2, count), np.float32)
    together = noise_at(x, y, 0.5, (0.1, 0.2))
    assert together.shape == (count,)
    apart = [
        noise_at(x[i : i + 999], y[i : i + 999], 0.5, (0.1, 0.2)) for i in range(0, count, 999)
    ]
    assert np.array_equal(together, np.concatenate([together[:0], *apart]))


def test_noise_keeps_the_shape_of_its_points():
    x, y = np.mgrid[0:7, 0:5].astype(np.float32) / 10
    assert noise_at(x, y, 0.5, (0.0, 0.0)).shape == (7, 5)
