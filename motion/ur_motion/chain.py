"""Where the tool is, and how it moves with the joints: forward kinematics of one configuration.

Like `quaternions`, it computes in MuJoCo's order, down to the point about which the Jacobian is
taken. Many configurations at once, with all links, are in lerobot_robot_ur's `kinematics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import quaternions, rotations
from .arms import JOINT_ROTATIONS, LINK_CENTRES, LINK_MASSES, Arm
from .quaternions import Quaternion, Vector

Array = NDArray[np.float64]

# The simulator's base is a cylinder of MuJoCo's default density.
_BASE_MASS, _BASE_CENTRE = 1.1581167158193413, (0.0, 0.0, 0.045)  # kg, m


@dataclass(frozen=True)
class ToolState:
    """The tool at one configuration, in the base frame.

    Attributes:
        position: of the tool point [3] (m).
        rotation: of the tool [3, 3].
        jacobian: [6, 6] from joint speeds (rad/s) to the tool's velocity (m/s, then rad/s).
    """

    position: Array
    rotation: Array
    jacobian: Array


class Chain:
    """The six joints of an arm with a tool point.

    Args:
        arm: its lengths.
        tcp: pose [6] of the tool point in the flange's frame (m, rotation vector in rad).
    """

    def __init__(self, arm: Arm, tcp: ArrayLike):
        values = np.asarray(tcp, np.float64)
        self._offsets = arm.joint_offsets
        self._tool_point: Vector = (float(values[0]), float(values[1]), float(values[2]))
        self._tool_turn: Quaternion | None = None
        if values[3:].any():
            self._tool_turn = quaternions.from_matrix(rotations.exp(values[3:]))
        total = 0.0
        for mass in reversed(LINK_MASSES):
            total = mass + total
        self._inverse_mass = 1.0 / (_BASE_MASS + total)

    def tool(self, joints: ArrayLike) -> ToolState:
        """Returns where the tool is and how it moves at joint positions [6] (rad)."""
        position: Vector = (0.0, 0.0, 0.0)
        turn = quaternions.IDENTITY
        rows = quaternions.matrix(turn)
        anchors, axes, centres = [], [], []
        angles = np.asarray(joints, np.float64).tolist()
        for i, angle in enumerate(angles):
            position = _add(_multiply(rows, self._offsets[i]), position)
            turn = quaternions.multiply(turn, JOINT_ROTATIONS[i])
            axes.append(quaternions.rotate(turn, (0.0, 0.0, 1.0)))
            turn = quaternions.normalized(quaternions.multiply(turn, quaternions.about_z(angle)))
            rows = quaternions.matrix(turn)
            anchors.append(position)
            centres.append(_add(_multiply(rows, LINK_CENTRES[i]), position))
        point = _add(_multiply(rows, self._tool_point), position)
        jacobian = self._jacobian(point, anchors, axes, centres)
        if self._tool_turn is not None:
            rows = quaternions.matrix(quaternions.multiply(turn, self._tool_turn))
        return ToolState(np.array(point), np.array(rows), jacobian)

    def _jacobian(
        self, point: Vector, anchors: list[Vector], axes: list[Vector], centres: list[Vector]
    ) -> Array:
        """Takes the axes' motion at the arm's centre of mass, then carries it to the point."""
        centre: Vector = (0.0, 0.0, 0.0)
        links = zip(LINK_MASSES, centres, strict=True)
        for mass, at in (*reversed(list(links)), (_BASE_MASS, _BASE_CENTRE)):
            centre = (centre[0] + at[0] * mass, centre[1] + at[1] * mass, centre[2] + at[2] * mass)
        scale = self._inverse_mass
        centre = (centre[0] * scale, centre[1] * scale, centre[2] * scale)
        arm = _subtract(point, centre)
        columns = [
            (*_add(_cross(axis, _subtract(centre, anchor)), _cross(axis, arm)), *axis)
            for axis, anchor in zip(axes, anchors, strict=True)
        ]
        return np.ascontiguousarray(np.array(columns).T)


def _add(a: Vector, b: Vector) -> Vector:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _subtract(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _multiply(rows: tuple[Vector, Vector, Vector], v: Vector) -> Vector:
    (a, b, c), (d, e, f), (g, h, i) = rows
    x, y, z = v
    return (a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z)
