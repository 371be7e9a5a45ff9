"""What the arm can be doing: each motion gives the next joint positions and speeds.

Positions in rad, speeds in rad/s, times in s, lengths in m. `step` raises `MotionFault` where the
controller would stop the arm.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ur_motion import rotations

from .chain import Chain, Frame, frame

Array = NDArray[np.float64]


class MotionFault(Exception):
    """The commanded motion is one that the controller answers with a protective stop."""


class ProgramError(Exception):
    """What makes the controller end a program with a runtime error."""


class Motion(Protocol):
    """A running motion; `step` returns positions, speeds and whether it has ended."""

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]: ...


class Servo:
    """servoj: a second-order filter that chases a target; the lag is about `lookahead`.

    q'' = gain (target - q - lookahead q'), a model of what servoj does, in time that speed scaling
    stretches: at a scaling of 0.5 the arm goes half of the way that it would go in a cycle.
    """

    def __init__(self, target: Array, lookahead: float, gain: float):
        self.target, self.lookahead, self.gain = target, lookahead, gain
        self._speed: Array | None = None  # rad in a second of stretched time

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        if scaling <= 0.0:
            return q, np.zeros(6), False
        stretched = dt * scaling
        speed = qd / scaling if self._speed is None else self._speed
        acceleration = self.gain * (self.target - q - self.lookahead * speed)
        self._speed = speed + acceleration * stretched
        return q + self._speed * stretched, self._speed * scaling, False


class SpeedJoints:
    """speedj: ramp to joint speeds [6], the fastest-changing joint at `acceleration` (rad/s^2)."""

    def __init__(self, speeds: Array, acceleration: float):
        self.speeds, self.acceleration = speeds, acceleration

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        qd = qd + _ramp(self.speeds * scaling - qd, self.acceleration * dt)
        return q + qd * dt, qd, False


class SpeedTool:
    """speedl: ramp to a tool velocity [6] (m/s, rad/s) at `acceleration` (m/s^2)."""

    def __init__(self, chain: Chain, velocity: Array, acceleration: float):
        self._chain = chain
        self.velocity, self.acceleration = velocity, acceleration

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        _, jacobian = self._chain.jacobian(q)
        now = jacobian @ qd
        now += _ramp(self.velocity * scaling - now, self.acceleration * dt)
        try:
            qd = np.asarray(np.linalg.solve(jacobian, now), np.float64)
        except np.linalg.LinAlgError:
            raise MotionFault("speedl: the arm is at a singularity") from None
        return q + qd * dt, qd, False


class Stop:
    """Bring all joints to rest together within `duration`."""

    def __init__(self, duration: float):
        self._left = duration

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        before, self._left = self._left, self._left - dt
        if self._left <= 0:
            return q, np.zeros(6), True
        slower = qd * (self._left / before)
        return q + 0.5 * (qd + slower) * dt, slower, False


def stop_joints(qd: Array, deceleration: float) -> Stop:
    """Makes stopj: the fastest joint decelerates at `deceleration` (rad/s^2)."""
    return Stop(float(np.abs(qd).max()) / max(deceleration, 1e-3))


def stop_tool(chain: Chain, q: Array, qd: Array, deceleration: float) -> Stop:
    """Makes stopl: the tool decelerates at `deceleration` (m/s^2), or the joints at 20 times
    that."""
    speed = float(np.linalg.norm((chain.jacobian(q)[1] @ qd)[:3]))
    fastest = float(np.abs(qd).max()) / 20.0
    return Stop(max(speed, fastest) / max(deceleration, 1e-3))


class _Profile:
    """A trapezoidal path from 0 to `length`, from rest to rest."""

    def __init__(self, length: float, speed: float, acceleration: float):
        self.length = length
        speed = min(max(speed, 1e-6), float(np.sqrt(length * acceleration)))
        self._ramp = speed / acceleration if length > 0 else 0.0
        self._speed, self._acceleration = speed, acceleration
        self.duration = length / speed + self._ramp if length > 0 else 0.0

    def at(self, t: float) -> float:
        if t >= self.duration:
            return self.length
        left = self.duration - t
        if min(t, left) >= self._ramp:
            return self._speed * (t - 0.5 * self._ramp)
        distance = 0.5 * self._acceleration * min(t, left) ** 2
        return distance if t < left else self.length - distance


class JointMove:
    """movej: a straight path through joint space, the farthest joint at `speed` (rad/s)."""

    def __init__(self, start: Array, end: Array, speed: float, acceleration: float):
        self._start, self._end = start.copy(), end
        length = float(np.abs(end - start).max())
        self._profile = _Profile(length, speed, max(acceleration, 1e-3))
        self._time = 0.0

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        self._time += dt * scaling
        if self._time >= self._profile.duration:
            return self._end.copy(), np.zeros(6), True
        share = self._profile.at(self._time) / self._profile.length
        new = self._start + share * (self._end - self._start)
        return new, (new - q) / dt, False


class LineMove:
    """movel: a straight path of the tool at `speed` (m/s; of a pure rotation, rad/s)."""

    def __init__(
        self, chain: Chain, start: Array, end: ArrayLike, speed: float, acceleration: float
    ):
        self._chain = chain
        self._origin, self._target = chain.tool(start), frame(end)
        self._turn = rotations.log(self._target[1] @ self._origin[1].T)
        length = float(np.linalg.norm(self._target[0] - self._origin[0]))
        if length < 1e-6:
            length = float(np.linalg.norm(self._turn))
        self._profile = _Profile(length, speed, max(acceleration, 1e-3))
        self._time = 0.0

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        self._time += dt * scaling
        if self._profile.length == 0:
            return q, np.zeros(6), True
        ended = self._time >= self._profile.duration
        new = self._chain.solve(self._at(self._profile.at(self._time)), q, iterations=8)
        if new is None:
            raise MotionFault("movel: the straight path leaves the arm's reach")
        return new, np.zeros(6) if ended else (new - q) / dt, ended

    def _at(self, distance: float) -> Frame:
        share = distance / self._profile.length
        (start, rotation), (end, _) = self._origin, self._target
        return start + share * (end - start), rotations.exp(share * self._turn) @ rotation


class Sequence:
    """Motions one after the other, each built when its turn comes (a path of waypoints)."""

    def __init__(self, builders: list, on_waypoint):
        self._builders, self._on_waypoint = builders, on_waypoint
        self._index, self._motion = -1, None

    def step(self, q: Array, qd: Array, dt: float, scaling: float) -> tuple[Array, Array, bool]:
        if self._motion is None:
            self._index += 1
            if self._index >= len(self._builders):
                return q, np.zeros(6), True
            self._on_waypoint(self._index)
            self._motion = self._builders[self._index](q)
        q, qd, ended = self._motion.step(q, qd, dt, scaling)
        if ended:
            self._motion = None
        return q, qd, ended and self._index + 1 == len(self._builders)


def _ramp(change: Array, largest: float) -> Array:
    """Returns `change` shortened so that no component exceeds `largest`."""
    most = float(np.abs(change).max())
    return change if most <= largest else change * (largest / most)
