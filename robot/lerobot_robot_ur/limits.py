"""The limits that motion is held to; they can only be stricter than the arm's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ur_motion.arms import JOINT_NAMES

from .errors import ConfigError
from .models import MODELS, RobotModel

Six = tuple[float, float, float, float, float, float]
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Limits:
    """What a commanded motion must keep to. `limits_for` gives an arm's defaults.

    Lengths are in the base frame (m), joints in the arm's order, all values are per joint where
    there are six.

    Attributes:
        model: the name of the arm they are for.
        position_low_rad, position_high_rad: joint positions.
        velocity_rad_s, acceleration_rad_s2, jerk_rad_s3: joint motion, either direction.
        tool_speed_m_s: speed of the tool point and of every link and the gripper.
        reduced_speed_m_s: the same while the safety system is in reduced mode.
        box_low_m, box_high_m: where the tool point may be.
        table_height_m: height of the table plane; nothing but the base may be below it.
        clearance_m: distance that the arm and the gripper keep from the table.
        max_joint_step_rad: farthest that one waypoint may be from the one before (a jump).
        max_deviation_rad: farthest that a joint may be from all that it was told within the servo's
            lag.
        max_state_age_s, max_camera_age_s, max_action_age_s: what is older is not acted upon.
        hold_after_s, stop_after_s: without a new action for so long, the arm holds, then stops
            for good.
        max_heartbeat_age_s: without a sign of life from the process that commands the arm for so
            long, it stops.

    Raises:
        ConfigError: values that are no numbers, contradict each other, or go beyond the arm's
            own limits; lists all of them.
    """

    model: str
    position_low_rad: Six
    position_high_rad: Six
    velocity_rad_s: Six
    acceleration_rad_s2: Six
    jerk_rad_s3: Six
    tool_speed_m_s: float
    reduced_speed_m_s: float
    box_low_m: Three
    box_high_m: Three
    table_height_m: float
    clearance_m: float
    max_joint_step_rad: float
    max_deviation_rad: float
    max_state_age_s: float
    max_camera_age_s: float
    max_action_age_s: float
    hold_after_s: float
    stop_after_s: float
    max_heartbeat_age_s: float

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(problems)

    def scaled(self, speed: float) -> Limits:
        """Returns the limits of motion that is played at a fraction `speed` (0 to 1] of its pace.

        Velocity, acceleration, jerk and tool speed scale with it. (Motion played slower needs
        less of the last two, namely the square and the cube; but with this the arm stops as
        soon as it does at full speed, on a shorter path.) Where the arm may be, and ages, stay.

        Raises:
            ConfigError: `speed` is not in (0, 1].
        """
        if not 0.0 < speed <= 1.0:
            raise ConfigError(f"speed must be above 0 and at most 1, got {speed!r}")
        return dataclasses.replace(
            self,
            velocity_rad_s=_times(self.velocity_rad_s, speed),
            acceleration_rad_s2=_times(self.acceleration_rad_s2, speed),
            jerk_rad_s3=_times(self.jerk_rad_s3, speed),
            tool_speed_m_s=self.tool_speed_m_s * speed,
            reduced_speed_m_s=self.reduced_speed_m_s * speed,
        )


def limits_for(model: str) -> Limits:
    """Returns the default limits of an arm in MODELS, for the table of lerobot_env_ur3e.

    Raises:
        ConfigError: there is no such arm.
    """
    if model not in MODELS:
        raise ConfigError(f"no arm {model!r}; there are {', '.join(MODELS)}")
    return DEFAULTS[model]


def _times(values: Sequence[float], factor: float) -> Six:
    a, b, c, d, e, f = (v * factor for v in values)
    return a, b, c, d, e, f


_LENGTHS = {
    "position_low_rad": 6,
    "position_high_rad": 6,
    "velocity_rad_s": 6,
    "acceleration_rad_s2": 6,
    "jerk_rad_s3": 6,
    "box_low_m": 3,
    "box_high_m": 3,
}
_POSITIVE = (
    "velocity_rad_s",
    "acceleration_rad_s2",
    "jerk_rad_s3",
    "tool_speed_m_s",
    "reduced_speed_m_s",
    "max_joint_step_rad",
    "max_deviation_rad",
    "max_state_age_s",
    "max_camera_age_s",
    "max_action_age_s",
    "hold_after_s",
    "stop_after_s",
    "max_heartbeat_age_s",
)


def _problems(limits: Limits) -> list[str]:
    """Returns everything that is wrong, a sentence each."""
    if limits.model not in MODELS:
        return [f"no arm {limits.model!r}; there are {', '.join(MODELS)}"]
    problems = [p for f in dataclasses.fields(limits)[1:] for p in _field_problems(limits, f.name)]
    if problems:  # what follows compares numbers that are there
        return problems
    problems += _arm_problems(limits, MODELS[limits.model])
    for axis, low, high in zip("xyz", limits.box_low_m, limits.box_high_m, strict=True):
        if low >= high:
            problems.append(f"box_low_m {low:g} must be below box_high_m {high:g} along {axis}")
    if limits.box_high_m[2] <= limits.table_height_m + limits.clearance_m:
        problems.append(
            f"box_high_m {limits.box_high_m[2]:g} along z must be above the table, "
            f"at {limits.table_height_m:g} with {limits.clearance_m:g} clearance"
        )
    if limits.hold_after_s >= limits.stop_after_s:
        problems.append(
            f"hold_after_s {limits.hold_after_s:g} must be below "
            f"stop_after_s {limits.stop_after_s:g}"
        )
    return problems


def _field_problems(limits: Limits, name: str) -> list[str]:
    value = getattr(limits, name)
    length = _LENGTHS.get(name)
    values = value if length is not None else (value,)
    if not isinstance(values, tuple) or length is not None and len(values) != length:
        return [f"{name} must be a tuple of {length} numbers, got {value!r}"]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        return [f"{name} must be finite numbers, got {value!r}"]
    if name in _POSITIVE and min(values) <= 0:
        return [f"{name} must be above 0, got {value!r}"]
    if name == "clearance_m" and value < 0:
        return [f"clearance_m must not be negative, got {value!r}"]
    return []


def _arm_problems(limits: Limits, model: RobotModel) -> list[str]:
    problems = []
    for i, name in enumerate(JOINT_NAMES):
        low, high = limits.position_low_rad[i], limits.position_high_rad[i]
        own, speed = model.position_limits[i], limits.velocity_rad_s[i]
        if low >= high:
            problems.append(
                f"{name}: position_low_rad {low:g} must be below position_high_rad {high:g}"
            )
        if low < -own or high > own:
            problems.append(
                f"{name}: positions {low:g} to {high:g} rad go beyond the arm's "
                f"own {-own:.4f} to {own:.4f}"
            )
        if speed > model.speed_limits[i]:
            problems.append(
                f"{name}: velocity_rad_s {speed:g} is above the arm's own "
                f"{model.speed_limits[i]:.4f}"
            )
    return problems


def _stretched_acceleration(model: RobotModel) -> float:
    """Returns the acceleration (rad/s^2) that the shoulder's torque gives a stretched arm with its
    full payload, about the upright axis: without gravity."""
    upper, forearm = -model.arm.dh_a[1], -model.arm.dh_a[2]
    _, m_upper, m_forearm, m_1, m_2, m_3 = model.link_masses
    wrist = upper + forearm
    masses = (
        (m_upper, -model.arm_centres[0]),
        (m_forearm, upper - model.arm_centres[1]),
        (m_1 + m_2 + m_3, wrist),
        (model.payload_kg, wrist + _PAYLOAD_AT_M),
    )
    return model.lift_torque_nm / sum(mass * at**2 for mass, at in masses)


_PAYLOAD_AT_M = 0.1  # beyond the wrist
# At a quarter of full speed, with which deployments begin, this is 5 rad/s^2: what UR's own MoveIt
# configuration has for every joint of every arm (ur_moveit_config/config/joint_limits.yaml). The
# targets of diffusion_policy's deployments, 0.25 m/s through servoJ's lookahead of 0.1 s, come to
# about the same. At full speed the reference policy's expert is up to 0.07 s late by it.
_ACCELERATION = 20.0
_JERK_OVER_ACCELERATION = 50.0  # 1/s: full acceleration after 0.02 s
_SMALL_REACH_M = 0.5


def _defaults(model: RobotModel) -> Limits:
    # Half a turn of the elbow is the most that its planning uses; 0.08 rad of margin everywhere.
    reach = (6.2, 6.2, 3.1, 6.2, 6.2, 6.2)
    a, b, c, *wrists = model.speed_limits
    d, e, f = (min(speed, 4.0) for speed in wrists)
    acceleration = min(_ACCELERATION, float(round(_stretched_acceleration(model))))
    size = model.reach_m / _SMALL_REACH_M
    return Limits(
        model=model.name,
        position_low_rad=_times(reach, -1.0),
        position_high_rad=reach,
        velocity_rad_s=(a, b, c, d, e, f),
        acceleration_rad_s2=_times((acceleration,) * 6, 1.0),
        jerk_rad_s3=_times((acceleration,) * 6, _JERK_OVER_ACCELERATION),
        # That expert commands up to 0.42 m/s (0.25 m/s along every axis at once), which smooth
        # motion passes at 0.52 m/s.
        tool_speed_m_s=0.6,
        # What the reduced mode of the safety configuration allows cannot be read; 0.25 m/s is the
        # speed that standards take for safe beside people.
        reduced_speed_m_s=0.25,
        # Of the small arms 0.02 m around the workspace of lerobot_env_ur3e, less below it; of
        # larger ones as much larger.
        box_low_m=(-0.43 * size, -0.25 * size, 0.015),
        box_high_m=(-0.13 * size, 0.25 * size, 0.24 * size),
        table_height_m=0.0,
        # Not more: that workspace reaches down to 3 mm between fingertips and table, and the path
        # between two of its poses, straight in the joints, dips up to 2 mm lower.
        clearance_m=0.001,
        max_joint_step_rad=0.35,
        max_deviation_rad=0.1,
        max_state_age_s=0.1,
        max_camera_age_s=0.5,
        max_action_age_s=1.0,
        hold_after_s=0.3,
        stop_after_s=2.0,
        max_heartbeat_age_s=1.0,
    )


DEFAULTS = {name: _defaults(model) for name, model in MODELS.items()}
