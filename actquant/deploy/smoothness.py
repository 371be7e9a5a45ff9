"""How smoothly the joints were commanded."""

import numpy as np
from numpy.typing import ArrayLike

_ORDER = 3
_TOLERANCE = 0.5  # of a period, between two actions that follow each other


class Smoothness:
    """Gathers what the joints were commanded at each action, for the jerk."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._times: list[float] = []
        self._joints: list[ArrayLike] = []
        self._seams: list[bool] = []

    def add(self, time_s: float, joints: ArrayLike, is_seam: bool) -> None:
        """Adds joints [6] (rad) that were commanded at `time_s`, before an action.

        `is_seam`: the action is the first of a chunk after another one.
        """
        self._times.append(time_s)
        self._joints.append(joints)
        self._seams.append(is_seam)

    def jerk(self) -> dict[str, float]:
        return jerk(self._times, np.array(self._joints), self._seams, self._period_s)


def jerk(
    times_s: ArrayLike, joints: ArrayLike, seams: ArrayLike, period_s: float
) -> dict[str, float]:
    """Returns the rms jerk (rad/s^3) of joints [n, 6] (rad) commanded at times [n], inside chunks
    and at seams.

    seams [n]: whether a sample's action began another chunk. The third difference that ends at
    sample k spans k-3 to k; it belongs to a seam if one of the last three steps began a chunk, and
    is left out where they do not follow each other one period apart, as after a refusal or a wait.
    """
    times, commanded = np.asarray(times_s, np.float64), np.asarray(joints, np.float64)
    begins = np.asarray(seams, bool)
    if len(commanded) <= _ORDER:
        return {}
    follows = np.abs(np.diff(times) - period_s) < _TOLERANCE * period_s
    whole = follows[:-2] & follows[1:-1] & follows[2:]
    squares = np.mean((np.diff(commanded, _ORDER, axis=0) / period_s**_ORDER) ** 2, axis=1)
    at_seam = begins[1:-2] | begins[2:-1] | begins[3:]
    parts = {"inside": squares[whole & ~at_seam], "seams": squares[whole & at_seam]}
    return {name: float(np.sqrt(part.mean())) for name, part in parts.items() if len(part)}
