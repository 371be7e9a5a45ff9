"""Paths through waypoints: what is checked of one before it is sent, and slow ones to a goal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import Refused
from .guard import Guard

Array = NDArray[np.float64]

_LEAST_PERIOD_S = 0.02  # between waypoints, and until the first one
_ROUNDING_S = 1e-6
_FARTHEST_S = 120.0  # ahead, that a waypoint may be
MOST_WAYPOINTS = 1500  # of one path: what the servo process takes over in one message
_OPENING_TOLERANCE_M = 0.005  # beyond a gripper's ends, that is cut off and not refused
_SLOW_STEP_S = 0.1
_SLOW_JOINT_SHARE, _SLOW_TOOL_SHARE = 0.15, 0.4  # of the limits of joint and tool speed
_PEAK = 1.875  # of a minimum-jerk path's speed, over its mean


@dataclass(frozen=True)
class JointPath:
    """Joint positions [n, 6] (rad) at times [n] (s), and openings [n] (m) where there are any."""

    joints: Array
    times_s: Array
    openings_m: Array | None


def check_path(
    guard: Guard,
    start: Array,
    joints: ArrayLike,
    times_s: ArrayLike,
    openings_m: ArrayLike | None,
    stroke_m: float | None,
    now: float,
) -> JointPath:
    """Returns waypoints that may be sent; those whose time is over are left out, but for the last.

    Args:
        start: joint positions [6] (rad) from which the path begins.
        joints, times_s, openings_m: [n, 6] (rad), [n] (the clock of `now`), [n] (m).
        stroke_m: of the gripper; None without one.

    Raises:
        Refused: names every reason.
    """
    times = _column(times_s, "arrival times")
    openings = None if openings_m is None else _column(openings_m, "gripper openings")
    reasons = _shape_reasons(joints, times, openings, stroke_m)
    if reasons:
        raise Refused(reasons)
    path = np.asarray(joints, np.float64)
    reasons = _time_reasons(times, now, guard.limits.max_action_age_s)
    reasons += _opening_reasons(openings, stroke_m)
    ahead = times > now
    ahead[-1] = True
    path, times = path[ahead], times[ahead]
    openings = None if openings is None else openings[ahead]
    for part in _parts(start, path, times, now):
        try:
            guard.check_waypoints(*part)
        except Refused as refused:
            reasons += refused.reasons
    if reasons:
        raise Refused(reasons)
    if openings is not None and stroke_m is not None:
        openings = np.clip(openings, 0.0, stroke_m)
    return JointPath(path, times, openings)


def slow_path(guard: Guard, start: Array, goal: Array) -> tuple[Array, Array]:
    """Returns waypoints [n, 6] (rad) straight to `goal` [6] in joint space and their times [n] (s
    from the start): a minimum-jerk path (10 u^3 - 15 u^4 + 6 u^5) at a part of the limits of speed.

    Raises:
        Refused: the goal is not 6 finite numbers.
    """
    if goal.shape != (6,) or not np.isfinite(goal).all():
        raise Refused(f"a goal is 6 finite joint positions, not {goal.tolist()}")
    limits = guard.limits
    change = goal - start
    samples = start + np.linspace(0.0, 1.0, 20)[:, None] * change
    tool, _ = guard.kinematics.tool(samples)
    length = float(np.linalg.norm(np.diff(tool, axis=0), axis=1).sum())
    slowest = max(
        float(np.max(np.abs(change) / limits.velocity_rad_s)) / _SLOW_JOINT_SHARE,
        length / (_SLOW_TOOL_SHARE * limits.tool_speed_m_s),
    )
    count = max(2, int(np.ceil(_PEAK * slowest / _SLOW_STEP_S)))
    u = np.arange(1, count + 1)[:, None] / count
    return start + (10 * u**3 - 15 * u**4 + 6 * u**5) * change, _SLOW_STEP_S * (count * u[:, 0])


def _column(values: ArrayLike, what: str) -> Array:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise Refused(f"{what} must be numbers, got {values!r}")
    return array.astype(np.float64)


def _shape_reasons(
    joints: ArrayLike, times: Array, openings: Array | None, stroke_m: float | None
) -> list[str]:
    try:
        values = np.asarray(joints)
    except ValueError:
        return ["waypoints must be rows of 6 numbers, got rows of several lengths"]
    if values.dtype.kind not in "fiu":
        return [f"waypoints must be rows of 6 numbers, got {values.dtype}"]
    shape = values.shape
    if len(shape) != 2 or shape[1] != 6 or shape[0] == 0:
        return [f"waypoints must have shape [n, 6], got {list(shape)}"]
    reasons = []
    if shape[0] > MOST_WAYPOINTS:
        reasons.append(f"a path has at most {MOST_WAYPOINTS} waypoints, got {shape[0]}")
    if times.shape != shape[:1]:
        reasons.append(f"{shape[0]} waypoints need as many arrival times, got {list(times.shape)}")
    if openings is not None and openings.shape != shape[:1]:
        reasons.append(
            f"{shape[0]} waypoints need as many gripper openings, got {list(openings.shape)}"
        )
    if openings is not None and stroke_m is None:
        reasons.append("gripper openings are given, but there is no gripper")
    return reasons


def _time_reasons(times: Array, now: float, max_age_s: float) -> list[str]:
    if not np.isfinite(times).all():
        return ["arrival times must be finite"]
    reasons = []
    if len(times) > 1 and float(np.diff(times).min()) < _LEAST_PERIOD_S / 2 - _ROUNDING_S:
        reasons.append(f"arrival times must rise, by at least {_LEAST_PERIOD_S / 2:g} s each")
    if now - times[-1] > max_age_s:
        reasons.append(
            f"the newest waypoint should have been reached {now - times[-1]:.2f} s ago, "
            f"limit {max_age_s:g}"
        )
    if times[-1] - now > _FARTHEST_S:
        reasons.append(f"the last waypoint is {times[-1] - now:.0f} s ahead, limit {_FARTHEST_S:g}")
    return reasons


def _opening_reasons(openings: Array | None, stroke_m: float | None) -> list[str]:
    if openings is None or stroke_m is None:
        return []
    low, high = -_OPENING_TOLERANCE_M, stroke_m + _OPENING_TOLERANCE_M
    return [
        f"gripper opening {i} is {value:.4f} m, limits 0 to {stroke_m:.4f}"
        for i, value in enumerate(openings)
        if not low <= value <= high
    ]


def _parts(start: Array, path: Array, times: Array, now: float):
    """Gives arguments of `check_waypoints`: until the first waypoint, and from there on."""
    gaps = np.diff(times)
    # What comes late is not hurried by the servo: the first path may take as long as the others.
    usual = float(np.median(gaps)) if len(gaps) else _LEAST_PERIOD_S
    yield start, path[:1], max(float(times[0]) - now, usual)
    if len(path) > 1:
        yield path[0], path[1:], gaps
