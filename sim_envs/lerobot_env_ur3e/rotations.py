"""Rotation vectors and matrices (all in radians, right-handed, active rotations)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def skew(v: Array) -> Array:
    """Cross-product matrix [3, 3] of a vector [3]."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def exp(rotation_vector: Array) -> Array:
    """Rotation matrix [3, 3] of a rotation vector [3] (Rodrigues)."""
    angle = float(np.linalg.norm(rotation_vector))
    if angle < 1e-12:
        return np.eye(3) + skew(rotation_vector)
    k = skew(rotation_vector / angle)
    return np.eye(3) + math.sin(angle) * k + (1.0 - math.cos(angle)) * k @ k


def log(matrix: Array) -> Array:
    """Rotation vector [3] of a rotation matrix [3, 3]; meant for angles below pi.

    The tool stays within `control.MAX_TILT` of straight down, so the singularity at
    pi is never met; near zero the sine of the angle is used, which is exact there.
    """
    axis_sin = 0.5 * np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sin = float(np.linalg.norm(axis_sin))
    angle = math.atan2(sin, 0.5 * (float(np.trace(matrix)) - 1.0))
    return axis_sin if sin < 1e-9 else axis_sin * (angle / sin)


def orthonormal(matrix: Array) -> Array:
    """The rotation [3, 3] nearest to an almost-rotation: stops drift of a running product."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt
