"""What is looked at when an arm connects and comes back, and what is noticed afterwards."""

import subprocess
import sys
import time

import numpy as np
import pytest
from lerobot_robot_ur import dashboard
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.errors import ConnectionFailed, Stopped
from lerobot_robot_ur.stops import classify
from streaming import config, speed, wait_for_rest
from ur_fake_controller import FakeController
from waiting import wait_until

HOST = "127.0.0.61"
NORMAL, ON, PLAYING = 1 << 0, 1 << 0, 2


@pytest.fixture
def fake(renewed: FakeController) -> FakeController:
    return renewed


def wait_for_event(arm: Arm, kind: str) -> str:
    """Returns the detail of the next event of a kind."""
    found: list[str] = []

    def look() -> bool:
        found.extend(event.detail for event in arm.events() if event.kind == kind)
        return bool(found)

    wait_until(look, kind)
    return found[0]


def test_another_program_is_not_replaced(fake):
    fake.faults.run_program("pick.urp")
    uploads = fake.state()["uploads"]
    with pytest.raises(ConnectionFailed, match="another program is there .PLAYING pick.urp"):
        Arm(config(HOST)).connect()
    assert fake.state()["uploads"] == uploads
    assert dashboard.Dashboard(HOST).program() == "PLAYING pick.urp"


def test_bringing_back_does_not_end_another_program(fake):
    fake.faults.run_program("pick.urp")
    with pytest.raises(ConnectionFailed, match="does not end it"):
        dashboard.bring_back(HOST)
    assert dashboard.Dashboard(HOST).program() == "PLAYING pick.urp"


def test_nothing_is_unlocked_without_remote_control(fake):
    fake.faults.protective_stop()
    fake.faults.refuse("remote_control")
    with pytest.raises(ConnectionFailed, match="enable remote control"):
        dashboard.bring_back(HOST)
    fake.faults.clear()
    assert fake.state()["safety_mode"] == "PROTECTIVE_STOP"


def test_a_tool_that_is_elsewhere_is_refused(fake):
    fake.faults.move_tool(0.004)
    with Arm(config(HOST)):
        pass
    fake.faults.move_tool(0.006)
    with pytest.raises(ConnectionFailed, match=r"tool 6.0 mm and 0.000 rad from .*.allowed 5 mm"):
        Arm(config(HOST)).connect()
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")


def test_polyscope_x_is_named(fake):
    fake.faults.refuse("dashboard")
    fake.faults.claim_version(10, 11, 0, 0)
    began = time.monotonic()
    for use in (Arm(config(HOST)).connect, lambda: dashboard.bring_back(HOST)):
        with pytest.raises(ConnectionFailed, match="PolyScope X 10.11.0.0, which is not supported"):
            use()
    assert time.monotonic() - began < 5.0
    fake.faults.claim_version(5, 17, 3, 0)
    with pytest.raises(ConnectionFailed, match="no dashboard server"):
        Arm(config(HOST)).connect()


SECOND = """
import sys
sys.path[:0] = sys.argv[2:]
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.errors import ConnectionFailed
from lerobot_robot_ur.servo_process import ServoProcess
try:
    ServoProcess(ArmConfig(sys.argv[1]))
except ConnectionFailed as refused:
    print(refused)
"""


def test_a_second_driver_does_not_take_over(fake, arm, moving):
    """Not even one that has passed what the dashboard tells."""
    uploads = fake.state()["uploads"]
    with pytest.raises(ConnectionFailed, match="another program is there"):
        Arm(config(HOST)).connect()
    command = [sys.executable, "-c", SECOND, HOST, *sys.path]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "another program on this computer drives this arm" in told
    assert fake.state()["uploads"] == uploads
    assert arm.stopped is None and moving.error is None


def test_another_payload_is_noticed(fake, arm):
    fake.faults.set_payload(2.5)
    assert wait_for_event(arm, "payload") == (
        "the controller's payload is 2.5, 0, 0, 0.058 (kg, m); 0.9, 0, 0, 0.058 was set here"
    )
    fake.faults.set_payload(0.9)
    wait_for_event(arm, "payload")


def test_in_reduced_mode_the_arm_is_slower(fake, arm, moving):
    limits = arm.limits
    share = limits.reduced_speed_m_s / limits.tool_speed_m_s
    wait_until(lambda: speed(fake) > 0.3, "full speed")
    fake.faults.reduced_mode()
    assert "at most 0.25 m/s" in wait_for_event(arm, "reduced")
    time.sleep(1.0)
    fastest = max(speed(fake) for _ in range(1500))
    assert 0.1 < fastest < 1.15 * share * 0.38
    assert arm.stopped is None and moving.error is None
    assert arm.state().is_reduced
    fake.faults.clear()
    assert wait_for_event(arm, "reduced") == "normal mode"


@pytest.mark.parametrize(
    ("bit", "kind", "remedy"),
    [
        (10, "safety_stop", "see the log at the pendant"),
        (11, "enabling_device", "three-position enabling device"),
        (14, "unreadable_state", "safety bits 0x4001"),
    ],
)
def test_safety_bits_stop_the_arm_in_their_own_words(fake, arm, moving, bit, kind, remedy):
    fake.faults.safety_bits(1 << bit)
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert isinstance(arm.stopped, Stopped) and arm.stopped.kind == kind
    assert remedy in arm.stopped.detail
    wait_for_rest(fake)
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ((NORMAL, ON, PLAYING, 7), None),
        ((1 << 1, ON, PLAYING, 7), None),
        ((0, ON, PLAYING, 7), "unreadable_state"),
        ((NORMAL, ON, 9, 7), "unreadable_state"),
        ((NORMAL, ON, PLAYING, 77), "unreadable_state"),
        ((NORMAL, ON, PLAYING, 5), "power_off"),
        ((NORMAL, 0, PLAYING, 7), "power_off"),
        ((NORMAL, ON, 4, 7), "program_ended"),
        ((1 << 3, ON, PLAYING, 7), "safety_fault"),
        ((1 << 2 | 1 << 10, ON, PLAYING, 7), "protective_stop"),
        ((1 << 4 | 1 << 10 | 1 << 11, ON, PLAYING, 7), "safeguard_stop"),
        ((1 << 7 | 1 << 14, ON, PLAYING, 7), "emergency_stop"),
    ],
)
def test_every_status_has_its_kind(status, kind):
    assert classify(*status) == kind


def test_a_position_that_is_no_number_stops(fake, arm, moving, monkeypatch):
    fake.faults.report_joint(float("nan"))
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped is not None and arm.stopped.kind == "unreadable_state"
    assert np.isfinite(arm._process.state().commanded).all()
