"""Inverse kinematics: joint motions that bring the tool to a pose, within the joints' limits.

Each step is a small quadratic program: the tool's error counts most, a light pull towards home
keeps the elbow on its side, and positions and speeds of the joints stay in bounds. Weights, bounds
and order of operations are those of mink's FrameTask, PostureTask, ConfigurationLimit and
VelocityLimit, of which this is the part that one arm needs.
"""

from __future__ import annotations

from ctypes import c_int

import daqp
import numpy as np
from numpy.typing import NDArray

from . import quaternions
from .arms import JOINT_LIMIT, MAX_SPEED
from .chain import Chain, ToolState
from .twists import Pose, inverse_right_jacobian

Array = NDArray[np.float64]

_TOOL_COST = np.diag([10.0, 10.0, 10.0, 1.0, 1.0, 1.0])  # translation, rotation
_POSTURE_COST = 1e-3
_DAMPING = 1e-8
_NEARER = 0.95  # the share of its distance to a position limit that a joint may go in one step
_ITERATIONS = 2
_NONE = 1e30  # DAQP's infinity


class InverseKinematics:
    """Turns tool poses into joint positions.

    Args:
        chain: the arm.
        home: joint positions [6] (rad) that it is lightly pulled towards.
    """

    def __init__(self, chain: Chain, home: Array):
        self._chain, self._home = chain, home
        self._limit, self._speed = np.asarray(JOINT_LIMIT), np.asarray(MAX_SPEED)
        eye = np.eye(6)
        self._bounded = np.vstack([eye, -eye, eye, -eye])
        self._no_lower = np.full(len(self._bounded), -_NONE)
        self._inequalities = np.zeros(len(self._bounded), dtype=c_int)

    def advance(
        self, joints: Array, position: Array, rotation: Array, duration_s: float
    ) -> tuple[Array, Array]:
        """Moves from `joints` [6] (rad) towards a tool pose for at most `duration_s`.

        Args:
            position: of the tool point [3] (m, base frame).
            rotation: of the tool [3, 3].

        Returns:
            Joint positions [6] (rad) and the tool point's position [3] (m) there.
        """
        target, dt = Pose.of(position, rotation), duration_s / _ITERATIONS
        joints = joints.copy()
        for _ in range(_ITERATIONS):
            change = self._step(joints, target, dt)
            if change is None:
                break  # stay where we are: the next action may ask for something possible
            joints = joints + dt * (change / dt)
        joints = np.clip(joints, -self._limit, self._limit)
        return joints, self._chain.tool(joints).position

    def _step(self, joints: Array, target: Pose, dt: float) -> Array | None:
        """Returns the change [6] (rad) of the joints in `dt`; None where none is possible."""
        hessian, gradient = _objective(self._chain.tool(joints), target)
        posture = joints - self._home
        hessian += _POSTURE_COST * _POSTURE_COST * np.eye(6)
        gradient += posture * _POSTURE_COST * _POSTURE_COST
        reach = dt * self._speed
        bounds = np.hstack(
            [_NEARER * (self._limit - joints), _NEARER * (joints + self._limit), reach, reach]
        )
        change, _, status, _ = daqp.solve(
            hessian, gradient, self._bounded, bounds, self._no_lower, self._inequalities
        )
        return change if status > 0 else None


def _objective(tool: ToolState, target: Pose) -> tuple[Array, Array]:
    """Returns the quadratic and the linear term of the tool's error, in its own frame."""
    pose = Pose.of(tool.position, tool.rotation)
    to_own_frame = np.zeros((6, 6))
    turn = np.array(quaternions.matrix(quaternions.conjugate(pose.turn)))
    to_own_frame[:3, :3] = to_own_frame[3:, 3:] = turn
    jacobian = -inverse_right_jacobian((target.inverse() @ pose).log()) @ (
        to_own_frame @ tool.jacobian
    )
    weighted = _TOOL_COST @ jacobian
    error = _TOOL_COST @ -(pose.inverse() @ target).log()
    hessian = np.eye(6) * _DAMPING + weighted.T @ weighted
    return hessian, -error.T @ weighted
