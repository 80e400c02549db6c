"""Quaternions and rotation matrices convert into each other."""

import cv2
import numpy as np
import pytest

from segzero_ros.rotations import matrix_from_quaternion, quaternion_from_matrix

HALF = 0.5**0.5


@pytest.mark.parametrize(
    ('quaternion', 'matrix'),
    [
        ((0, 0, 0, 1), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ((HALF, 0, 0, HALF), [[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        ((0, HALF, 0, HALF), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
        ((0, 0, HALF, HALF), [[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    ],
)
def test_quarter_turns(quaternion, matrix):
    assert matrix_from_quaternion(quaternion) == pytest.approx(np.array(matrix))
    assert quaternion_from_matrix(np.array(matrix, float)) == pytest.approx(quaternion)


@pytest.mark.parametrize('vector', np.random.default_rng(0).uniform(-1.7, 1.7, (20, 3)))
def test_matrix_to_quaternion_and_back(vector):
    rotation = np.asarray(cv2.Rodrigues(vector)[0])
    quaternion = quaternion_from_matrix(rotation)
    assert quaternion[3] >= 0
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    assert matrix_from_quaternion(quaternion) == pytest.approx(rotation, abs=1e-9)
