"""Cartesian control: actions move a commanded tool pose, inverse kinematics follows it.

The commanded pose is held inside a workspace box, a tilt limit and above the table *before*
inverse kinematics, and joint position and speed limits hold inside it. The real arm's driver
integrates on its last command in the same way, so that execution errors do not accumulate.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

from dataclasses import dataclass

import mink
import mujoco
import numpy as np
from numpy.typing import NDArray

from . import rotations
from .arm import JOINT_LIMIT, JOINTS, MAX_SPEED
from .scene import FINGER_OUTSIDE, PAD_HALF

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

# Corners [4, 3] of the open fingertips in the tool frame.
_FINGERTIPS = np.array(
    [[sx * PAD_HALF[0], sy * FINGER_OUTSIDE, PAD_HALF[2]] for sx in (-1, 1) for sy in (-1, 1)]
)
_IK_ITERATIONS = 2


@dataclass
class Command:
    """What the arm is told: joints [6] (rad), tool position [3] (m), tool rotation [3, 3]."""

    joints: Array
    position: Array
    rotation: Array

    def copy(self) -> Command:
        return Command(self.joints.copy(), self.position.copy(), self.rotation.copy())

    @property
    def rotation_vector(self) -> Array:
        """Rotation vector [3] (rad, base frame) from straight down to the commanded rotation."""
        return rotations.log(self.rotation @ STRAIGHT_DOWN.T)


def limit_pose(position: Array, rotation: Array) -> tuple[Array, Array]:
    """The nearest pose that the workspace box, the tilt limit and the table allow."""
    vector = rotations.log(rotation @ STRAIGHT_DOWN.T)
    angle = float(np.linalg.norm(vector))
    if angle > MAX_TILT:
        rotation = rotations.exp(vector * (MAX_TILT / angle)) @ STRAIGHT_DOWN
    position = np.clip(position, WORKSPACE_LOW, WORKSPACE_HIGH)
    lowest = float((_FINGERTIPS @ rotation.T)[:, 2].min())
    position[2] = max(position[2], TABLE_CLEARANCE - lowest)
    return position, rotation


class Controller:
    """Differential inverse kinematics for one environment (mink on the arm-only model)."""

    def __init__(self, kinematics: mujoco.MjModel):
        self._configuration = mink.Configuration(kinematics)
        self._tool = mink.FrameTask("tool", "site", position_cost=10.0, orientation_cost=1.0)
        # A light pull towards home keeps the elbow on its side without bending the tool's path.
        posture = mink.PostureTask(kinematics, cost=1e-3)
        posture.set_target(HOME)
        self._tasks = [self._tool, posture]
        self._limits = [
            mink.ConfigurationLimit(kinematics),
            mink.VelocityLimit(kinematics, dict(zip(JOINTS, MAX_SPEED, strict=True))),
        ]

    def start_at(self, position: Array) -> Command:
        """The command that holds the tool straight down at a position [3] (m)."""
        joints = HOME.copy()
        for _ in range(40):
            before = joints
            joints = self._solve(before, position, STRAIGHT_DOWN)
            if np.abs(joints - before).max() < 1e-9:
                break
        return Command(joints, position.copy(), STRAIGHT_DOWN.copy())

    def advance(self, command: Command, motion: Array) -> Command:
        """The next command after an action's motion [6] in [-1, 1] (translation, rotation)."""
        rotation = rotations.exp(motion[3:6] * ROTATION_STEP) @ command.rotation
        position, rotation = limit_pose(
            command.position + motion[:3] * TRANSLATION_STEP, rotations.orthonormal(rotation)
        )
        joints = self._solve(command.joints, position, rotation)
        reached = self._configuration.get_transform_frame_to_world("tool", "site").translation()
        ahead = position - reached
        distance = float(np.linalg.norm(ahead))
        if distance > LEASH:
            position = reached + ahead * (LEASH / distance)
        return Command(joints, position, rotation)

    def _solve(self, joints: Array, position: Array, rotation: Array) -> Array:
        """Joints [6] after at most one control period of motion towards a tool pose."""
        configuration, dt = self._configuration, CONTROL_PERIOD / _IK_ITERATIONS
        configuration.update(joints)
        self._tool.set_target(
            mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), position)
        )
        for _ in range(_IK_ITERATIONS):
            try:
                velocity = mink.solve_ik(
                    configuration, self._tasks, dt, "daqp", damping=1e-8, limits=self._limits
                )
            except mink.NoSolutionFound:
                break  # stay where we are: the next action may ask for something possible
            configuration.integrate_inplace(velocity, dt)
        limit = np.asarray(JOINT_LIMIT)
        configuration.update(np.clip(configuration.q, -limit, limit))
        return configuration.q.copy()
