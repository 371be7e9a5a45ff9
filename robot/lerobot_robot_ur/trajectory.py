"""Smooth motion through waypoints, within limits of velocity, acceleration and jerk.

Between two waypoints ruckig (Berscheid and Kröger, "Jerk-limited Real-time Trajectory Generation
with Arbitrary Target States", 2021) finds the motion from the present position, velocity and
acceleration to the waypoint's, in the time asked for or, where the limits forbid that, as soon as
they allow. A waypoint is passed at the velocity that its neighbours suggest and with no
acceleration; the last known one is where the motion ends, at rest.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Trajectory

from .errors import Refused
from .kinematics import Kinematics
from .limits import Limits
from .velocities import pass_velocities

Array = NDArray[np.float64]

# Fractions of the acceleration and jerk limits to try in turn: ruckig always uses all it may, and
# most motion can be on time with much less.
_GENTLE = (0.1, 0.3, 1.0)
_CATCH_UP = 0.8  # of the time asked for between two waypoints, where the arm is late
_NEAR_S = 0.05  # so soon ahead, a waypoint of a new target that cannot be met in time is left out
_ON_TIME = 1e-6  # s
_EXACT = 1e-6  # rad, rad/s: how well a plan must meet its target
_TOOL_SAMPLE_S = 0.005  # between the points of a plan at which the tool's speed is looked at
_TOOL_SHARE = 0.97  # of the tool's speed limit: what peaks between those points is below it too
_STRETCHES = 6  # of a plan whose tool is too fast
# How steeply its speed falls with the time it takes, as a power: 1 where it cruises; up to this
# where it speeds up and brakes all the way, which 2 % more time make a sixth slower.
_STEEPEST, _FLATTEST = 8.0, 0.5
_STRETCH_MORE = 1.002


@dataclass(frozen=True)
class _Waypoint:
    joints: Array  # [6]
    velocity: Array  # [6], to pass it with
    time: float
    gap: float  # time asked for from the waypoint before


class _Ramp:
    """All joints brake evenly and together, straight on: the tool is slower from the beginning."""

    def __init__(self, q: Array, qd: Array, deceleration: Array):
        self.duration = max(float((np.abs(qd) / deceleration).max()), _ON_TIME)
        self._q, self._qd, self._qdd = q, qd, -qd / self.duration

    def at_time(self, time: float) -> tuple[Array, Array, Array]:
        t = min(time, self.duration)
        qdd = self._qdd if time < self.duration else np.zeros(6)
        return self._q + (self._qd + 0.5 * self._qdd * t) * t, self._qd + self._qdd * t, qdd


class JointTrajectory:
    """Online interpolation for six joints. Position, velocity and acceleration are continuous.

    All times are on one clock, that of `step`, which may come early, late or irregularly; the
    motion is a function of time, so whoever skips time skips motion. `step` and `hold` never
    raise; `retarget` raises for malformed input alone, and then the motion that was under way
    goes on to its own end at rest. Where no motion to a waypoint can be found, the arm is brought
    to a hold and `fault` says why.

    Args:
        limits: joint velocity, acceleration and jerk; tool speed where `kinematics` is given.
        period_s: how often `step` is called: it looks so far ahead where it starts from rest.
        kinematics: where given, motion whose tool or links would be too fast is slowed down.
            Sampled, and of no avail against speed that is there already: `Guard.check_target` has
            the last word.

    Attributes:
        fault: why the last motion ended in a hold; None after the next `retarget` or `reset`.
        late_s: how much later than asked the waypoint ahead is reached, at least 0.
    """

    def __init__(self, limits: Limits, period_s: float, kinematics: Kinematics | None = None):
        self._limits, self._period, self._kinematics = limits, period_s, kinematics
        self._velocity = np.array(limits.velocity_rad_s)
        self._acceleration = np.array(limits.acceleration_rad_s2)
        self._jerk = np.array(limits.jerk_rad_s3)
        self._ruckig = Ruckig(6)
        self.reset(np.zeros(6))

    def reset(self, joints: ArrayLike) -> None:
        """Begins at rest at joint positions [6] (rad); time begins anew with the next `step`."""
        self._q = np.array(joints, np.float64)
        self._qd, self._qdd = np.zeros(6), np.zeros(6)
        self._now: float | None = None
        self._segment: Trajectory | _Ramp | None = None
        self._began = 0.0
        self._ahead: deque[_Waypoint] = deque()
        self._passed = self._q, 0.0  # the last waypoint, or where the motion began; and when
        # Of the last two steps, the times between which they lie: position and mean velocity.
        self._stepped = self._before = self._q, self._qd, self._now
        self.fault: str | None = None
        self.late_s = 0.0

    @property
    def is_at_rest(self) -> bool:
        """Whether the arm stands and nothing is ahead."""
        return self._segment is None and not self._ahead

    def retarget(self, joints: ArrayLike, arrival_times_s: ArrayLike) -> None:
        """Replaces all that is ahead.

        Waypoints whose time has passed are left out, and those within the next 0.05 s that cannot
        be met in time where the one after can be met better; the last never is. Where the arm is
        late, it takes as long as the limits ask for to the first one, and after it goes up to a
        quarter faster than asked to catch up.

        Args:
            joints: [n, 6] (rad).
            arrival_times_s: [n], rising, on the clock of `step`.

        Raises:
            Refused: shapes do not fit, something is not finite, or times do not rise; all that
                was ahead still is.
        """
        q, times = _checked(joints, arrival_times_s)
        if self._now is not None:
            first = min(int(np.searchsorted(times, self._now, side="right")), len(q) - 1)
            q, times = q[first:], times[first:]
        gaps = np.diff(times, prepend=times[0])
        velocities = pass_velocities(
            np.vstack([self._q, q]), self._slopes(q, times), self._qd,
            self._velocity, self._acceleration, self._jerk,
        )  # fmt: skip
        self._ahead = deque(map(_Waypoint, q, velocities, times.tolist(), gaps.tolist()))
        self.fault, self.late_s = None, 0.0
        if self._now is not None:
            self._next_segment(self._now, is_new=True)

    def hold(self) -> None:
        """Stops as soon as the limits allow, and stays there."""
        self._ahead.clear()
        self.late_s = 0.0
        if self._now is None or not (self._qd.any() or self._qdd.any()):
            self._rest()
            return
        parameters = self._parameters(1.0)
        parameters.control_interface = ControlInterface.Velocity
        plan = self._calculate(parameters)
        self._segment = plan or _Ramp(self._q, self._qd, self._acceleration)
        self._began = self._now

    def brake(self) -> None:
        """Takes note that the last step was not taken: slows down from the one before it,
        forgetting what is ahead.

        Faster than `hold`, within the limits of acceleration but not of jerk: to end an
        acceleration smoothly would mean going faster still.
        """
        self._q, mean, self._now = self._stepped = self._before
        self._ahead.clear()
        self.late_s = 0.0
        if self._now is None or not mean.any():
            self._rest()
            return
        self._qd, self._qdd = mean, np.zeros(6)
        self._segment, self._began = _Ramp(self._q, mean, self._acceleration), self._now

    def step(self, now_s: float) -> tuple[Array, Array, Array]:
        """Returns positions [6] (rad), velocities (rad/s) and accelerations (rad/s^2) at `now_s`.

        Time does not run back: before the time of the last step, it is that time.
        """
        if self._now is None:
            self._now = now_s - self._period  # at rest until now: the first step already moves
            self._stepped = self._q, self._qd, self._now
            self._next_segment(self._now)
        self._now = max(self._now, now_s)
        while self._segment is not None:
            end = self._began + self._segment.duration
            self._take(min(self._now, end) - self._began)
            if self._now < end:
                break
            self._passed = self._q, end
            self._next_segment(end)
        self._note_step(self._now)
        return self._q.copy(), self._qd.copy(), self._qdd.copy()

    def _note_step(self, now: float) -> None:
        q, mean, since = self._stepped
        assert since is not None
        self._before = self._stepped
        if now > since:
            mean = (self._q - q) / (now - since)
        self._stepped = self._q, mean, now

    def _slopes(self, q: Array, times: Array) -> Array:
        """Returns the mean velocities [n, 6] asked for before each of new waypoints [n, 6].

        Before the first it is that from where the present motion has the arm one gap earlier:
        targets that go on with the same waypoints then ask for the same velocities.
        """
        before, since = self._q, self._now
        if len(times) > 1 and since is None:
            since = 2 * times[0] - times[1]
        elif len(times) > 1 and self._segment is not None:
            before, since = self._passed
            elapsed = min(2 * times[0] - times[1] - self._began, self._segment.duration)
            if elapsed > 0.0:
                before, since = np.array(self._segment.at_time(elapsed)[0]), self._began + elapsed
        gaps = np.maximum(np.diff(times, prepend=times[0] if since is None else since), _ON_TIME)
        return np.diff(q, axis=0, prepend=before[None]) / gaps[:, None]

    def _take(self, elapsed: float) -> None:
        assert self._segment is not None
        q, qd, qdd, *_ = self._segment.at_time(elapsed)
        self._q, self._qd, self._qdd = np.array(q), np.array(qd), np.array(qdd)

    def _rest(self) -> None:
        self._segment = None
        self._qd, self._qdd = np.zeros(6), np.zeros(6)

    def _next_segment(self, begin: float, is_new: bool = False) -> None:
        """Plans from the present state, which is that of time `begin`, to what is ahead.

        `is_new`: what is ahead has just been replaced.
        """
        if not self._ahead:
            self._rest()
            return
        waypoint = self._ahead.popleft()
        segment = self._plan(waypoint, begin)
        while segment is not None and is_new and self._ahead:
            late = begin + segment.duration - waypoint.time
            if late <= self._period or waypoint.time - begin > _NEAR_S:
                break
            instead = self._plan(self._ahead[0], begin)
            if instead is None or begin + instead.duration - self._ahead[0].time >= late:
                break
            segment, waypoint = instead, self._ahead.popleft()
        if segment is None:
            self.fault = (
                f"no motion found from {_text(self._q)} rad at {_text(self._qd)} rad/s "
                f"to {_text(waypoint.joints)} rad"
            )
            self.hold()
            return
        if self._segment is None:
            self._passed = self._q, begin
        self._segment, self._began = segment, begin
        self.late_s = max(0.0, begin + segment.duration - waypoint.time)

    def _plan(self, waypoint: _Waypoint, begin: float) -> Trajectory | None:
        """Returns the motion to a waypoint, by its time or as soon after as the limits allow."""
        duration = max(waypoint.time - begin, _CATCH_UP * waypoint.gap)
        velocity = waypoint.velocity
        segment = self._fastest(waypoint, velocity, duration)
        if segment is None:
            # A state to be passed through can be out of reach where the one at rest is not.
            velocity = np.zeros(6)
            segment = self._fastest(waypoint, velocity, duration)
        return None if segment is None else self._slowed_for_tool(segment, waypoint, velocity)

    def _slowed_for_tool(
        self, segment: Trajectory, waypoint: _Waypoint, velocity: Array
    ) -> Trajectory:
        """Returns a plan, or one that takes longer where its tool would be too fast."""
        excess, factor, power = self._tool_excess(segment), 1.0, _STEEPEST
        fast, in_vain = segment, 0
        for _ in range(_STRETCHES):
            if excess <= 1.0:
                break
            stretch = _STRETCH_MORE * excess ** (1.0 / power)
            factor *= stretch
            slower = self._fastest(waypoint, velocity / factor, fast.duration * factor)
            if slower is None:
                break
            if (slowed := self._tool_excess(slower)) < excess:
                power = np.clip(np.log(excess / slowed) / np.log(stretch), _FLATTEST, _STEEPEST)
                segment, excess = slower, slowed
                continue
            # A gentler motion in more time can be another one, once; or it is the present speed
            # that is too high.
            power, in_vain = _FLATTEST, in_vain + 1
            if in_vain > 1:
                break
        return segment

    def _fastest(self, waypoint: _Waypoint, velocity: Array, duration: float) -> Trajectory | None:
        """Returns the gentlest motion in `duration`, else that with the full limits, if any."""
        plan = None
        for fraction in _GENTLE:
            parameters = self._parameters(fraction)
            parameters.target_position = waypoint.joints.tolist()
            parameters.target_velocity = velocity.tolist()
            if duration > 0.0:
                parameters.minimum_duration = duration
            plan = self._calculate(parameters)
            if plan is not None and self._is_good(plan, waypoint, duration):
                break
        return plan

    def _is_good(self, plan: Trajectory, waypoint: _Waypoint, duration: float) -> bool:
        """Returns whether a plan is on time and straight: braking gently can mean going too far."""
        if plan.duration > duration + _ON_TIME:
            return False
        low = np.minimum(self._q, waypoint.joints) - _EXACT
        high = np.maximum(self._q, waypoint.joints) + _EXACT
        extremes = plan.position_extrema
        return all(
            lo <= e.min and e.max <= hi for e, lo, hi in zip(extremes, low, high, strict=True)
        )

    def _parameters(self, fraction: float) -> InputParameter:
        """Returns parameters from the present state, with a fraction of the acceleration and jerk
        limits."""
        parameters = InputParameter(6)
        parameters.current_position = self._q.tolist()
        parameters.current_velocity = self._qd.tolist()
        parameters.current_acceleration = self._qdd.tolist()
        parameters.max_velocity = self._velocity.tolist()
        # An acceleration that is there already is no reason to break the jerk limit.
        acceleration = np.maximum(fraction * self._acceleration, np.abs(self._qdd))
        parameters.max_acceleration = acceleration.tolist()
        parameters.max_jerk = (fraction * self._jerk).tolist()
        return parameters

    def _calculate(self, parameters: InputParameter) -> Trajectory | None:
        """Returns what ruckig makes of it; None where it fails or misses the target."""
        plan = Trajectory(6)
        try:
            result = self._ruckig.calculate(parameters, plan)
        except (RuckigError, ValueError):
            # Contradictory numbers, or a result that the binding has no name for (-101, durations
            # over 7600 s, raises ValueError in 0.19.4). The caller has other ways.
            return None
        if result not in (Result.Working, Result.Finished) or not np.isfinite(plan.duration):
            return None
        q, qd, *_ = plan.at_time(plan.duration)
        target = parameters.target_position
        if parameters.control_interface == ControlInterface.Velocity:
            target = q
        miss = np.subtract([*q, *qd], [*target, *parameters.target_velocity])
        return plan if np.abs(miss).max() < _EXACT else None  # NaN is no less either

    def _tool_excess(self, segment: Trajectory) -> float:
        """Returns the highest speed of tool and links in a plan, over the limit; 0 where nobody
        asks."""
        if self._kinematics is None or segment.duration <= 0.0:
            return 0.0
        count = round(np.clip(segment.duration / _TOOL_SAMPLE_S, 8, 80))
        times = np.linspace(0.0, segment.duration, count + 1)
        joints = [segment.at_time(t)[0] for t in times]
        steps = np.diff(self._kinematics.points(self._kinematics.frames(joints)), axis=0)
        speed = float(np.sqrt(np.square(steps).sum(axis=-1).max())) / times[1]
        return speed / (_TOOL_SHARE * self._limits.tool_speed_m_s)


def _checked(joints: ArrayLike, arrival_times_s: ArrayLike) -> tuple[Array, Array]:
    try:
        q = np.array(joints, np.float64)
        times = np.array(arrival_times_s, np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"waypoints and times must be numbers: {error}") from error
    if q.ndim != 2 or q.shape[1] != 6 or len(q) == 0 or times.shape != q.shape[:1]:
        raise Refused(
            f"waypoints must have shape [n, 6] and times [n], got {list(q.shape)} "
            f"and {list(times.shape)}"
        )
    if not (np.isfinite(q).all() and np.isfinite(times).all()):
        raise Refused("waypoints and times must be finite")
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        if b <= a:
            raise Refused(f"times must rise, got {a:.6g} s and {b:.6g} s at {i} and {i + 1}")
    return q, times


def _text(values: Array) -> str:
    return "[" + ", ".join(f"{v:.4g}" for v in values) + "]"
