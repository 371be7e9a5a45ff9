"""At which velocity to pass each waypoint of a motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_REDUCTION = 0.8  # of a velocity that leaves too short a path, in one round
_ROUNDS = 40
_MARGIN = 0.98  # of the velocity limit: what rounds up must not exceed it


def pass_velocities(
    joints: Array, slopes: Array, velocity: Array,
    max_velocity: Array, max_acceleration: Array, max_jerk: Array,
) -> Array:  # fmt: skip
    """Returns velocities [n, 6] (rad/s) at n waypoints; zero at the last.

    They are the harmonic mean of the mean velocities before and after (zero where a joint turns
    round), as in monotone cubic interpolation (Fritsch and Butland, 1984), so that a joint does
    not overshoot a waypoint; and low enough that a joint can take on each from the one before on
    its path between the two, within the limits of acceleration and jerk.

    Args:
        joints: [n + 1, 6] (rad): where the joints are, then the waypoints.
        slopes: [n, 6] (rad/s): mean velocity asked for before each waypoint.
        velocity: [6] (rad/s) now.
        max_velocity, max_acceleration, max_jerk: [6], in rad and s.
    """
    paths = np.diff(joints, axis=0)
    velocities = np.zeros((len(joints), 6))
    before, after = slopes[:-1], slopes[1:]
    goes_on = before * after > 0.0
    total = np.where(goes_on, before + after, 1.0)
    velocities[1:-1] = np.where(goes_on, 2.0 * before * after / total, 0.0)
    limit = _MARGIN * max_velocity
    velocities = np.clip(velocities, -limit, limit)
    # A joint that moves the wrong way has to turn round first, and comes from rest then.
    velocities[0] = np.where(velocity * paths[0] > 0.0, velocity, 0.0)
    return _reachable(velocities, np.abs(paths), max_acceleration, max_jerk)[1:]


def _reachable(velocities: Array, paths: Array, acceleration: Array, jerk: Array) -> Array:
    """Reduces velocities [n + 1, 6] until paths [n, 6] are long enough for the changes between."""
    velocities = velocities.copy()
    for _ in range(_ROUNDS):
        before, after = np.abs(velocities[:-1]), np.abs(velocities[1:])
        needed = _way(before, after, acceleration, jerk)
        # The first speed is what it is, but can be lost first.
        from_rest = _way(np.zeros(6), after[0], acceleration, jerk)
        needed[0] = np.minimum(needed[0], from_rest)
        too_short = needed > paths
        too_short[0] &= after[0] > before[0]
        if not too_short.any():
            return velocities
        reduce_after = too_short & (after >= before)
        velocities[1:][reduce_after] *= _REDUCTION
        velocities[:-1][too_short & ~reduce_after] *= _REDUCTION
    velocities[1:] = 0.0
    return velocities


def _way(first: Array, second: Array, acceleration: Array, jerk: Array) -> Array:
    """Returns the distance (rad) from one joint speed to another, without acceleration at
    either end: the mean speed times the time of the change."""
    change = np.abs(second - first)
    full = change / acceleration + acceleration / jerk
    short = 2.0 * np.sqrt(change / jerk)
    return 0.5 * (first + second) * np.where(change > acceleration**2 / jerk, full, short)
