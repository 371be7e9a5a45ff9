"""Rotation vectors and matrices are each other's inverse, at every angle."""

import numpy as np
import pytest
from ur_motion import rotations


@pytest.mark.parametrize("angle", [1e-10, 1e-4, 1.0, 2.6, 3.0, 3.14, 3.1415926, np.pi])
def test_rotation_vectors_invert(angle):
    axis = np.random.default_rng(1).standard_normal(3)
    vector = axis / np.linalg.norm(axis) * angle
    found = rotations.log(rotations.exp(vector))
    if angle == np.pi and found @ vector < 0:
        found = -found  # both ways are half a turn
    np.testing.assert_allclose(found, vector, atol=1e-9)


def test_no_rotation_is_no_vector():
    np.testing.assert_array_equal(rotations.log(np.eye(3)), np.zeros(3))
    np.testing.assert_array_equal(rotations.exp(np.zeros(3)), np.eye(3))


def test_a_quarter_turn_about_z():
    np.testing.assert_allclose(
        rotations.exp([0, 0, np.pi / 2]), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15
    )


def test_the_nearest_rotation_is_one():
    matrix = rotations.exp([0.3, -0.2, 0.5])
    near = matrix + 1e-6 * np.random.default_rng(0).standard_normal((3, 3))
    found = rotations.orthonormal(near)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(found, matrix, atol=2e-6)
