"""Rotation vectors and matrices (all in radians, right-handed, active rotations)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import quaternions

Array = NDArray[np.float64]


def skew(v: Array) -> Array:
    """Returns the cross-product matrix [3, 3] of a vector [3]."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def exp(rotation_vector: ArrayLike) -> Array:
    """Returns the rotation matrix [3, 3] of a rotation vector [3] (Rodrigues' formula)."""
    vector = np.asarray(rotation_vector, np.float64)
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3) + skew(vector)
    k = skew(vector / angle)
    return np.eye(3) + math.sin(angle) * k + (1.0 - math.cos(angle)) * k @ k


def log(matrix: Array) -> Array:
    """Returns the rotation vector [3], at most pi long, of a rotation matrix [3, 3].

    Near zero the sine of the angle is used, which is exact there; near pi, where the sine is no
    longer good for the direction, the quaternion is.
    """
    axis_sin = 0.5 * np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sin, cos = float(np.linalg.norm(axis_sin)), 0.5 * (float(np.trace(matrix)) - 1.0)
    if cos < -0.9:
        return quaternions.log(quaternions.from_matrix(matrix))
    return axis_sin if sin < 1e-9 else axis_sin * (math.atan2(sin, cos) / sin)


def orthonormal(matrix: Array) -> Array:
    """Returns the rotation [3, 3] nearest to an almost-rotation: stops drift of a product."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt
