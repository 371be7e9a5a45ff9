"""The arm's own time, and whether it goes where it is told.

While the pendant's speed slider is below 100 %, or the controller limits the speed by itself, it
stretches servoJ in time: in a cycle the arm goes a part of the way. Targets that come at full pace
then leave it behind, it takes short cuts between them that nobody has checked, and lunges as soon
as it may. So the time of all motion passes as fast as the controller's.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RISE = 2.0  # of the rate in a second: slower than the controller speeds up, so never ahead of it
_FALL = 4.0  # for what the controller does not slow down by itself
_ROUNDING = 1e-6
_LONGEST_AGE_S = 0.5  # of a measurement that is still compared


class ArmClock:
    """Seconds of the arm's own time.

    The rate is what RTDE gives as `speed_scaling` times `target_speed_fraction`: the guide calls
    the first the speed scaling of the trajectory limiter, the second is the slider's, and UR's ROS
    driver takes their product. Were the slider in both, the arm would only be slower than it could.
    It falls at once and rises gently.

    Attributes:
        time_s: now.
        rate: how fast it passes, 0 to 1.
    """

    def __init__(self, time_s: float):
        self.time_s, self.rate, self._cap = time_s, 1.0, 1.0

    def advance(self, step_s: float, scaling: float, cap: float = 1.0) -> None:
        """Lets `step_s` of real time pass at the controller's speed scaling, and, to which it
        slows down gently, no faster than `cap`."""
        self._cap = max(cap, self._cap - _FALL * step_s)
        self.rate = min(scaling, self._cap, self.rate + _RISE * step_s)
        self.time_s += step_s * self.rate


def is_scaling(value: float) -> bool:
    """Returns whether a reading can be a speed scaling: a number from 0 to 1."""
    return math.isfinite(value) and -_ROUNDING <= value <= 1.0 + _ROUNDING


class Following:
    """Where the arm was told to be lately, against where it is.

    Args:
        period_s: between two targets.
        lag_s: by which an arm that follows may be late, in its own time.
    """

    def __init__(self, period_s: float, lag_s: float):
        self._period, self._lag = period_s, lag_s
        self._told = np.zeros((math.ceil((lag_s + _LONGEST_AGE_S) / period_s), 6))
        self._next, self._last_s = 0, -math.inf

    def reset(self, joints: Array) -> None:
        """Begins at joint positions [6] (rad)."""
        self._told[:] = joints

    def told(self, time_s: float, joints: Array) -> None:
        """Takes note of a target [6] (rad) at a time of the arm's own."""
        if time_s - self._last_s >= 0.9 * self._period:
            self._last_s, self._next = time_s, (self._next + 1) % len(self._told)
        self._told[self._next] = joints

    def deviation(self, joints: Array, age_s: float) -> float:
        """Returns how far (rad) joints [6], measured `age_s` ago, are at least from all that they
        were told within the lag before."""
        count = min(math.ceil((self._lag + age_s) / self._period), len(self._told))
        lately = np.arange(self._next, self._next - count, -1) % len(self._told)
        return float(np.abs(self._told[lately] - joints).max(axis=1).min())
