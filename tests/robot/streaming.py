"""Settings for an arm on a busy machine, and waiting until it moves or rests."""

import dataclasses

import numpy as np
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.limits import limits_for
from ur_fake_controller import FakeController
from waiting import wait_until

STILL_RAD_S = 0.01


def config(host: str, **changes) -> ArmConfig:
    """For a machine so busy that even the fake controller is late."""
    model = changes.get("model", "ur3e")
    limits = dataclasses.replace(
        limits_for(model), max_state_age_s=1.2, stop_after_s=1.5, max_heartbeat_age_s=5.0
    )
    patient = {"limits": limits, "gripper": "none", "watchdog_s": 0.5}
    return ArmConfig(host, **(patient | changes))


def wait_for_motion(fake: FakeController) -> None:
    wait_until(lambda: speed(fake) > 0.1, "motion")


def wait_for_rest(fake: FakeController) -> None:
    wait_until(lambda: speed(fake) < STILL_RAD_S, "rest")


def speed(fake: FakeController) -> float:
    """Of the fastest joint, rad/s."""
    return float(np.abs(fake.state()["speeds"]).max())
