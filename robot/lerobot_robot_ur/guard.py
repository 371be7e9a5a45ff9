"""The last look at every target before it can reach the arm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import Refused
from .kinematics import DEFAULT_TCP, LINKS, Kinematics
from .limits import Limits
from .models import JOINT_NAMES, RobotModel

Array = NDArray[np.float64]

_ROUNDING = 1e-9  # relative: a value at its limit passes


class Guard:
    """Checks targets against limits, for the whole arm and its gripper.

    Args:
        model: the arm.
        limits: what to hold targets to.
        tcp: pose [6] of the tool point in the flange frame (m, rad).
        gripper: a name in `kinematics.GRIPPERS`.
    """

    def __init__(
        self,
        model: RobotModel,
        limits: Limits,
        tcp: ArrayLike = DEFAULT_TCP,
        gripper: str = "robotiq_2f85",
    ):
        self.limits = limits
        self.kinematics = Kinematics(model, tcp, gripper)
        self._low, self._high = (
            np.array(limits.position_low_rad),
            np.array(limits.position_high_rad),
        )
        self._velocity = np.array(limits.velocity_rad_s)

    def check_waypoints(self, from_joints: ArrayLike, joints: ArrayLike, period_s: float) -> None:
        """Check joint positions [n, 6] (rad) to be passed one after another, `period_s` apart.

        Args:
            from_joints: joint positions [6] (rad) where the motion begins.

        Raises:
            Refused: one or several are no good; names every reason.
        """
        start = _joints(from_joints, "from_joints", 1)
        points = np.atleast_2d(_joints(joints, "waypoints", 2))
        before = start
        reasons: list[str] = []
        for i, q in enumerate(points):
            jump = np.abs(q - before)
            reasons += [
                f"waypoint {i}: {JOINT_NAMES[k]} jumps by {jump[k]:.3f} rad, "
                f"limit {self.limits.max_joint_step_rad:.3f}"
                for k in np.flatnonzero(jump > self.limits.max_joint_step_rad)
            ]
            reasons += [f"waypoint {i}: {r}" for r in self._reasons(q, before, period_s)]
            before = q
        if reasons:
            raise Refused(reasons)

    def check_target(self, q: ArrayLike, previous: ArrayLike, dt_s: float) -> None:
        """Check the target q [6] (rad) of one servo cycle, `dt_s` after `previous` [6].

        Raises:
            Refused: names every reason.
        """
        reasons = self._reasons(_joints(q, "target", 1), _joints(previous, "previous", 1), dt_s)
        if reasons:
            raise Refused(reasons)

    def _reasons(self, q: Array, before: Array, dt_s: float) -> list[str]:
        limits, k = self.limits, self.kinematics
        reasons = [
            f"{JOINT_NAMES[i]} at {q[i]:.3f} rad, limits {self._low[i]:.3f} to {self._high[i]:.3f}"
            for i in np.flatnonzero((q < self._low) | (q > self._high))
        ]
        speed = np.abs(q - before) / dt_s
        reasons += [
            f"{JOINT_NAMES[i]} moves at {speed[i]:.3f} rad/s, limit {self._velocity[i]:.3f}"
            for i in np.flatnonzero(speed > self._velocity * (1 + _ROUNDING))
        ]
        frames = k.frames(np.stack([before, q]))
        old, tool = k.tool_position(frames)
        tool_speed = float(np.linalg.norm(tool - old)) / dt_s
        if tool_speed > limits.tool_speed_m_s * (1 + _ROUNDING):
            reasons.append(
                f"the tool moves at {tool_speed:.3f} m/s, limit {limits.tool_speed_m_s:.3f}"
            )
        for axis, value, low, high in zip(
            "xyz", tool, limits.box_low_m, limits.box_high_m, strict=True
        ):
            if not low <= value <= high:
                reasons.append(
                    f"the tool leaves the box: {axis} {value:.4f} m, limits {low:.4f} to {high:.4f}"
                )
        heights = k.capsule_ends(frames[1])[:, 2].min(axis=-1) - k.radius
        floor = limits.table_height_m + limits.clearance_m
        for link in np.unique(k.link[(heights < floor) & (k.link > 0)]):
            lowest = float(heights[k.link == link].min())
            reasons.append(
                f"{LINKS[link]} {1e3 * (floor - lowest):.1f} mm below the table's clearance"
            )
        return reasons


def _joints(values: Any, what: str, dimensions: int) -> Array:
    """Joint positions as float64 [6] or [n, 6].

    Raises:
        Refused: they are no numbers, not six, or not finite.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise Refused(f"{what} must be rows of 6 numbers, got rows of several lengths") from None
    if array.dtype.kind not in "fiu":
        raise Refused(f"{what} must be numbers, got {array.dtype}")
    if array.ndim != dimensions or array.shape[-1] != 6 or array.size == 0:
        shape = "[6]" if dimensions == 1 else "[n, 6]"
        raise Refused(f"{what} must have shape {shape}, got {list(array.shape)}")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        raise Refused([f"{what}: {JOINT_NAMES[b[-1]]} is {array[tuple(b)]}" for b in bad])
    return array
