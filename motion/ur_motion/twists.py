"""Poses and the motions between them (SE(3)): the error that inverse kinematics makes small.

Formulas and their numbers are those of J. Solà, J. Deray, D. Atchuthan: A micro Lie theory for
state estimation in robotics (2018). A pose is a quaternion with a position [3] (m); a twist [6] is
a translation (m) and a rotation vector (rad).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import quaternions
from .quaternions import Quaternion, Vector
from .rotations import skew

Array = NDArray[np.float64]

_SMALL = 1e-10  # below this square of an angle, the first terms of a series are exact


@dataclass(frozen=True)
class Pose:
    """A rotation and a position [3] (m)."""

    turn: Quaternion
    position: Vector

    @classmethod
    def of(cls, position: Array, rotation: Array) -> Pose:
        """Returns the pose of a position [3] (m) and a rotation matrix [3, 3]."""
        x, y, z = np.asarray(position).tolist()
        return cls(quaternions.from_matrix(rotation), (x, y, z))

    def inverse(self) -> Pose:
        """Returns the pose of the outer frame in this one."""
        turn = quaternions.conjugate(self.turn)
        x, y, z = self.position
        return Pose(turn, quaternions.rotate(turn, (-x, -y, -z)))

    def __matmul__(self, other: Pose) -> Pose:
        x, y, z = quaternions.rotate(self.turn, other.position)
        own = self.position
        return Pose(
            quaternions.multiply(self.turn, other.turn), (x + own[0], y + own[1], z + own[2])
        )

    def log(self) -> Array:
        """Returns the twist [6] that leads here from the outer frame (eq. 174 to 179)."""
        omega = quaternions.log(self.turn)
        theta = np.float64(_norm(omega))
        t2 = theta * theta
        w = skew(omega)
        w2 = w @ w
        if t2 < _SMALL:
            v_inverse = np.eye(3) - 0.5 * w + w2 / 12.0
        else:
            half = 0.5 * theta
            factor = (1.0 - 0.5 * theta * np.cos(half) / np.sin(half)) / t2
            v_inverse = np.eye(3) - 0.5 * w + factor * w2
        return np.concatenate([v_inverse @ np.array(self.position), omega])


def inverse_right_jacobian(twist: Array) -> Array:
    """Returns [6, 6] from a small motion in the pose's own frame to the change of its twist [6]."""
    v, omega = -twist[:3], -twist[3:]
    if _dot(omega, omega) < _SMALL:
        return np.eye(6)
    turning = _inverse_left_jacobian(omega)
    jacobian = np.zeros((6, 6))
    jacobian[:3, :3] = jacobian[3:, 3:] = turning
    jacobian[:3, 3:] = -turning @ _coupling(v, omega) @ turning
    return jacobian


def _inverse_left_jacobian(omega: Array) -> Array:
    """Returns [3, 3] for rotations (eq. 146)."""
    theta = np.float64(_norm(omega))
    t2 = theta * theta
    if theta < _SMALL:
        beta = (1.0 / 12.0) * (1.0 + t2 / 60.0 * (1.0 + t2 / 42.0 * (1.0 + t2 / 40.0)))
    else:
        beta = (1.0 / t2) * (1.0 - (theta * np.sin(theta) / (2.0 * (1.0 - np.cos(theta)))))
    squared = omega[:, None] * omega
    squared[np.diag_indices(3)] -= _dot(omega, omega)
    return squared * beta + skew(-0.5 * omega) + np.eye(3)


def _coupling(v: Array, omega: Array) -> Array:
    """Returns [3, 3]: how translation follows rotation (Q in eq. 180)."""
    theta = np.float64(_norm(omega))
    t2 = theta * theta
    t4 = t2 * t2
    sin, cos = np.sin(theta), np.cos(theta)
    b = (theta - sin) / (t2 * theta)
    c = (1.0 - 0.5 * t2 - cos) / t4
    d = (2.0 * theta - 3.0 * sin + theta * cos) / (2.0 * t4 * theta)
    V, W = skew(v), skew(omega)
    VW = V @ W
    WV = VW.T
    WVW, VWW = WV @ W, VW @ W
    return 0.5 * V + b * (WV + VW + WVW) - c * (VWW - VWW.T - 3.0 * WVW) + d * (WVW @ W + W @ WVW)


def _dot(a: Array, b: Array) -> float:
    return float(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _norm(a: Array) -> float:
    return math.sqrt(_dot(a, a))
