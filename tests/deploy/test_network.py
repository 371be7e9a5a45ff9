"""A bad network between the deployment and the arm: what the arm does, and what the report says.

The arm's own limits are patient here, for busy machines; what each fault is held against is not.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lerobot_robot_ur import dashboard, robotiq, rtde_version
from relay import Relay
from stage import HOST, Answers
from ur_fake_controller import FakeController

from actquant.common.errors import RobotError
from actquant.deploy.report import DeploymentReport
from actquant.deploy.session import deploy
from actquant.deploy.settings import DeploySettings, ExitCode

Make = Callable[..., DeploySettings]
FAR = f"127.0.{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]}.84"
SCRIPT, CAMERAS = 30003, 5555
ARM = (dashboard.PORT, SCRIPT, rtde_version.RTDE_PORT, robotiq.PORT)
MOVED_RAD, STILL_RAD_S = 0.01, 0.01
PATIENT = {"max_deviation_rad": 0.3}


@pytest.fixture
def network(controller: FakeController) -> Iterator[Relay]:
    """Between FAR, where the arm is deployed to, and the controller."""
    with Relay(FAR, HOST, ARM) as relay:
        yield relay


@pytest.fixture
def cable(controller: FakeController) -> Iterator[Relay]:
    """That of the cameras, at FAR too."""
    with Relay(FAR, HOST, [CAMERAS]) as relay:
        yield relay


@pytest.fixture
def far(settings: Make, network: Relay, cable: Relay) -> Make:
    def make(**changes: Any) -> DeploySettings:
        values = {
            "ip": FAR,
            "cameras": [f"scene=zmq:{FAR}:{CAMERAS}:scene"],
            "arm": {"watchdog_s": 1.0},
        }
        return settings(**(values | changes))

    return make


def when_moving(controller: FakeController, action: Callable[[], object]) -> threading.Thread:
    """Does `action` as soon as the arm has moved."""
    before = np.array(controller.state()["joints"])

    def moved() -> bool:
        return np.abs(np.array(controller.state()["joints"]) - before).max() > MOVED_RAD

    def wait() -> None:
        wait_for(moved, "motion")
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def deploy_with(
    settings: DeploySettings,
    operator: Answers,
    controller: FakeController,
    fault: Callable[[], object],
) -> DeploymentReport:
    """Deploys, and causes the fault as soon as the arm has moved."""
    thread = when_moving(controller, fault)
    report = deploy(settings, operator)
    thread.join()
    return report


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"in 60 s it did not come to: {what}"
        time.sleep(0.02)


def is_at_rest(controller: FakeController) -> bool:
    return bool(np.abs(controller.state()["speeds"]).max() < STILL_RAD_S)


def ended(report: DeploymentReport) -> tuple[str, str]:
    ending = report.episodes[0].ending
    return ending.kind, ending.detail


@pytest.mark.parametrize(
    "fault",
    [
        {"delay_s": 0.01},
        {"delay_s": 0.05},
        {"delay_s": 0.05, "jitter_s": 0.05},
        {"loss": 0.01},
    ],
    ids=str,
)
def test_within_the_limits_the_arm_goes_on(
    far: Make, network: Relay, cable: Relay, controller: FakeController, fault: dict[str, float]
) -> None:
    for relay in (network, cable):
        for name, value in fault.items():
            setattr(relay, name, value)
    before = np.array(controller.state()["joints"])
    report = deploy(far(max_seconds=3.0, limits=PATIENT), Answers())
    assert ended(report)[0] == "time limit", ended(report)
    assert report.episodes[0].actions >= 1
    assert np.abs(np.array(controller.state()["joints"]) - before).max() > MOVED_RAD


def test_with_200_ms_each_way_the_arm_is_held_or_stopped(
    far: Make, network: Relay, controller: FakeController
) -> None:
    """A joint seems to deviate, or the gripper's reading is too old: four questions are one."""
    network.delay_s = 0.2
    report = deploy(far(max_seconds=6.0, max_refusals=5), Answers())
    kind, detail = ended(report)
    assert kind in ("time limit", "refusals", "stopped"), detail
    if kind == "stopped":
        assert "deviation" in detail
    if kind == "refusals":
        assert "the gripper has not answered" in detail
    wait_for(lambda: is_at_rest(controller), "rest")


