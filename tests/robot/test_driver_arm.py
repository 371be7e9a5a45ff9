"""The arm's face, against the fake controller."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.controller import FakeController
from lerobot_robot_ur.errors import ConnectionFailed, Refused, Stopped
from streaming import config
from waiting import wait_until

HOST = "127.0.0.50"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeController]:
    with FakeController(HOST, unlock_delay=0.1) as controller:
        yield controller


@pytest.fixture
def arm(fake: FakeController) -> Iterator[Arm]:
    fake.reset()
    with Arm(config(HOST)) as connected:
        yield connected


def test_move_to_ends_at_rest_at_its_goal(fake, arm):
    goal = arm.state().joints + [0.1, 0.0, 0.05, 0.0, 0.0, 0.1]
    arm.move_to(goal)
    assert not arm.state().is_moving
    wait_until(lambda: np.abs(np.array(fake.state()["joints"]) - goal).max() < 2e-3, "the goal")


def test_a_streamed_way_is_followed_in_time(arm):
    start, begin, period = arm.state().commanded, time.monotonic(), 0.1
    way = start + np.linspace(0.01, 0.2, 20)[:, None] * [1, 0, 0, 0, 0, 0]
    times = begin + period * np.arange(1, len(way) + 1)
    for i in range(len(way)):
        arm.move_through(way[i : i + 4], times[i : i + 4])
        time.sleep(max(0.0, times[i] - time.monotonic()))
    wait_until(lambda: not arm.state().is_moving, "the end")
    arm.hold()
    assert time.monotonic() < times[-1] + 1.0
    np.testing.assert_allclose(arm.state().commanded, way[-1], atol=1e-9)
    assert not [e for e in arm.events() if e.kind == "hold" and e.time_s < times[-1]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([[np.nan, 0, 0, 0, 0, 0]], "shoulder_pan is nan"),
        ([[0.0] * 5], r"shape \[n, 6\], got \[1, 5\]"),
        ([[1.0, 0, 0, 0, 0, 0]], "shoulder_pan jumps by 1.0"),
    ],
)
def test_what_must_not_reach_the_arm_is_refused(arm, change, reason):
    before = arm.state().commanded
    joints = np.array(change) + (before if len(change[0]) == 6 else 0)
    with pytest.raises(Refused, match=reason):
        arm.move_through(joints, [time.monotonic() + 0.1])
    assert [event.kind for event in arm.events()][-1] == "refused"
    np.testing.assert_array_equal(arm.state().commanded, before)


def test_stop_ends_the_program_until_an_operator_recovers(fake, arm):
    arm.move_to(arm.state().joints + [0.02, 0, 0, 0, 0, 0])
    arm.stop("a key")
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped.kind == "requested" and arm.stopped.detail == "a key"
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")
    with pytest.raises(Stopped, match="a key"):
        arm.move_to(arm.state().joints)
    with pytest.raises(Refused, match="operator"):
        arm.recover(" ")
    arm.recover("Ada")
    assert arm.stopped is None
    arm.move_to(arm.state().joints + [0.02, 0, 0, 0, 0, 0])
    assert [e.detail for e in arm.events() if e.kind == "recovered"] == [
        "from requested: a key by Ada"
    ]


def test_an_arm_that_is_not_there():
    with pytest.raises(ConnectionFailed, match="127.0.0.49: no dashboard server"):
        Arm(config("127.0.0.49")).connect()
