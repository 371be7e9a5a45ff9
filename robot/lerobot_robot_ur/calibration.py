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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

if TYPE_CHECKING:
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

    def transforms(self, published: Array) -> tuple[Array, Array]:
        """Returns [6, 4, 4] from each link's frame to the next at angle zero, and [4, 4] from the
        last one, on the axis of joint 6, to the flange.

        published: the first of these with published lengths; frames come to lie where it has them.
        """
        before, chain, rows = np.eye(4), [], list(zip(*astuple(self), strict=True))
        place = expected = np.eye(4)
        moved = np.eye(4)  # of the frame before
        for i, (theta, a, d, alpha) in enumerate(rows):
            step = before @ _screw("z", theta, d)
            before = _screw("x", alpha, a)
            place, expected = place @ step, expected @ published[i]
            move = np.eye(4)
            if i < 5:
                off = np.linalg.solve(place, expected)
                move = _screw("z", math.atan2(off[1, 0], off[0, 0]), off[2, 3])
            chain.append(np.linalg.solve(moved, step @ move))
            moved = move
        return np.stack(chain), before


def published(model: RobotModel) -> Calibration:
    """Returns the parameters that all arms of a model have before they are calibrated."""
    from ur_motion.arms import DH_ALPHA

    return Calibration((0.0,) * 6, model.arm.dh_a, model.arm.dh_d, DH_ALPHA)


def _screw(axis: str, angle: float, distance: float) -> Array:
    """Returns [4, 4]: a turn about an axis (rad) and a motion along it (m)."""
    c, s = math.cos(angle), math.sin(angle)
    if axis == "x":
        return np.array(
            [[1, 0, 0, distance], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]], np.float64
        )
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, distance], [0, 0, 0, 1]], np.float64)
