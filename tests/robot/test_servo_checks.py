"""The servo cycle's own look at every target: what gets past the parent's does not get past it."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lerobot_robot_ur.channel import Channel
from lerobot_robot_ur.guard import Guard
from lerobot_robot_ur.limits import Limits, limits_for
from lerobot_robot_ur.link import Link
from lerobot_robot_ur.messages import Move, Report
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.servo import ServoLoop
from lerobot_robot_ur.shared import Phase, ServoState, SharedMemory
from streaming import config
from ur_fake_controller import FakeController
from waiting import bring_back

HOST, START, PERIOD = "127.0.0.56", 3, 0.002
ROUNDING = 1.0 + 1e-6
LIMITS = dataclasses.replace(limits_for("ur3e"), max_state_age_s=0.6)
TURN = np.array([1.0, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def controller() -> Iterator[FakeController]:
    with FakeController(HOST, start=START) as running:
        yield running


class Cycles:
    """A servo loop without its parent, cycled by hand.

    Attributes:
        states: what each cycle wrote: the one before the last `turn`, and those in which targets
            were sent since.
    """

    def __init__(self, loop: ServoLoop, channel: Channel, shared: SharedMemory):
        self._loop, self._channel, self._shared = loop, channel, shared
        self.states = [self._cycle()]

    def _cycle(self) -> ServoState:
        time.sleep(PERIOD)
        self._shared.beat()
        self._loop.cycle()
        state = self._shared.read()
        assert state is not None
        return state

    def turn(self, *angles: float) -> None:
        """Go through waypoints 0.1 s apart, that nobody has checked, until the arm is let go."""
        self.states = [self._cycle()]
        times = self.states[-1].clock_s + 0.1 * np.arange(1, len(angles) + 1)
        path = self.commanded[-1] + np.outer(angles, TURN)
        self._channel.send(Move(1, path, times, is_streamed=False))
        while (state := self._cycle()).phase == Phase.SERVOING:
            self.states.append(state)
        while state.phase != Phase.IDLE:
            state = self._cycle()

    @property
    def commanded(self) -> np.ndarray:
        """Joint positions [n, 6] (rad)."""
        return np.array([state.commanded for state in self.states])

    @property
    def steps_s(self) -> np.ndarray:
        """By how much the clock of the motion went on between any two."""
        return np.clip(np.diff([s.time_s for s in self.states]), PERIOD, 2 * PERIOD)

    def refusals(self) -> list[str]:
        reports = [m for m in self._channel.receive() if isinstance(m, Report)]
        return [report.detail for report in reports if report.kind == "refused"]


MakeCycles = Callable[[Limits], Cycles]


@pytest.fixture
def cycles(controller: FakeController) -> Iterator[MakeCycles]:
    """Makes cycles of a loop whose trajectory keeps to LIMITS, and whose guard to others."""
    links = []

    def make(checked: Limits) -> Cycles:
        bring_back(HOST)
        controller.reset(start=START)
        settings = config(HOST)
        link = Link(HOST, PERIOD, 0.1, 300.0)
        links.append(link)
        link.set_up(settings.tcp, settings.payload_kg, settings.payload_cog_m)
        here, there = Channel.pair()
        shared = SharedMemory.create()
        shared.beat()
        guard = Guard(MODELS["ur3e"], checked)
        return Cycles(ServoLoop(link, LIMITS, guard, PERIOD, there, shared), here, shared)

    yield make
    for link in links:
        link.close()


def tool(joints: np.ndarray) -> np.ndarray:
    return Guard(MODELS["ur3e"], LIMITS).kinematics.tool(joints)[0]


def test_the_tool_does_not_leave_the_box(cycles, controller):
    run = cycles(LIMITS)
    run.turn(*(-0.12 * np.arange(1, 11)))  # past the side of the box
    y = tool(run.commanded)[:, 1]
    assert LIMITS.box_high_m[1] - 0.02 < y.max() <= LIMITS.box_high_m[1]
    [refusal] = run.refusals()
    assert "in motion: tool at y 0.25" in refusal and "box -0.2500 to 0.2500" in refusal
    run.turn(0.1)  # back inside, and it can go on
    assert run.refusals() == []
    assert np.ptp(run.commanded[:, 0]) == pytest.approx(0.1, abs=1e-3)
    assert controller.state()["safety_mode"] == "NORMAL"


def test_a_tool_that_would_be_too_fast_is_braked_within_the_limits(cycles):
    slow = dataclasses.replace(LIMITS, tool_speed_m_s=0.2)
    run = cycles(slow)
    run.turn(*(0.12 * np.arange(1, 6)))  # 0.38 m/s
    speeds = np.linalg.norm(np.diff(tool(run.commanded), axis=0), axis=1) / run.steps_s
    assert 0.1 < speeds.max() <= 0.2 * ROUNDING
    [refusal] = run.refusals()
    assert "in motion: gripper moves at 0.2" in refusal and "limit 0.2000" in refusal
    turns = np.diff(run.commanded[:, 0]) / run.steps_s
    between = (run.steps_s[1:] + run.steps_s[:-1]) / 2
    braking = -(np.diff(turns) / between)[turns.argmax() :]
    assert braking.max() <= LIMITS.acceleration_rad_s2[0] * ROUNDING  # no dead stop
    assert 0 < np.ptp(run.commanded[:, 0]) < 0.1


def test_motion_that_cannot_be_planned_is_told_of(cycles):
    run = cycles(LIMITS)
    run.turn(1e9)
    [refusal] = run.refusals()
    assert "in motion: no motion found from" in refusal
    assert np.ptp(run.commanded, axis=0).max() < 1e-4
