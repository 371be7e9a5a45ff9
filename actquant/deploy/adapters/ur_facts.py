"""What a person should know of a UR before it moves: controller, tool, limits."""

import time
from typing import TYPE_CHECKING

import numpy as np

from actquant.deploy.port import Fact

if TYPE_CHECKING:
    from lerobot_robot_ur.arm import Arm

_FULL_SPEED = 0.99


def controller_facts(arm: "Arm") -> list[Fact]:
    """Returns what the controller, the tool and the state are. Raises lerobot_robot_ur's errors."""
    config, info = arm.config, arm.controller
    assert info is not None
    state = arm.state()
    version = ".".join(map(str, info.version))
    tcp = ", ".join(f"{v:g}" for v in config.tcp)
    centre = ", ".join(f"{v:g}" for v in config.payload_cog_m)
    slider = state.speed_scaling
    facts = [
        Fact("controller", f"{info.model} at {config.ip}, serial {info.serial}"),
        Fact("PolyScope", version),
        Fact("arm", f"{config.model}, servo at {arm.model.rate_hz:g} Hz"),
        _lengths_fact(arm),
        Fact("tool centre point", f"{tcp} (m, rad)"),
        Fact("payload", f"{config.payload_kg:g} kg at {centre} m"),
        Fact("state", f"{1e3 * (time.monotonic() - state.time_s):.1f} ms old"),
        _slider_fact(slider),
        _mode_fact(arm, state.is_reduced),
    ]
    for link, rows in config.extra_shapes.items():
        facts.append(Fact(f"mounted on {link}", f"{len(rows)} shapes of your own"))
    opening = state.gripper_opening_m
    if opening is not None:
        facts.append(Fact(f"gripper {config.gripper}", f"{1e3 * opening:.1f} mm open"))
    return facts


def _lengths_fact(arm: "Arm") -> Fact:
    if arm.calibration is None:
        return Fact("lengths", "as published; the controller gave none of this arm", is_usual=False)
    offset = 1e3 * arm.calibration_offset_m
    return Fact("lengths", f"this arm's own, the flange at most {offset:.1f} mm from as published")


def _slider_fact(slider: float) -> Fact:
    """The controller's speed scaling: its slider, times what else slows the arm down."""
    if slider > _FULL_SPEED:
        return Fact("speed slider", f"{100 * slider:.0f} %")
    slower = f"all motion takes {1 / slider:.1f} times as long" if slider > 0 else "nothing moves"
    return Fact("speed slider", f"{100 * slider:.0f} %: {slower}", is_usual=False)


def _mode_fact(arm: "Arm", is_reduced: bool) -> Fact:
    if not is_reduced:
        return Fact("safety mode", "normal")
    speed = arm.limits.reduced_speed_m_s
    return Fact("safety mode", f"reduced: at most {speed:g} m/s", is_usual=False)


def limit_facts(arm: "Arm", period_s: float) -> list[Fact]:
    """Returns the limits of motion in force."""
    limits, degrees = arm.limits, np.degrees
    ranges = zip(degrees(limits.position_low_rad), degrees(limits.position_high_rad), strict=True)
    positions = ", ".join(f"{low:.0f}…{high:.0f}" for low, high in ranges)
    box = ", ".join(
        f"{axis} {low:g}…{high:g}"
        for axis, low, high in zip("xyz", limits.box_low_m, limits.box_high_m, strict=True)
    )
    speeds = ", ".join(f"{v:.0f}" for v in degrees(limits.velocity_rad_s))
    speed = f"{100 * arm.config.speed:g} % of full, one action takes {1e3 * period_s:g} ms"
    return [
        Fact("speed", speed),
        Fact("joint positions", f"{positions} °"),
        Fact("joint speeds", f"{speeds} °/s"),
        Fact("tool speed", f"{limits.tool_speed_m_s:g} m/s"),
        Fact("workspace of the tool", f"{box} m"),
        Fact(
            "table",
            f"at {limits.table_height_m:g} m, clearance {1e3 * limits.clearance_m:g} mm",
        ),
        Fact(
            "oldest allowed",
            f"state {limits.max_state_age_s:g} s, picture {limits.max_camera_age_s:g} s, "
            f"action {limits.max_action_age_s:g} s",
        ),
        Fact(
            "without an action",
            f"hold after {limits.hold_after_s:g} s, stop after {limits.stop_after_s:g} s",
        ),
        Fact(
            "a joint that does not follow",
            f"beyond {limits.max_deviation_rad:g} rad hold, then stop",
        ),
    ]
