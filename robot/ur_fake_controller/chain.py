"""Kinematics of the arm: tool poses, Jacobian, inverse kinematics.

A pose is what UR calls one: position [3] (m) and rotation vector [3] (rad) in the base frame.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from lerobot_env_ur3e.arm import BODIES
from lerobot_env_ur3e.scene import kinematics_xml
from lerobot_robot_ur.calibration import Calibration, published
from lerobot_robot_ur.models import RobotModel
from numpy.typing import ArrayLike, NDArray
from ur_motion import rotations

Array = NDArray[np.float64]
Frame = tuple[Array, Array]  # position [3], rotation [3, 3]

_DAMPING = 1e-6
_ITERATIONS = 60
_LARGEST_STEP = 0.4  # rad of one joint in one iteration


def fit(model: mujoco.MjModel, robot: RobotModel) -> None:
    """Gives the scene's UR3e the link lengths of another arm."""
    for body, offset in zip(BODIES, robot.arm.joint_offsets, strict=True):
        model.body(body).pos[:] = offset
    mujoco.mj_setConst(model, mujoco.MjData(model))


def frame(pose: ArrayLike) -> Frame:
    values = np.asarray(pose, np.float64)
    return values[:3].copy(), rotations.exp(values[3:])


def pose(of: Frame) -> Array:
    return np.concatenate([of[0], rotations.log(of[1])])


def compose(first: Frame, second: Frame) -> Frame:
    return first[0] + first[1] @ second[0], first[1] @ second[1]


def inverse(of: Frame) -> Frame:
    return -of[1].T @ of[0], of[1].T


class Chain:
    """Forward and inverse kinematics of one arm with its tool centre point.

    Attributes:
        calibration: its parameters; those of the simulated world stay the published ones.
    """

    def __init__(self, robot: RobotModel, tcp: ArrayLike):
        self.model = mujoco.MjModel.from_xml_string(kinematics_xml())
        fit(self.model, robot)
        self.calibration = published(robot)
        self._data = mujoco.MjData(self.model)
        self._flange = int(self.model.site("flange").id)
        self._body = int(self.model.body("wrist_3_link").id)
        self._limits = np.asarray(robot.position_limits)
        self._jacobian = np.empty((6, 6))
        self.set_tcp(tcp)

    def calibrate(self, calibration: Calibration) -> None:
        """Gives the arm lengths and angles of its own."""
        self.calibration = own = calibration
        before = (0.0, 0.0)
        for body, theta, a, d, alpha in zip(
            BODIES, own.theta, own.a, own.d, own.alpha, strict=True
        ):
            self._place(self.model.body(body), *before, theta, d)
            before = (a, alpha)
        self._place(self.model.site("flange"), *before, 0.0, 0.0)

    @staticmethod
    def _place(part: Any, a: float, alpha: float, theta: float, d: float) -> None:
        """Puts a body or site where Denavit and Hartenberg have it after the joint before."""
        about_x, about_z = np.zeros(4), np.zeros(4)
        mujoco.mju_axisAngle2Quat(about_x, np.array([1.0, 0.0, 0.0]), alpha)
        mujoco.mju_axisAngle2Quat(about_z, np.array([0.0, 0.0, 1.0]), theta)
        mujoco.mju_mulQuat(part.quat, about_x, about_z)
        mujoco.mju_rotVecQuat(part.pos, np.array([0.0, 0.0, d]), about_x)
        part.pos[0] += a

    def set_tcp(self, tcp: ArrayLike) -> None:
        """Sets the pose [6] of the tool centre point in the flange frame."""
        self.tcp = np.asarray(tcp, np.float64).copy()
        self._tcp = frame(self.tcp)

    def flange(self, joints: ArrayLike) -> Frame:
        """Returns flange frame at joint positions [6] (rad)."""
        data = self._data
        data.qpos[:] = joints
        mujoco.mj_kinematics(self.model, data)
        return (
            data.site_xpos[self._flange].copy(),
            data.site_xmat[self._flange].reshape(3, 3).copy(),
        )

    def tool(self, joints: ArrayLike) -> Frame:
        """Returns frame of the tool centre point at joint positions [6] (rad)."""
        return compose(self.flange(joints), self._tcp)

    def jacobian(self, joints: ArrayLike) -> tuple[Frame, Array]:
        """Returns the tool's frame, and [6, 6] from joint speeds to its velocity (m/s, rad/s)."""
        tool = self.tool(joints)
        mujoco.mj_comPos(self.model, self._data)
        jacobian = self._jacobian
        mujoco.mj_jac(self.model, self._data, jacobian[:3], jacobian[3:], tool[0], self._body)
        return tool, jacobian.copy()

    def solve(self, target: Frame, near: ArrayLike, iterations: int = _ITERATIONS) -> Array | None:
        """Returns joints [6] near `near` that bring the tool to `target`; None where none do.

        Damped Gauss-Newton: unlike the controller's closed form it finds the branch nearest to
        where it starts, or nothing.
        """
        joints = np.asarray(near, np.float64).copy()
        for _ in range(iterations):
            tool, jacobian = self.jacobian(joints)
            error = np.concatenate([target[0] - tool[0], rotations.log(target[1] @ tool[1].T)])
            if np.abs(error).max() < 1e-9:
                break
            square = jacobian @ jacobian.T + _DAMPING * np.eye(6)
            step = jacobian.T @ np.linalg.solve(square, error)
            joints += step * min(1.0, _LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        else:
            tool = self.tool(joints)
            error = np.concatenate([target[0] - tool[0], rotations.log(target[1] @ tool[1].T)])
        inside = bool(np.all(np.abs(joints) <= self._limits))
        return joints if inside and float(np.abs(error).max()) < 1e-5 else None
