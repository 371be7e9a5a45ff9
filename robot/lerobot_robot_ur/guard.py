"""The last look at every target before it can reach the arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ur_motion.arms import JOINT_NAMES

from .calibration import Calibration
from .clearances import Clearances
from .errors import ConfigError, Refused
from .kinematics import DEFAULT_TCP, Kinematics
from .limits import Limits
from .models import RobotModel

Array = NDArray[np.float64]

_ROUNDING = 1e-9  # relative, of speeds: a speed at its limit passes
_STILL = 1e-9  # rad or m: what is outside by so little more than before stands still
_SAMPLE_RAD = 0.05  # largest joint step between the points of a path that are looked at


class Guard:
    """Checks targets against limits, for the whole arm and its gripper.

    Speeds and jumps are refused wherever the arm is. Where it may be (joint ranges, the box of the
    tool point, the table, the arm itself) is judged against where it was: an arm that already is
    outside, put there by hand say, may stand still and move back, but not move farther out.

    Args:
        model: the arm.
        limits: what to hold targets to.
        tcp: pose [6] of the tool point in the flange frame (m, rad).
        gripper: a name in `kinematics.GRIPPERS`.
        extra: what else is mounted on the arm; see `kinematics.extra_capsules`.
        calibration: the arm's own lengths; by default the published ones.

    Raises:
        ConfigError: `tcp`, `gripper` or `extra` is no good, or the limits are another arm's.
    """

    def __init__(
        self,
        model: RobotModel,
        limits: Limits,
        tcp: ArrayLike = DEFAULT_TCP,
        gripper: str = "robotiq_2f85",
        extra: Mapping[str, Sequence[Sequence[float]]] | None = None,
        calibration: Calibration | None = None,
    ):
        if limits.model != model.name:
            raise ConfigError(f"the arm is {model.name!r}, the limits are for {limits.model!r}")
        self.limits = limits
        self.kinematics = Kinematics(model, tcp, gripper, extra, calibration)
        self._clearances = Clearances(self.kinematics, limits)
        self._velocity = np.array(limits.velocity_rad_s)

    def check_target(self, q: ArrayLike, previous: ArrayLike, dt_s: float) -> None:
        """Checks the target of one servo cycle.

        Args:
            q: joint positions [6] (rad).
            previous: the target [6] before it, or where the arm stands.
            dt_s: time between the two.

        Raises:
            Refused: names every reason.
        """
        target = joint_positions(q, "target", 1)
        before = joint_positions(previous, "previous target", 1)
        reasons = self._reasons(np.stack([before, target]), _seconds(dt_s, 1), None)
        if reasons:
            raise Refused(reasons)

    def check_waypoints(
        self, from_joints: ArrayLike, joints: ArrayLike, period_s: float | ArrayLike
    ) -> None:
        """Checks waypoints, and the straight paths between them in joint space.

        Args:
            from_joints: joint positions [6] (rad) where the motion begins: where the commanded
                motion will have brought the arm by then, or where it stands.
            joints: [n, 6] (rad).
            period_s: time from each to the next, one for all or [n].

        Raises:
            Refused: names every reason once, with the waypoint where it is worst.
        """
        start = joint_positions(from_joints, "from_joints", 1)
        points = joint_positions(joints, "waypoints", 2)
        periods = _seconds(period_s, len(points))
        corners = np.vstack([start, points])
        steps = np.abs(np.diff(corners, axis=0))
        limit = self.limits.max_joint_step_rad
        reasons = [
            f"waypoint {(i := int(steps[:, k].argmax()))}: {name} jumps by {steps[i, k]:.3f} rad, "
            f"limit {limit:.3f}"
            for k, name in enumerate(JOINT_NAMES)
            if steps[:, k].max() > limit
        ]
        counts = np.ceil(np.minimum(steps.max(axis=1), limit) / _SAMPLE_RAD).astype(int)
        counts = np.maximum(counts, 1)
        owner = np.repeat(np.arange(len(points)), counts)
        reasons += self._reasons(_subdivided(corners, counts), (periods / counts)[owner], owner)
        if reasons:
            raise Refused(reasons)

    def _reasons(
        self, samples: Array, times: Array, waypoint: NDArray[np.intp] | None
    ) -> list[str]:
        """Returns what is wrong along samples [m + 1, 6], `times` [m] (s) apart.

        `waypoint` [m] is the number of the waypoint that each leads to, for the words.
        """

        def name(i: Any, reason: str) -> str:
            return reason if waypoint is None else f"waypoint {waypoint[i]}: {reason}"

        speeds = np.abs(samples[1:] - samples[:-1]) / times[:, None]
        reasons = [
            name(
                i := speeds[:, k].argmax(),
                f"{JOINT_NAMES[k]} moves at {speeds[i, k]:.4f} rad/s, "
                f"limit {self._velocity[k]:.4f}",
            )
            for k in np.flatnonzero((speeds > self._velocity * (1.0 + _ROUNDING)).any(axis=0))
        ]
        frames = self.kinematics.frames(samples)
        reasons += self._fast_reasons(frames, times, name)
        excess = self._clearances.excess(samples, frames)
        outside = excess[1:] > np.maximum(excess[:-1], 0.0) + _STILL
        for place in np.flatnonzero(outside.any(axis=0)):
            i = np.where(outside[:, place], excess[1:, place], -np.inf).argmax()
            reasons.append(name(i, self._clearances.describe(place, excess[i + 1, place])))
        return reasons

    def _fast_reasons(
        self, frames: Array, times: Array, name: Callable[[Any, str], str]
    ) -> list[str]:
        """Returns of the tool, or else of the fastest link, that it is too fast."""
        points = self.kinematics.points(frames)
        speeds = np.sqrt(np.square(points[1:] - points[:-1]).sum(axis=-1)) / times[:, None]
        limit = self.limits.tool_speed_m_s
        if speeds.max() <= limit * (1.0 + _ROUNDING):
            return []
        tool = speeds[:, 0].argmax()
        i, k = np.unravel_index(speeds.argmax(), speeds.shape)
        if speeds[tool, 0] > limit * (1.0 + _ROUNDING):
            i, k = tool, 0
        what = self.kinematics.point_names[k]
        return [name(i, f"{what} moves at {speeds[i, k]:.4f} m/s, limit {limit:.4f}")]


def _subdivided(corners: Array, counts: NDArray[np.intp]) -> Array:
    """Returns points along the paths between corners [n + 1, 6], `counts` [n] of them on each."""
    paths = [
        np.linspace(a, b, count + 1)[1:]
        for a, b, count in zip(corners[:-1], corners[1:], counts, strict=True)
    ]
    return np.vstack([corners[:1], *paths])


def joint_positions(values: Any, what: str, dimensions: int) -> Array:
    """Returns joint positions as float64 [6] or [n, 6].

    Raises:
        Refused: they are no numbers, not six, or not finite.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise Refused(f"{what}: rows of different lengths, each must have 6 numbers") from None
    if array.dtype.kind not in "fiu":
        raise Refused(f"{what}: {array.dtype} instead of numbers")
    if array.ndim != dimensions or array.shape[-1] != 6 or array.size == 0:
        shape = "[6]" if dimensions == 1 else "[n, 6], n at least 1"
        raise Refused(f"{what}: shape {list(array.shape)} instead of {shape}")
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        where = [f" {b[0]}" if dimensions == 2 else "" for b in bad]
        raise Refused(
            f"{what}{w}: {JOINT_NAMES[b[-1]]} is {array[tuple(b)]}"
            for w, b in zip(where, bad, strict=True)
        )
    return array.astype(np.float64, copy=False)


def _seconds(values: Any, count: int) -> Array:
    """Returns times [count] (s).

    Raises:
        Refused: they are no numbers above 0, or not one for all or one for each.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (count,)):
        raise Refused(f"period: {values!r} instead of seconds, one for all or {count}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise Refused(f"period: {values!r} s, must be above 0")
    return np.broadcast_to(array.astype(np.float64), (count,))
