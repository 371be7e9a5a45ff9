"""An arm kept in motion, as by a policy that is never late."""

import dataclasses
import threading
import time

import numpy as np
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.controller import FakeController
from lerobot_robot_ur.errors import RobotError
from lerobot_robot_ur.limits import limits_for
from waiting import wait_until

PERIOD_S = 0.1
AHEAD = 4  # waypoints sent at a time
AMPLITUDE_RAD, CYCLE_S = 0.15, 2.5
STILL_RAD_S = 0.01


def config(host: str, **changes) -> ArmConfig:
    """For a machine so busy that even the fake controller is late."""
    model = changes.get("model", "ur3e")
    limits = dataclasses.replace(limits_for(model), max_state_age_s=1.2, stop_after_s=1.5)
    patient = {"limits": limits, "gripper": "none", "watchdog_s": 0.5}
    return ArmConfig(host, **(patient | changes))


class Stream:
    """Turns the arm's base to and fro in a thread, until `end` or until the arm stops.

    Attributes:
        error: what ended it, None where `end` did.
    """

    def __init__(self, arm: Arm):
        self._arm, self._start = arm, arm.state().commanded
        self._is_over = threading.Event()
        self.error: RobotError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._is_over.is_set():
            now = time.monotonic()
            first = np.floor((now - begin) / PERIOD_S) + 1
            times = PERIOD_S * (first + np.arange(AHEAD))
            angles = AMPLITUDE_RAD * (1 - np.cos(2 * np.pi * times / CYCLE_S))
            way = self._start + angles[:, None] * [1, 0, 0, 0, 0, 0]
            try:
                self._arm.move_through(way, begin + times)
            except RobotError as error:
                self.error = error
                return
            self._is_over.wait(begin + times[0] - time.monotonic())

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()


def wait_for_motion(fake: FakeController) -> None:
    wait_until(lambda: speed(fake) > 0.1, "motion")


def wait_for_rest(fake: FakeController) -> None:
    wait_until(lambda: speed(fake) < STILL_RAD_S, "rest")


def speed(fake: FakeController) -> float:
    """Of the fastest joint, rad/s."""
    return float(np.abs(fake.state()["speeds"]).max())
