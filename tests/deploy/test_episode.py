"""The control loop on the wire: stops, slow policies, what is refused, settling, dry runs."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.layout import JOINT_POSITIONS
from lerobot_robot_ur.robot import ArmWithCameras
from stage import Answers, patient_settings
from ur_fake_controller import FakeController

from actquant.common.errors import RefusedError, StaleStateError
from actquant.control.chunk_scheduler import ChunkScheduler, Tick
from actquant.deploy import episode as episode_module
from actquant.deploy.adapters.ur import URPort
from actquant.deploy.episode import Episode, Rules
from actquant.deploy.events import read_events
from actquant.deploy.policy import TimedPolicy
from actquant.deploy.robot import Robot
from actquant.deploy.session import Session
from actquant.deploy.settings import ExitCode
from actquant.deploy.settling import NEAR_RAD, settle
from actquant.deploy.stopping import StopRequest

STEPS, MOVED_RAD = 2, 0.01
UP = np.array([0, 0, 1, 0, 0, 0, -1], np.float32)


class Thoughts:
    """What happens in each inference; `do` gets its number, from 0 in each test."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.count, self.do = 0, lambda number: None

    def think(self) -> None:
        self.count += 1
        self.do(self.count - 1)


THOUGHTS = Thoughts()


@pytest.fixture(scope="module")
def connected(
    model: Path, controller: FakeController, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    controller.reset()
    log = tmp_path_factory.mktemp("log")
    settings = patient_settings(model, log, steps_per_chunk=STEPS, max_seconds=60, max_refusals=3)
    act = TimedPolicy.act

    def thinking(policy: TimedPolicy, *arguments: Any) -> Any:
        THOUGHTS.think()
        return act(policy, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimedPolicy, "act", thinking)
        with Session(settings, Answers()) as session:
            yield session


@pytest.fixture
def session(connected: Session, controller: FakeController) -> Iterator[Session]:
    """Connected, the arm ready to move."""
    THOUGHTS.forget()
    yield connected
    controller.faults.clear()
    if connected.robot.port.stopped is not None:
        connected.robot.port.recover("a test")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not is_fresh(connected.robot):
        time.sleep(0.05)


def arm_of(session: Session) -> Arm:
    assert isinstance(session.robot.port, URPort)
    return session.robot.port.arm


def is_fresh(robot: Robot) -> bool:
    """Whether arm, gripper and cameras answer, as again some time after a fault."""
    try:
        robot.observe()
    except StaleStateError:
        return False
    return True


class Sent:
    """When and what the arm was told from now on: move or hold."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[float, str]] = []
        for name in ("move_through", "hold"):
            monkeypatch.setattr(arm_of(session), name, self._noted(session, name))

    def _noted(self, session: Session, name: str) -> Callable[..., None]:
        real = getattr(arm_of(session), name)

        def send(*arguments: Any) -> None:
            self.all.append((time.monotonic(), name))
            real(*arguments)

        return send

    def after(self, time_s: float) -> list[str]:
        return [name for when, name in self.all if when > time_s]


def events_of(session: Session, number: int) -> list[dict[str, Any]]:
    return [e for e in read_events(session.events.path) if e.get("episode") == number]


@pytest.mark.parametrize("chunk", [0, 1])
def test_nothing_is_sent_when_a_stop_comes_while_the_policy_thinks(
    session: Session, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    sent, stopped_s = Sent(session, monkeypatch), []

    def stop(number: int) -> None:
        if number == chunk:
            session.stop.request("the test", leave=False)
            stopped_s.append(time.monotonic())

    THOUGHTS.do = stop
    report = session.run_episode(chunk)
    assert (report.ending.kind, report.ending.detail) == ("operator", "the test")
    assert report.actions == chunk * STEPS
    assert set(sent.after(stopped_s[0])) == {"hold"}


def test_nothing_is_sent_when_a_stop_comes_while_the_arm_settles(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, stopped_s = Sent(session, monkeypatch), []

    def stop_in_it(robot: Robot, stop: StopRequest, timeout_s: float) -> Any:
        if THOUGHTS.count == 1:
            stop.request("the test", leave=False)
            stopped_s.append(time.monotonic())
        return settle(robot, stop, timeout_s)

    monkeypatch.setattr(episode_module, "settle", stop_in_it)
    report = session.run_episode(2)
    assert report.ending.kind == "operator" and report.actions == STEPS
    assert THOUGHTS.count == 1 and report.unsettled == 0
    assert set(sent.after(stopped_s[0])) == {"hold"}


def test_an_action_sent_into_a_stop_is_taken_back_and_does_not_count(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = session.robot.send

    def stop_meanwhile(*arguments: Any) -> Any:
        session.stop.request("the test", leave=False)
        return send(*arguments)

    monkeypatch.setattr(session.robot, "send", stop_meanwhile)
    sent = Sent(session, monkeypatch)
    report = session.run_episode(3)
    assert report.ending.kind == "operator" and report.actions == 0
    assert [name for _, name in sent.all][-2:] == ["move_through", "hold"]


@pytest.mark.parametrize("seconds", [1.3, 2.5])
def test_in_sync_a_policy_may_think_longer_than_an_action_may_be_old(
    session: Session, seconds: float
) -> None:
    port = session.robot.port
    assert (port.max_action_age_s, port.stop_after_s) == (1.0, 2.0)
    THOUGHTS.do = lambda number: time.sleep(seconds)
    report = session.run_episode(4, max_actions=2 * STEPS)
    assert (report.ending.kind, report.ending.detail) == ("time limit", f"{2 * STEPS} actions")
    assert report.refusals == {} and report.chunks == 2
    assert report.latency_ms["camera to action"].p50 > 1e3 * seconds
    assert session.robot.port.stopped is None


def test_a_gripper_that_is_silent_is_a_stale_state_and_no_stop(
    session: Session, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disconnect(number: int) -> None:
        if number == 1:
            controller.faults.disconnect_gripper()
            time.sleep(1.2)

    THOUGHTS.do = disconnect
    sent = Sent(session, monkeypatch)
    report = session.run_episode(5)
    assert report.ending.kind == "refusals" and "gripper has not answered" in report.ending.detail
    assert report.refusals == {"stale": 3} and report.ending.exit_code == ExitCode.REFUSALS
    assert session.robot.port.stopped is None and sent.all[-1][1] == "hold"


def test_after_a_refusal_the_policy_looks_again_and_nothing_refused_counts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, offered, executed = session.robot.send, [], []

    def refuse_the_second(*arguments: Any) -> Any:
        offered.append(arguments)
        if len(offered) == 2:
            raise RefusedError(["not today"])
        return send(*arguments)

    class Executed:
        def frame(self, seen: Any, action: Any, tick: Tick) -> None:
            executed.append((tick.chunk, tick.index))

    monkeypatch.setattr(session.robot, "send", refuse_the_second)
    monkeypatch.setattr(session, "_rerun", Executed())
    monkeypatch.setattr(session._scheduler, "steps_per_chunk", 4)
    report = session.run_episode(9, max_actions=3)
    assert executed == [(0, 0), (1, 0), (1, 1)] and THOUGHTS.count == 2
    assert report.refusals == {"refused": 1} and report.actions == 3 and report.holds == 1


def test_a_picture_of_another_size_ends_the_episode_with_a_hold(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (camera,) = session.robot.port.cameras.values()

    def change(number: int) -> None:
        monkeypatch.setattr(camera, "width", 1)

    THOUGHTS.do = change
    sent = Sent(session, monkeypatch)
    report = session.run_episode(6)
    assert report.ending.kind == "robot error" and "its configuration says" in report.ending.detail
    assert report.ending.exit_code == ExitCode.ROBOT_STOPPED
    assert session.robot.port.stopped is None and sent.all[-1][1] == "hold"


def test_settling_ends_when_the_arm_is_where_it_was_told_to_go(
    session: Session, controller: FakeController
) -> None:
    height, arm = controller.state()["tool"][2], session.robot.port
    session.robot.send(UP, np.stack([UP]))
    settled = settle(session.robot, StopRequest(), timeout_s=20)
    assert settled.seconds > session.robot.period_s and settled.is_still and not settled.lacking
    state = arm.state()
    assert np.abs(state.joints - state.commanded).max() < NEAR_RAD and not state.is_moving
    assert controller.state()["tool"][2] - height == pytest.approx(0.05, abs=0.003)
    # An arm that is kept from arriving does not keep anybody waiting.
    session.robot.send(-UP, np.stack([-UP]))
    while not arm.state().is_moving:
        time.sleep(0.002)
    settled = settle(session.robot, StopRequest(), timeout_s=0.0)
    assert settled.seconds < 1 and settled.lacking == "the arm still moves"
    assert not settled.is_still
    session.robot.port.hold()


def test_settling_waits_for_a_picture_of_the_arm_at_rest(
    session: Session, controller: FakeController
) -> None:
    assert not settle(session.robot, StopRequest(), timeout_s=20).lacking
    controller.faults.freeze_cameras()
    time.sleep(0.2)  # for the picture that is on its way
    settled = settle(session.robot, StopRequest(), timeout_s=0.5)
    assert settled.is_still and settled.seconds >= 0.5
    assert "no picture since the arm came to rest from observation.images.scene" in settled.lacking
    thread = threading.Timer(0.3, controller.faults.clear)
    thread.start()
    begin = time.monotonic()
    settled = settle(session.robot, StopRequest(), timeout_s=20)
    thread.join()
    assert not settled.lacking
    assert all(t is not None and t > begin for t in session.robot.picture_times().values())


def test_a_look_at_what_has_not_settled_is_logged_and_counted(
    session: Session, controller: FakeController
) -> None:
    THOUGHTS.do = lambda number: controller.faults.freeze_cameras()
    report = session.run_episode(7, max_actions=STEPS + 1)
    assert report.unsettled >= 1
    given_up = [e for e in events_of(session, 7) if e["kind"] == "not settled"]
    assert len(given_up) == report.unsettled and "no picture since" in given_up[0]["detail"]


def test_with_the_slider_at_a_fifth_actions_take_five_times_as_long(
    session: Session, controller: FakeController
) -> None:
    controller.faults.set_slider(0.2)
    arm = arm_of(session)
    deadline = time.monotonic() + 10
    while arm.state().speed_scaling > 0.21 and time.monotonic() < deadline:
        time.sleep(0.01)
    [slider] = [fact for fact in session.robot.port.facts() if fact.what == "speed slider"]
    assert not slider.is_usual and slider.value == "20 %: all motion takes 5.0 times as long"
    report = session.run_episode(9, max_actions=3 * STEPS)
    assert (report.actions, report.refusals) == (3 * STEPS, {})
    # The last one is not waited for; that of each chunk is, before the arm is looked at again.
    assert report.seconds > 5 * (3 * STEPS - 1) * session.robot.period_s
    kinds = {event["kind"] for event in events_of(session, 9)}
    assert "arm: hold" not in kinds and "arm: refused" not in kinds


@pytest.mark.parametrize("mode", ["sync", "async", "rtc"])
def test_a_dry_run_checks_each_joint_target_from_the_one_before(
    session: Session, mode: str
) -> None:
    """All of them from where the arm stands would be jumps."""
    cameras, arm = session.robot.port.cameras, arm_of(session)
    policy: Any = copy.copy(session.policy)
    policy.action_names = [*JOINT_POSITIONS, "gripper.pos"]
    policy.observation_steps = 1
    turn = 0.8 * arm.limits.max_joint_step_rad

    def act(seen: Any, previous: Any = None) -> np.ndarray:
        time.sleep(0.15)
        chunk = np.tile(np.append(arm.state().joints, 0.05), (8, 1)).astype(np.float32)
        chunk[:, 5] += turn * np.arange(1, 9)
        if previous is not None:
            chunk[:, 5] += previous.actions[0, 5] - chunk[0, 5]  # goes on where that one does
        return chunk

    robot = Robot(
        URPort(ArmWithCameras(arm, cameras, layout="joints", control_rate_hz=10), policy),
        policy,
        "turn",
        resize=False,
    )
    before = arm.state().commanded
    rules = Rules(max_seconds=60, max_refusals=1, dry_run=True, max_actions=12)
    clock = robot.port.clock
    with ChunkScheduler(act, mode=mode, steps_per_chunk=4, clock=clock) as scheduler:
        episode = Episode(8, robot, policy, scheduler, rules, session.events, StopRequest())
        report = episode.run()
    assert (report.ending.detail, report.refusals, report.actions) == ("12 actions", {}, 12)
    np.testing.assert_allclose(arm.state().commanded, before, atol=MOVED_RAD)
