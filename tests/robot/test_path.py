"""Ways: what is checked before one is sent."""

import dataclasses
import time

import numpy as np
import pytest
from lerobot_robot_ur.channel import Channel
from lerobot_robot_ur.errors import Refused
from lerobot_robot_ur.guard import Guard
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.messages import Move
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.path import MOST_WAYPOINTS, check_path, slow_path

HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])
WIDE_LIMITS = {
    "box_low_m": (-2.0, -2.0, -2.0),
    "box_high_m": (2.0, 2.0, 2.0),
    "tool_speed_m_s": 100.0,
}
LIMITS = limits_for("ur3e")


def guard(**changes) -> Guard:
    return Guard(MODELS["ur3e"], dataclasses.replace(LIMITS, **changes))


def turned(*angles: float) -> np.ndarray:
    return HOME + np.outer(angles, [1.0, 0, 0, 0, 0, 0])


def check(guard: Guard, joints, times_s, openings_m=None, stroke_m=None):
    return check_path(guard, HOME, joints, times_s, openings_m, stroke_m, 0.0)


def test_speed_is_judged_by_the_time_of_each_waypoint():
    spacious = guard(**WIDE_LIMITS)
    check(spacious, turned(0.0, 0.25, 0.25, 0.25), [1.0, 3.0, 5.0, 7.0])
    with pytest.raises(Refused) as refused:
        check(spacious, turned(0.0, 0.25, 0.25, 0.25), [1.0, 1.01, 3.01, 5.01])
    [reason] = refused.value.reasons
    assert reason == "waypoint 0: shoulder_pan moves at 25.0000 rad/s, limit 3.1416"
    check(spacious, turned(0.0, 0.25, 0.251), [1.0, 2.0, 2.01])


def test_waypoints_whose_time_is_over_are_left_out_but_for_the_last():
    path = check(guard(), turned(0.01, 0.02, 0.03), [-0.2, -0.1, 0.1], [0.0, 0.02, 0.04], 0.085)
    np.testing.assert_array_equal(path.joints, turned(0.03))
    np.testing.assert_array_equal(path.openings_m, [0.04])
    path = check(guard(), turned(0.01, 0.02), [-0.2, -0.1])
    np.testing.assert_array_equal(path.joints, turned(0.02))


def test_too_many_waypoints_are_refused_and_as_many_as_may_be_can_be_sent():
    angles = 0.01 * np.sin(np.linspace(0, 20, MOST_WAYPOINTS + 1))
    times = 0.05 * np.arange(1, MOST_WAYPOINTS + 2)
    with pytest.raises(Refused, match=f"at most {MOST_WAYPOINTS} waypoints, got {len(angles)}"):
        check(guard(), turned(*angles), times)
    path = check(guard(), turned(*angles[1:]), times[:-1])
    here, there = Channel.pair()
    assert here.send(Move(1, path.joints, time.monotonic() + path.times_s, is_streamed=False))
    [move] = there.receive()
    np.testing.assert_array_equal(move.joints, path.joints)
    here.close()
    there.close()


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(Refused) as refused:
        check(guard(), turned(0.0, 0.5), [0.1, 200.0], [0.02, 0.5], 0.085)
    said = "; ".join(refused.value.reasons)
    assert "the last waypoint is 200 s ahead, limit 120" in said
    assert "gripper opening 1 is 0.5000 m, limits 0 to 0.0850" in said
    assert "waypoint 0: shoulder_pan jumps by 0.500 rad" in said


@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_a_slow_path_passes_the_guard_and_ends_at_its_goal(speed):
    goal = HOME + [0.3, 0.1, -0.1, 0.0, 0.0, 0.5]
    checked = Guard(MODELS["ur3e"], LIMITS.scaled(speed))
    path, times = slow_path(checked, HOME, goal)
    np.testing.assert_allclose(path[-1], goal)
    sent = check_path(checked, HOME, path, times, None, None, 0.0)
    assert len(sent.joints) == len(path)


def test_a_slow_path_leads_an_arm_that_stands_outside_the_box_back_in():
    checked = guard()
    outside = HOME + [1.0, 0, 0, 0, 0, 0]  # past two sides
    with pytest.raises(Refused, match="tool at"):
        checked.check_waypoints(HOME, slow_path(checked, HOME, outside)[0], 0.1)
    path, times = slow_path(checked, outside, HOME)
    check_path(checked, outside, path, times, None, None, 0.0)
    with pytest.raises(Refused, match="tool at"):
        farther, times = slow_path(checked, outside, outside + [0.1, 0, 0, 0, 0, 0])
        check_path(checked, outside, farther, times, None, None, 0.0)
