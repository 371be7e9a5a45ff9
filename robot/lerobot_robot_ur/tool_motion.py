"""Actions that move the commanded tool pose, as in lerobot_env_ur3e.

The same controller turns them into joints there and here, and integrates on what was commanded
last, not on what is measured: errors of execution do not accumulate, and a policy trained in the
simulator meets here what it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ur_motion import rotations
from ur_motion.control import (
    CONTROL_PERIOD,
    HOME,
    ROTATION_STEP,
    TRANSLATION_STEP,
    Command,
    Controller,
)

from .layout import TOOL_MOTION, Target
from .models import RobotModel

Array = NDArray[np.float64]

PERIOD_S = CONTROL_PERIOD  # s of motion that one action stands for
OPEN_M = 0.085  # between the pads of the simulator's open gripper


@dataclass(frozen=True)
class _Step:
    """An action [7] that was planned, and the commands before and after it."""

    before: Command
    action: Array
    after: Command
    target: Target

    def follows(self, command: Command, action: Array) -> bool:
        return self.before is command and np.array_equal(self.action, action)


class ToolMotion:
    """Actions [7] in [-1, 1]: translation (1 = 0.025 m), rotation (1 = 0.1 rad), gripper.

    Values outside are clipped. The gripper closes above 0 and otherwise opens, as wide as the
    simulator's does where it can: what is measured then stays what policies were trained on. The
    tool point stays in the simulator's workspace box and tilt limit.

    Args:
        robot: the arm.
        tcp: pose [6] of the tool point in the flange's frame (m, rotation vector in rad).
        stroke_m: the largest opening of the gripper.
    """

    names = TOOL_MOTION

    def __init__(self, robot: RobotModel, tcp: ArrayLike, stroke_m: float = OPEN_M):
        self._open_m = min(OPEN_M, stroke_m)
        self._controller = Controller(robot.arm, tcp)
        # The first time takes long: it loads the solver.
        self._controller.advance(self._controller.command_at(HOME), np.zeros(6))
        self._last: Command | None = None
        self._planned: list[_Step] = []

    def plan(self, actions: Array, joints: ArrayLike) -> list[Target]:
        command = self._last or self._controller.command_at(joints)
        known, self._planned = self._planned, []
        for i, action in enumerate(np.clip(actions, -1.0, 1.0)):
            # What was planned as upcoming before need not be solved for again.
            if i < len(known) and known[i].follows(command, action):
                step = known[i]
            else:
                step = self._step(command, action)
            self._planned.append(step)
            command = step.after
        return [step.target for step in self._planned]

    def accept(self) -> None:
        self._last = self._planned.pop(0).after

    def forget(self) -> None:
        self._last, self._planned = None, []

    def _step(self, before: Command, action: Array) -> _Step:
        after = self._controller.advance(before, action[:6])
        opening = 0.0 if action[6] > 0 else self._open_m
        taken = _motion(before, after, action[6])
        return _Step(before, action, after, Target(after.joints, opening, taken))


def _motion(before: Command, after: Command, gripper: float) -> Array:
    """Returns the action [7] that leads from one command to the next."""
    translation = (after.position - before.position) / TRANSLATION_STEP
    rotation = rotations.log(after.rotation @ before.rotation.T) / ROTATION_STEP
    return np.array([*translation, *rotation, gripper])
