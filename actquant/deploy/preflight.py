"""What is looked at before anything moves: one table, and whether it allows to go on."""

import time
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.deploy.policy import Policy, Seen
from actquant.deploy.robot import Robot, missing_cameras
from actquant.deploy.settings import Settings
from actquant.errors import DeployError
from actquant.simulation import Window

UNUSUAL_Z = 5.0
"""Standard deviations from the training data's mean beyond which a state is taken for wrong."""
_TRIALS = 3
OK, WARNING, ERROR = "ok", "warning", "error"


class Row(BaseModel):
    """One line of the table; `verdict` is ok, warning or error."""

    model_config = ConfigDict(extra="forbid")

    what: str
    value: str
    verdict: str = OK


class Preflight(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: list[Row]

    @property
    def errors(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == ERROR]


def examine(robot: Robot, policy: Policy, settings: Settings) -> Preflight:
    """Looks at a connected robot and runs the policy; nothing moves.

    Raises DeployError if no observation can be had or the policy fails on it.
    """
    from lerobot_robot_ur.errors import RobotError

    try:
        seen = robot.observe()
    except RobotError as error:
        raise DeployError(f"no observation can be made: {error}") from error
    rows = _controller_rows(robot, settings)
    rows += _limit_rows(robot, settings)
    rows += _camera_rows(robot, policy, seen, settings)
    rows += _state_rows(policy, seen, settings.allow_unusual_state)
    rows += _policy_rows(robot, policy, seen, settings)
    return Preflight(rows=rows)


def _controller_rows(robot: Robot, settings: Settings) -> list[Row]:
    arm, config, info = robot.arm, robot.arm.config, robot.arm.controller
    assert info is not None
    state = arm.state()
    version = ".".join(map(str, info.version))
    tcp = ", ".join(f"{v:g}" for v in config.tcp)
    centre = ", ".join(f"{v:g}" for v in config.payload_cog_m)
    rows = [
        Row(what="controller", value=f"{info.model} at {config.ip}, serial {info.serial}"),
        Row(what="PolyScope", value=version),
        Row(what="arm", value=f"{config.model}, servo at {arm.model.rate_hz:g} Hz"),
        Row(what="tool centre point", value=f"{tcp} (m, rad)"),
        Row(what="payload", value=f"{config.payload_kg:g} kg at {centre} m"),
        Row(what="state", value=f"{1e3 * (time.monotonic() - state.time_s):.1f} ms old"),
    ]
    slider = state.speed_scaling
    rows.append(
        Row(
            what="speed slider",
            value=f"{100 * slider:.0f} %",
            verdict=OK if slider > 0.99 else WARNING,
        )
    )
    opening = state.gripper_opening_m
    if opening is not None:
        rows.append(Row(what=f"gripper {config.gripper}", value=f"{1e3 * opening:.1f} mm open"))
    return rows


def _limit_rows(robot: Robot, settings: Settings) -> list[Row]:
    limits, speed = robot.arm.limits, settings.speed
    degrees = np.degrees

    def spread(low: Any, high: Any) -> str:
        return ", ".join(
            f"{a:.0f}…{b:.0f}" for a, b in zip(degrees(low), degrees(high), strict=True)
        )

    box = ", ".join(
        f"{axis} {low:g}…{high:g}"
        for axis, low, high in zip("xyz", limits.box_low_m, limits.box_high_m, strict=True)
    )
    values = {
        "speed": f"{100 * speed:g} % of full, one action takes {1e3 * robot.period_s:g} ms",
        "joint positions": f"{spread(limits.position_low_rad, limits.position_high_rad)} °",
        "joint speeds": ", ".join(f"{v:.0f}" for v in degrees(limits.velocity_rad_s)) + " °/s",
        "tool speed": f"{limits.tool_speed_m_s:g} m/s",
        "workspace of the tool": f"{box} m",
        "table": f"at {limits.table_height_m:g} m, clearance {1e3 * limits.clearance_m:g} mm",
        "oldest allowed": (
            f"state {limits.max_state_age_s:g} s, picture {limits.max_camera_age_s:g} s, "
            f"action {limits.max_action_age_s:g} s"
        ),
        "without an action": f"hold after {limits.hold_after_s:g} s, "
        f"stop after {limits.stop_after_s:g} s",
    }
    return [Row(what=what, value=value) for what, value in values.items()]


def _camera_rows(robot: Robot, policy: Policy, seen: Seen, settings: Settings) -> list[Row]:
    rows = []
    height, width = policy.image_size
    now = time.monotonic()
    for name, camera in robot.driver.cameras.items():
        taken = getattr(camera, "latest_timestamp", None)
        age = "age unknown" if taken is None else f"{1e3 * (now - taken):.0f} ms old"
        size = f"{camera.height} × {camera.width}"
        verdict = OK
        if (camera.height, camera.width) != (height, width):
            if settings.resize:
                size += f", resized to {height} × {width}"
            else:
                size += f", the policy was trained on {height} × {width}: --resize"
                verdict = WARNING
        rows.append(Row(what=name, value=f"{size}, {age}", verdict=verdict))
        if float(np.ptp(seen.raw[name])) == 0:
            rows.append(Row(what=name, value="one colour all over: covered?", verdict=ERROR))
    for name in missing_cameras(policy, list(robot.driver.cameras)):
        rows.append(Row(what=name, value="not there; the policy can do without", verdict=WARNING))
    return rows


def _state_rows(policy: Policy, seen: Seen, allow_unusual: bool) -> list[Row]:
    """The live state against the statistics of the policy's training data."""
    if not policy.state_names:
        return []
    about, live = policy.about["state"], seen.raw["observation.state"]
    rows = []
    for name, value, mean, std in zip(
        policy.state_names, live, about["mean"], about["std"], strict=True
    ):
        z = (float(value) - mean) / max(std, 1e-9)
        unusual = not abs(z) <= UNUSUAL_Z
        text = f"{value:.4g}, trained on {mean:.4g} ± {std:.3g}"
        if unusual:
            text += f": {abs(z):.0f} deviations away. Wrong units, or another start?"
        verdict = OK if not unusual else WARNING if allow_unusual else ERROR
        rows.append(Row(what=f"state {name}", value=text, verdict=verdict))
    return rows


def _policy_rows(robot: Robot, policy: Policy, seen: Seen, settings: Settings) -> list[Row]:
    """One inference after those that warm up; a policy slower than its chunks must hold."""
    actions = np.zeros(0)
    for _ in range(_TRIALS):
        begin = time.monotonic()
        actions = policy.act(window_of(seen, policy.observation_steps))
        seconds = time.monotonic() - begin
    steps = settings.steps_per_chunk or policy.steps_per_chunk
    available = robot.period_s * (1 if settings.mode == "sync" else steps)
    slow = seconds > available
    text = f"{1e3 * seconds:.1f} ms; {1e3 * available:.0f} ms until the arm would have to wait"
    rows = [
        Row(what="policy", value=f"{policy.name}, mode {settings.mode}, {steps} actions a chunk"),
        Row(what="inference", value=text, verdict=WARNING if slow else OK),
    ]
    if not np.isfinite(actions).all():
        rows.append(Row(what="actions", value="not all are numbers", verdict=ERROR))
    return rows


def window_of(seen: Seen, steps: int) -> Seen:
    """The observation as a policy of several observation steps takes it at an episode's begin."""
    window = Window(steps)
    window.append(dict(seen.raw))
    return Seen(window.observation, seen.made_s, seen.camera_time_s)
