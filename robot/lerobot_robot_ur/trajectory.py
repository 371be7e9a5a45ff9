"""Smooth motion through waypoints, within limits of velocity, acceleration and jerk."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ruckig import ControlInterface, InputParameter, Ruckig, Trajectory

from .limits import Limits

Array = NDArray[np.float64]


class JointTrajectory:
    """Online interpolation for six joints, with ruckig.

    Args:
        limits: joint velocity, acceleration and jerk.
        period_s: how often `step` is called.
    """

    def __init__(self, limits: Limits, period_s: float):
        self._limits, self._period = limits, period_s
        self._ruckig = Ruckig(6)
        self.reset(np.zeros(6))

    def reset(self, joints: ArrayLike) -> None:
        """Be at rest at joint positions [6] (rad)."""
        self._q = np.array(joints, np.float64)
        self._qd, self._qdd = np.zeros(6), np.zeros(6)
        self._segment: Trajectory | None = None
        self._began = -np.inf
        self._waypoints: list[tuple[Array, Array, float]] = []
        self._now = -np.inf
        self.fault: str | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether the last waypoint is reached, or the hold over."""
        return self._segment is None and not self._waypoints

    def retarget(self, joints: ArrayLike, arrival_times_s: ArrayLike) -> None:
        """Replace what is ahead by waypoints [n, 6] (rad) with times [n] (the clock of `step`)."""
        q, times = np.atleast_2d(np.asarray(joints, np.float64)), np.asarray(arrival_times_s)
        velocities = np.zeros_like(q)
        if len(q) > 1:
            slopes = np.diff(q, axis=0) / np.diff(times)[:, None]
            same = slopes[:-1] * slopes[1:] > 0
            total = np.where(same, slopes[:-1] + slopes[1:], 1.0)
            velocities[1:-1] = np.where(same, 2 * slopes[:-1] * slopes[1:] / total, 0.0)
        self._waypoints = list(zip(q, velocities, times.tolist(), strict=True))
        self._next_segment(max(self._now, self._began))

    def hold(self) -> None:
        """Stop as soon as the limits allow, and stay there."""
        self._waypoints = []
        parameters = self._parameters()
        parameters.control_interface = ControlInterface.Velocity
        self._plan(parameters, self._now)

    def step(self, now_s: float) -> tuple[Array, Array, Array]:
        """Position [6] (rad), velocity (rad/s) and acceleration (rad/s^2) at `now_s`."""
        self._now = now_s
        if self._segment is None and self._waypoints:
            self._next_segment(now_s)
        while self._segment is not None:
            elapsed = now_s - self._began
            duration = self._segment.duration
            q, qd, qdd, *_ = self._segment.at_time(min(max(elapsed, 0.0), duration))
            self._q, self._qd, self._qdd = np.array(q), np.array(qd), np.array(qdd)
            if elapsed < duration:
                break
            self._next_segment(self._began + duration)
        return self._q.copy(), self._qd.copy(), self._qdd.copy()

    def _next_segment(self, begin: float) -> None:
        if not self._waypoints:
            self._segment = None
            self._qd, self._qdd = np.zeros(6), np.zeros(6)
            return
        q, velocity, time = self._waypoints.pop(0)
        if not np.isfinite(begin):
            self._waypoints.insert(0, (q, velocity, time))
            return
        parameters = self._parameters()
        parameters.target_position = q.tolist()
        parameters.target_velocity = velocity.tolist()
        parameters.minimum_duration = max(time - begin, 0.0)
        self._plan(parameters, begin)

    def _parameters(self) -> InputParameter:
        parameters = InputParameter(6)
        parameters.current_position = self._q.tolist()
        parameters.current_velocity = self._qd.tolist()
        parameters.current_acceleration = self._qdd.tolist()
        parameters.max_velocity = list(self._limits.velocity_rad_s)
        parameters.max_acceleration = list(self._limits.acceleration_rad_s2)
        parameters.max_jerk = list(self._limits.jerk_rad_s3)
        return parameters

    def _plan(self, parameters: InputParameter, begin: float) -> None:
        segment = Trajectory(6)
        self._ruckig.calculate(parameters, segment)
        self._segment, self._began = segment, begin
