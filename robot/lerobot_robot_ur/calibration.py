"""An arm's own lengths and angles, measured in the factory and kept by its controller.

They are Denavit and Hartenberg's parameters. Two axes that are nearly parallel have their common
normal far away, so the frames of upper arm and forearm can lie hundreds of metres from the arm
(ur_calibration of Universal_Robots_ROS2_Driver, "Calibration correction algorithm", has those of a
real UR10e with d = 439 m). The tool is right all the same; to know where the links are, each frame
is moved along its axis, and turned about it, to where published lengths have it.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from ur_motion.arms import DH_ALPHA

from .errors import ConfigError
from .models import RobotModel

Array = NDArray[np.float64]
SixNumbers = tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """The parameters of all six joints, from the base on: theta (rad), a (m), d (m), alpha (rad).

    Raises:
        ConfigError: one of them is not six finite numbers.
    """

    theta: SixNumbers
    a: SixNumbers
    d: SixNumbers
    alpha: SixNumbers

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if len(values) != 6 or not all(map(math.isfinite, values)):
                raise ConfigError([f"calibration: {name} is {values}; it has 6 finite numbers"])

    def steps(self) -> tuple[Array, Array]:
        """Returns [6, 4, 4] from each link's frame to the next at angle zero, and [4, 4] from the
        last one, on the axis of joint 6, to the flange.

        The frame of link i lies on the axis of joint i, behind that joint's d and theta.
        """
        before, found = np.eye(4), []
        for theta, a, d, alpha in zip(*astuple(self), strict=True):
            found.append(before @ _screw("z", theta, d))
            before = _screw("x", alpha, a)
        return np.stack(found), before

    def steps_near(self, nominal: Array) -> tuple[Array, Array]:
        """Returns `steps` with each frame moved along its axis, and turned about it, to where the
        steps [6, 4, 4] of other lengths have it; the last frame stays."""
        steps, to_flange = self.steps()
        place = expected = moved = np.eye(4)
        for i, step in enumerate(steps.copy()):
            place, expected = place @ step, expected @ nominal[i]
            move = np.eye(4)
            if i < 5:
                off = np.linalg.solve(place, expected)
                move = _screw("z", math.atan2(off[1, 0], off[0, 0]), off[2, 3])
            steps[i] = np.linalg.solve(moved, step @ move)
            moved = move
        return steps, to_flange


def published(model: RobotModel) -> Calibration:
    """Returns the parameters that all arms of a model have before they are calibrated."""
    return Calibration((0.0,) * 6, model.arm.dh_a, model.arm.dh_d, DH_ALPHA)


def _screw(axis: str, angle: float, distance: float) -> Array:
    """Returns [4, 4]: a turn about an axis (rad) and a motion along it (m)."""
    # Without the rounding error that pi / 2 brings.
    c, s = round(math.cos(angle), 15), round(math.sin(angle), 15)
    if axis == "x":
        return np.array(
            [[1, 0, 0, distance], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]], np.float64
        )
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, distance], [0, 0, 0, 1]], np.float64)
