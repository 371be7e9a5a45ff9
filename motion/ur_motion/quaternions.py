"""Unit quaternions (w, x, y, z) of plain floats: the rotations that are computed in every step.

Each function adds and multiplies in the order of MuJoCo's function of the same purpose. So a
simulated trajectory is, bit for bit, the one that MuJoCo's own kinematics would command, and
results that were measured on numbered starts stay valid.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)
_SMALLEST = 1e-15


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Returns the rotation `b` followed by `a`."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
    )


def conjugate(q: Quaternion) -> Quaternion:
    """Returns the inverse rotation."""
    return (q[0], -q[1], -q[2], -q[3])


def normalized(q: Quaternion) -> Quaternion:
    """Returns the unit quaternion of the same direction."""
    norm = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    if norm < _SMALLEST:
        return IDENTITY
    if abs(norm - 1.0) <= _SMALLEST:
        return q
    inverse = 1.0 / norm
    return (q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse)


def about_z(angle: float) -> Quaternion:
    """Returns the rotation by an angle (rad) about the z axis."""
    if angle == 0.0:
        return IDENTITY
    return (math.cos(angle * 0.5), 0.0, 0.0, math.sin(angle * 0.5))


def rotate(q: Quaternion, v: Vector) -> Vector:
    """Returns the vector [3] after the rotation."""
    t0 = q[0] * v[0] + q[2] * v[2] - q[3] * v[1]
    t1 = q[0] * v[1] + q[3] * v[0] - q[1] * v[2]
    t2 = q[0] * v[2] + q[1] * v[1] - q[2] * v[0]
    return (
        v[0] + 2.0 * (q[2] * t2 - q[3] * t1),
        v[1] + 2.0 * (q[3] * t0 - q[1] * t2),
        v[2] + 2.0 * (q[1] * t1 - q[2] * t0),
    )


def matrix(q: Quaternion) -> tuple[Vector, Vector, Vector]:
    """Returns the rows of the rotation matrix [3, 3]."""
    q00, q11, q22, q33 = q[0] * q[0], q[1] * q[1], q[2] * q[2], q[3] * q[3]
    q01, q02, q03 = q[0] * q[1], q[0] * q[2], q[0] * q[3]
    q12, q13, q23 = q[1] * q[2], q[1] * q[3], q[2] * q[3]
    return (
        (q00 + q11 - q22 - q33, 2.0 * (q12 - q03), 2.0 * (q13 + q02)),
        (2.0 * (q12 + q03), q00 - q11 + q22 - q33, 2.0 * (q23 - q01)),
        (2.0 * (q13 - q02), 2.0 * (q23 + q01), q00 - q11 - q22 + q33),
    )


def from_matrix(rotation: Array) -> Quaternion:
    """Returns the unit quaternion of a rotation matrix [3, 3]."""
    (m0, m1, m2), (m3, m4, m5), (m6, m7, m8) = np.asarray(rotation).tolist()
    if m0 + m4 + m8 > 0.0:
        w = 0.5 * math.sqrt(1.0 + m0 + m4 + m8)
        q = (w, 0.25 * (m7 - m5) / w, 0.25 * (m2 - m6) / w, 0.25 * (m3 - m1) / w)
    elif m0 > m4 and m0 > m8:
        x = 0.5 * math.sqrt(1.0 + m0 - m4 - m8)
        q = (0.25 * (m7 - m5) / x, x, 0.25 * (m1 + m3) / x, 0.25 * (m2 + m6) / x)
    elif m4 > m8:
        y = 0.5 * math.sqrt(1.0 - m0 + m4 - m8)
        q = (0.25 * (m2 - m6) / y, 0.25 * (m1 + m3) / y, y, 0.25 * (m5 + m7) / y)
    else:
        z = 0.5 * math.sqrt(1.0 - m0 - m4 + m8)
        q = (0.25 * (m3 - m1) / z, 0.25 * (m2 + m6) / z, 0.25 * (m5 + m7) / z, z)
    return normalized(q)


def log(q: Quaternion) -> Array:
    """Returns the rotation vector [3] (rad), at most pi long."""
    sign = float(np.sign(q[0]))
    w, x, y, z = (sign or 1.0) * np.array(q)
    norm = math.sqrt(x * x + y * y + z * z)
    if norm < 1e-10:
        return np.zeros(3)
    return 2.0 * np.arctan2(norm, w) * (np.array([x, y, z]) * (1.0 / norm))