def test_a_cable_that_is_out_for_a_moment_stops_nothing(
    far: Make, network: Relay, controller: FakeController
) -> None:
    def blink() -> None:
        network.pull()
        time.sleep(0.1)
        network.plug()

    report = deploy_with(far(max_seconds=3.0, limits=PATIENT), Answers(), controller, blink)
    assert ended(report)[0] == "time limit", ended(report)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_a_cable_that_is_out_for_longer_stops_the_arm_and_a_word_recovers_it(
    far: Make, network: Relay, controller: FakeController, seconds: float
) -> None:
    class PluggingIn(Answers):
        def ask(self, question: str) -> str:
            assert wait_for(lambda: is_at_rest(controller), "rest") is None
            assert "its watchdog expired" in controller.state()["log"][-1]
            time.sleep(seconds)
            network.plug()
            return super().ask(question)

    operator = PluggingIn("recover")
    report = deploy_with(far(episodes=2, max_seconds=20.0), operator, controller, network.pull)
    kind, detail = ended(report)
    assert kind == "stopped" and "stale_state" in detail
    assert report.exit_code == ExitCode.ROBOT_STOPPED and len(operator.asked) == 1
    assert len(report.episodes) == 2, operator.told
    assert report.episodes[1].actions >= 1


def test_a_reset_connection_stops_the_arm_and_a_word_recovers_it(
    far: Make, network: Relay, controller: FakeController
) -> None:
    operator = Answers("recover")
    report = deploy_with(far(episodes=2, max_seconds=20.0), operator, controller, network.reset)
    kind, detail = ended(report)
    assert kind == "stopped" and "link_lost" in detail
    assert len(report.episodes) == 2, operator.told
    assert report.episodes[1].actions >= 1


def test_nobody_recovers_an_arm_that_is_out_of_reach(
    far: Make, network: Relay, controller: FakeController
) -> None:
    operator = Answers("recover")
    report = deploy_with(far(episodes=2, max_seconds=20.0), operator, controller, network.pull)
    assert len(report.episodes) == 1 and report.exit_code == ExitCode.ROBOT_STOPPED
    told = str([getattr(what, "plain", what) for what in operator.told])
    assert "It cannot be recovered from here" in told and FAR in told
    wait_for(lambda: is_at_rest(controller), "rest")
    network.plug()


def test_a_cable_that_is_out_before_the_beginning_is_told_of(far: Make, network: Relay) -> None:
    network.pull()
    with pytest.raises(RobotError, match=f"{FAR}: the dashboard gave not its greeting"):
        deploy(far(), Answers())
    network.plug()


def test_without_pictures_for_a_while_the_arm_holds_and_goes_on(
    far: Make, cable: Relay, controller: FakeController
) -> None:
    def blink() -> None:
        cable.pull()
        time.sleep(3.0)
        stood.append(np.array(controller.state()["joints"]))
        cable.plug()

    stood: list[np.ndarray] = []
    limits = {"max_camera_age_s": 1.0}
    report = deploy_with(
        far(max_seconds=12.0, max_refusals=10_000, limits=limits), Answers(), controller, blink
    )
    assert ended(report)[0] == "time limit", ended(report)
    assert report.episodes[0].refusals["stale"] >= 1
    assert np.abs(np.array(controller.state()["joints"]) - stood[0]).max() > MOVED_RAD


def test_a_camera_s_connection_is_made_anew(
    far: Make, cable: Relay, controller: FakeController
) -> None:
    report = deploy_with(far(max_seconds=6.0), Answers(), controller, cable.reset)
    assert ended(report)[0] == "time limit", ended(report)
