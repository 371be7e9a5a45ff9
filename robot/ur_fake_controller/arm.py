"""The arm's commanded side: the running motion, and the limits that end it."""

from __future__ import annotations

import numpy as np
from lerobot_robot_ur.models import RobotModel
from numpy.typing import ArrayLike, NDArray

from .motions import Motion, MotionFault, Stop

Array = NDArray[np.float64]

SPEED_MARGIN = 1.05  # of the joint speed limit, before the controller stops the arm
_FAST_STOP = 0.1  # s: a protective stop from full speed
_STEADY = 1e-4  # rad/s
_RAMP = 5.0  # of speed scaling in a second: it does not jump with the slider


class Arm:
    """Target joint positions and speeds, moved on by one motion at a time.

    Attributes:
        q, qd, qdd: target positions [6] (rad), speeds (rad/s) and accelerations (rad/s^2).
        slider: the speed slider, 0 to 1.
        limiter: what the controller itself allows of that (safety, joints too fast), 0 to 1.
        hidden: by how much it is slower still without telling of it, 0 to 1.
        speed_scaling: in force, which follows their product.
    """

    def __init__(self, robot: RobotModel, joints: ArrayLike):
        self._position_limits = np.asarray(robot.position_limits)
        self._speed_limits = np.asarray(robot.speed_limits) * SPEED_MARGIN
        self.slider = self.limiter = self.hidden = self.speed_scaling = 1.0
        self.hold_at(joints)

    def hold_at(self, joints: ArrayLike) -> None:
        """Stands still at joint positions [6] at once (the world was put back, or brakes
        closed)."""
        self.q = np.asarray(joints, np.float64).copy()
        self.qd, self.qdd = np.zeros(6), np.zeros(6)
        self.motion: Motion | None = None

    def stop_fast(self) -> None:
        """Gives up the present motion and stops as a protective stop does."""
        speed = float(np.max(np.abs(self.qd) / self._speed_limits))
        self.motion = Stop(_FAST_STOP * speed) if speed > 0 else None

    @property
    def is_steady(self) -> bool:
        return self.motion is None and float(np.abs(self.qd).max()) < _STEADY

    def allows(self, q: Array) -> bool:
        """Returns whether joint positions [6] are numbers within the limits."""
        return bool(np.isfinite(q).all() and np.all(np.abs(q) <= self._position_limits))

    def step(self, dt: float) -> None:
        """Moves on by `dt` seconds.

        Raises:
            MotionFault: the motion left the joint limits; the arm stands where it was.
        """
        change = self.slider * self.limiter * self.hidden - self.speed_scaling
        self.speed_scaling += min(max(change, -_RAMP * dt), _RAMP * dt)
        if self.motion is None:
            if self.qd.any():
                self.qd, self.qdd = np.zeros(6), np.zeros(6)
            return
        q, qd, ended = self.motion.step(self.q, self.qd, dt, self.speed_scaling)
        self._check(q, qd)
        self.qdd = (qd - self.qd) / dt
        self.q, self.qd = q, qd
        if ended:
            self.motion = None

    def _check(self, q: Array, qd: Array) -> None:
        if not (np.isfinite(q).all() and np.isfinite(qd).all()):
            raise MotionFault("the commanded joint positions are not numbers")
        beyond = np.abs(q) > self._position_limits
        if beyond.any():
            joint = int(np.argmax(beyond))
            raise MotionFault(f"joint {joint} would leave its limits, at {q[joint]:.3f} rad")
        fast = np.abs(qd) > self._speed_limits
        if fast.any() and not isinstance(self.motion, Stop):
            joint = int(np.argmax(fast))
            raise MotionFault(f"joint {joint} would exceed its speed, at {qd[joint]:.2f} rad/s")
