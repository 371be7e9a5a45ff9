"""Cartesian control: actions move a commanded tool pose, inverse kinematics follows it.

The commanded pose is held inside a workspace box, a tilt limit and above the table *before*
inverse kinematics, and joint position and speed limits hold inside it. The simulated arm and the
real one integrate on the last command, not on what is measured: errors of execution do not
accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import rotations
from .arms import UR3E, Arm
from .chain import Chain
from .inverse import InverseKinematics

Array = NDArray[np.float64]

CONTROL_PERIOD = 0.1  # s
TRANSLATION_STEP = 0.025  # m of tool motion for an action component of 1
ROTATION_STEP = 0.1  # rad of tool rotation for an action component of 1
WORKSPACE_LOW = np.array([-0.41, -0.23, 0.022])  # m, tool point, base frame
WORKSPACE_HIGH = np.array([-0.15, 0.23, 0.22])
MAX_TILT = 0.8  # rad, of the tool's rotation from straight down, about any axis
TABLE_CLEARANCE = 0.003  # m kept between the lowest finger corner and the table
LEASH = 0.01  # m by which the commanded pose may run ahead of what the joints can reach

#: Rotation of the tool when it points straight down (tool x along base -x).
STRAIGHT_DOWN = np.diag([-1.0, 1.0, -1.0])
HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])

#: The Robotiq 2F-85: flange to the middle of the pads (m), where the tool point is.
TOOL_OFFSET = 0.141
TOOL_POINT = (0.0, 0.0, TOOL_OFFSET, 0.0, 0.0, 0.0)
#: How far the fingertips of the open gripper reach from the tool point, along its axes (m).
FINGERTIP = (0.011, 0.0507, 0.01875)

# Corners [4, 3] of the open fingertips in the tool frame.
_FINGERTIPS = np.array(
    [[sx * FINGERTIP[0], sy * FINGERTIP[1], FINGERTIP[2]] for sx in (-1, 1) for sy in (-1, 1)]
)


@dataclass
class Command:
    """What the arm is told: joints [6] (rad), tool position [3] (m), tool rotation [3, 3]."""

    joints: Array
    position: Array
    rotation: Array

    def copy(self) -> Command:
        """Returns a command whose arrays are its own."""
        return Command(self.joints.copy(), self.position.copy(), self.rotation.copy())

    @property
    def rotation_vector(self) -> Array:
        """Rotation vector [3] (rad, base frame) from straight down to the commanded rotation."""
        return rotations.log(self.rotation @ STRAIGHT_DOWN.T)


def limit_pose(position: Array, rotation: Array) -> tuple[Array, Array]:
    """Returns the nearest pose that the workspace box, the tilt limit and the table allow."""
    vector = rotations.log(rotation @ STRAIGHT_DOWN.T)
    angle = float(np.linalg.norm(vector))
    if angle > MAX_TILT:
        rotation = rotations.exp(vector * (MAX_TILT / angle)) @ STRAIGHT_DOWN
    position = np.clip(position, WORKSPACE_LOW, WORKSPACE_HIGH)
    lowest = float((_FINGERTIPS @ rotation.T)[:, 2].min())
    position[2] = max(position[2], TABLE_CLEARANCE - lowest)
    return position, rotation


class Controller:
    """Turns actions into commands of one arm.

    Args:
        arm: its lengths.
        tcp: pose [6] of the tool point in the flange's frame (m, rotation vector in rad).
    """

    def __init__(self, arm: Arm = UR3E, tcp: ArrayLike = TOOL_POINT):
        self._chain = Chain(arm, tcp)
        self._inverse = InverseKinematics(self._chain, HOME)

    def start_at(self, position: Array) -> Command:
        """Returns the command that holds the tool straight down at a position [3] (m)."""
        joints = HOME.copy()
        for _ in range(40):
            before = joints
            joints, _ = self._inverse.advance(before, position, STRAIGHT_DOWN, CONTROL_PERIOD)
            if np.abs(joints - before).max() < 1e-9:
                break
        return Command(joints, position.copy(), STRAIGHT_DOWN.copy())

    def command_at(self, joints: ArrayLike) -> Command:
        """Returns the command that holds the arm where its joints [6] (rad) are."""
        joints = np.array(joints, np.float64)
        tool = self._chain.tool(joints)
        return Command(joints, tool.position, tool.rotation)

    def advance(self, command: Command, motion: Array) -> Command:
        """Returns the command after an action's motion [6] in [-1, 1] (translation, rotation)."""
        rotation = rotations.exp(motion[3:6] * ROTATION_STEP) @ command.rotation
        position, rotation = limit_pose(
            command.position + motion[:3] * TRANSLATION_STEP, rotations.orthonormal(rotation)
        )
        joints, reached = self._inverse.advance(command.joints, position, rotation, CONTROL_PERIOD)
        ahead = position - reached
        distance = float(np.linalg.norm(ahead))
        if distance > LEASH:
            position = reached + ahead * (LEASH / distance)
        return Command(joints, position, rotation)
