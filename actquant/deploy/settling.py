"""Waiting until the arm has done what it was told, so that a policy sees where its actions led."""

import time
from dataclasses import dataclass

import numpy as np

from actquant.deploy.latency import AT_REST_RAD_S
from actquant.deploy.port import RobotState
from actquant.deploy.robot import Robot
from actquant.deploy.stopping import StopRequest

NEAR_RAD = 3e-3
"""Between measured and commanded joints: the arm has arrived."""
STILL_M = 5e-4
_STILL_FOR_S = 0.08  # of the gripper, whose readings come some 30 times a second
_POLL_S = 0.005


@dataclass(frozen=True)
class Settled:
    """How a wait ended.

    Attributes:
        seconds, clock_s: that it took, and by the robot's clock.
        is_still: whether the commanded motion has ended; the arm may still be short of its end.
        lacking: what it gave up waiting for, empty if all arrived or a stop is wanted.
    """

    seconds: float
    clock_s: float
    is_still: bool
    lacking: str = ""


def settle(robot: Robot, stop: StopRequest, timeout_s: float) -> Settled:
    """Waits until arm and gripper are at rest and each camera gave a picture since, or a stop is
    wanted.

    After `timeout_s` of the robot's clock it gives up: an arm that presses on something does not
    arrive.
    Raises StaleStateError, and StoppedError for an arm that has stopped.
    """
    begin, begin_clock_s = time.monotonic(), robot.port.clock()
    opening, gripper_since = None, begin
    arm_since: float | None = None
    while True:
        if (stopped := robot.port.stopped) is not None:
            raise stopped
        state, now = robot.port.state(), time.monotonic()
        if state.gripper_opening_m is not None:
            if opening is not None and abs(state.gripper_opening_m - opening) > STILL_M:
                gripper_since = now
            opening = state.gripper_opening_m
        lacking = _arm_lacks(state)
        arm_since = None if lacking else arm_since or now
        if not lacking and opening is not None and now - gripper_since < _STILL_FOR_S:
            lacking = "the gripper still moves"
        if not lacking:
            lacking = _cameras_lack(robot, max(arm_since or now, gripper_since))
        clock_s = robot.port.clock() - begin_clock_s
        is_over = clock_s > timeout_s
        if not lacking or is_over or stop.wait_until(now + _POLL_S):
            still = not state.is_moving
            return Settled(now - begin, clock_s, still, "" if stop.is_set else lacking)


def _arm_lacks(state: RobotState) -> str:
    """Returns what the arm lacks of having arrived; empty if nothing."""
    distance = float(np.abs(state.joints - state.commanded).max())
    if state.is_moving or float(np.abs(state.joint_speeds).max()) >= 4 * AT_REST_RAD_S:
        return "the arm still moves"
    if distance >= NEAR_RAD:
        return f"a joint stands {distance:.4f} rad from where it was told to go"
    return ""


def _cameras_lack(robot: Robot, since_s: float) -> str:
    times = robot.picture_times()
    waiting = [name for name, time_s in times.items() if time_s is not None and time_s <= since_s]
    return f"no picture since the arm came to rest from {', '.join(waiting)}" if waiting else ""
