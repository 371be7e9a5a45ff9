"""Waiting until the arm has done what it was told, so that a policy sees where its actions led."""

import time

import numpy as np

from actquant.deploy.latency import AT_REST_RAD_S
from actquant.deploy.robot import Robot
from actquant.deploy.stopping import StopRequest

NEAR_RAD = 3e-3
"""Between measured and commanded joints: the arm has arrived."""
STILL_M = 5e-4
_STILL_FOR_S = 0.08  # of the gripper, whose readings come some 30 times a second
_POLL_S = 0.005


def settle(robot: Robot, stop: StopRequest, timeout_s: float) -> float:
    """Waits until arm and gripper are at rest, or a stop is wanted; the seconds that it took.

    After `timeout_s` it gives up: an arm that presses on something does not arrive.
    Raises lerobot_robot_ur's StaleState.
    """
    begin = time.monotonic()
    opening, changed_s = None, begin - _STILL_FOR_S
    while True:
        state, now = robot.arm.state(), time.monotonic()
        if state.gripper_opening_m is not None:
            if opening is not None and abs(state.gripper_opening_m - opening) > STILL_M:
                changed_s = now
            opening = state.gripper_opening_m
        arrived = (
            not state.is_moving
            and float(np.abs(state.joints - state.commanded).max()) < NEAR_RAD
            and float(np.abs(state.joint_speeds).max()) < 4 * AT_REST_RAD_S
        )
        if arrived and now - changed_s >= _STILL_FOR_S and now - begin >= _looked_at(opening):
            return now - begin
        if now - begin > timeout_s or stop.wait_until(now + _POLL_S):
            return now - begin


def _looked_at(opening: float | None) -> float:
    """How long (s) a gripper has to be watched to know that it is still."""
    return 0.0 if opening is None else _STILL_FOR_S
