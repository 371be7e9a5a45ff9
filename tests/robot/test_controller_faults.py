"""Every fault of the fake controller, as the real client and its users see it."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from dashboard_client import DashboardClient
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from waiting import wait_until

PROTECTIVE, SAFEGUARD, EMERGENCY = 3, 5, 7  # safety_mode
POWER_OFF, RUNNING = 3, 7  # robot_mode


@pytest.fixture
def dashboard(fake):
    client = DashboardClient(fake.host)
    client.connect()
    yield client
    client.disconnect()


def keep_servoing(control: RTDEControlInterface, target: list[float], seconds: float) -> bool:
    """Whether servoJ went on being accepted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not control.servoJ(target, 0, 0, 0.002, 0.1, 300):
            return False
        time.sleep(0.01)
    return True


def test_frozen_output_looks_alive(fake, control, receive):
    fake.faults.freeze_output()
    time.sleep(0.2)
    stale = receive.getTimestamp()
    assert keep_servoing(control, receive.getActualQ(), 1.0)
    assert control.isConnected() and receive.isConnected()
    assert receive.getTimestamp() == stale
    fake.faults.clear()
    wait_until(lambda: receive.getTimestamp() > stale, "state again")


# ur-rtde 1.6.5 can crash when its connection is lost: its receiving thread and the caller's both
# reconnect, and neither waits for the other. So this client has a process of its own.
CLIENT = """
import os, sys
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
receive, control = RTDEReceiveInterface(sys.argv[1]), RTDEControlInterface(sys.argv[1])
for question in sys.stdin:
    print(eval(question), flush=True)
os._exit(0)
"""


def test_after_a_drop_only_control_reconnects(fake):
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, fake.host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(question: str) -> str:
        """The client's last word that is not ur-rtde's own chatter."""
        assert client.stdin is not None and client.stdout is not None
        print(question, file=client.stdin, flush=True)
        while (line := client.stdout.readline().strip()) not in ("True", "False"):
            assert line, "the client has ended"
        return line

    try:
        assert ask("control.isProgramRunning()") == "True"
        fake.faults.drop_rtde()
        wait_until(lambda: fake.state()["clients"]["rtde"] == 1, "control connected again")
        wait_until(lambda: fake.state()["program"] == "PLAYING", "the script sent again")
        assert ask("receive.isConnected()") == "False"
        assert ask("receive.getTimestamp() > 0 and not receive.isEmergencyStopped()") == "True"
    finally:
        client.kill()
        client.communicate()


def test_refused_connections(fake):
    fake.faults.refuse("rtde", "dashboard", "script", "gripper")
    for port in (30004, 29999, 30003, 63352):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((fake.host, port), timeout=30)
    with pytest.raises(RuntimeError):
        RTDEReceiveInterface(fake.host)
    fake.faults.clear()
    RTDEReceiveInterface(fake.host).disconnect()


def test_without_remote_control(fake, dashboard):
    fake.faults.refuse("remote_control")
    assert not dashboard.isInRemoteControl()
    with pytest.raises(RuntimeError, match="remote control"):
        RTDEControlInterface(fake.host)
    with pytest.raises(RuntimeError, match="remote control"):
        dashboard.play()
    fake.faults.clear()
    RTDEControlInterface(fake.host).disconnect()


def test_delayed_output(fake, receive):
    wait_until(lambda: fake.state()["time"] - receive.getTimestamp() < 0.2, "fresh state")
    fake.faults.delay(1.0)
    ages = []

    def is_old() -> bool:
        stamp = receive.getTimestamp()
        ages.append(fake.state()["time"] - stamp)
        return ages[-1] > 0.8

    wait_until(is_old, "old state")
    first = receive.getTimestamp()
    wait_until(lambda: receive.getTimestamp() > first + 0.5, "state that goes on, late")


def test_slow_controller(fake, receive):
    fake.faults.slow(20)
    time.sleep(0.2)
    begin, first = time.monotonic(), receive.getTimestamp()
    wait_until(lambda: receive.getTimestamp() > first + 0.05, "some state")
    assert time.monotonic() - begin > 0.5
    fake.faults.clear()
    wait_until(lambda: receive.getTimestamp() > first + 1, "more")


def test_protective_stop_and_recovery(fake, control, receive, dashboard):
    assert control.speedJ([0.3, 0, 0, 0, 0, 0], 2.0)
    wait_until(lambda: receive.getTargetQd()[0] > 0.2, "motion")
    fake.faults.protective_stop()
    wait_until(receive.isProtectiveStopped, "the stop")
    wait_until(lambda: receive.getTargetQd()[0] == 0, "rest")
    assert receive.getSafetyMode() == PROTECTIVE
    assert receive.getRobotMode() == RUNNING
    assert not receive.isEmergencyStopped()
    assert dashboard.safetystatus() == "Safetystatus: PROTECTIVE_STOP"
    assert not control.servoJ(receive.getActualQ(), 0, 0, 0.002, 0.1, 300)
    assert not control.isProgramRunning()
    wait_until(lambda: fake.state()["time"] > 0.5, "the time before which it cannot be unlocked")
    dashboard.unlockProtectiveStop()
    dashboard.closeSafetyPopup()
    wait_until(lambda: not receive.isProtectiveStopped(), "the release")
    assert not control.isProgramRunning()
    assert control.reuploadScript()
    wait_until(control.isProgramRunning, "the program")
    assert keep_servoing(control, receive.getActualQ(), 0.1)


def test_a_protective_stop_cannot_be_unlocked_at_once(fake, dashboard):
    fake.faults.slow(20)  # so that its own time hardly moves on
    fake.faults.protective_stop()
    with pytest.raises(RuntimeError, match="Cannot unlock protective stop until 5s"):
        dashboard.unlockProtectiveStop()


def test_the_client_asks_for_a_protective_stop(control, receive):
    control.triggerProtectiveStop()
    wait_until(receive.isProtectiveStopped, "the stop")


def test_emergency_stop_and_recovery(fake, control, receive, dashboard):
    assert control.speedJ([0.3, 0, 0, 0, 0, 0], 2.0)
    fake.faults.emergency_stop()
    wait_until(receive.isEmergencyStopped, "the stop")
    assert receive.getSafetyMode() == EMERGENCY
    assert receive.getRobotMode() == POWER_OFF
    assert not receive.getRobotStatus() & 1
    wait_until(lambda: np.abs(receive.getActualQd()).max() < 0.01, "rest")
    assert fake.state()["gripper"]["POS"] == "?"
    assert not control.servoJ(receive.getActualQ(), 0, 0, 0.002, 0.1, 300)
    dashboard.powerOn()
    assert receive.getRobotMode() == POWER_OFF  # while the button is pressed
    fake.faults.clear()
    wait_until(lambda: not receive.isEmergencyStopped(), "the button released")
    dashboard.powerOn()
    wait_until(lambda: dashboard.robotmode() == "Robotmode: IDLE", "power")
    dashboard.brakeRelease()
    wait_until(lambda: receive.getRobotMode() == RUNNING, "brakes released")
    assert control.reuploadScript()
    wait_until(control.isProgramRunning, "the program")


def test_safeguard_stop_pauses_the_program(fake, control, receive, dashboard):
    fake.faults.safeguard_stop()
    wait_until(lambda: receive.getSafetyMode() == SAFEGUARD, "the stop")
    wait_until(lambda: not control.isProgramRunning(), "the pause")
    with pytest.raises(RuntimeError, match="Failed to execute: play"):
        dashboard.play()
    fake.faults.clear()
    wait_until(lambda: receive.getSafetyMode() == 1, "the release")
    dashboard.play()
    wait_until(control.isProgramRunning, "the program again")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([np.nan, 0, 0, 0, 0, 0], "not numbers"),
        ([3.0, 0, 0, 0, 0, 0], "exceed its speed"),
    ],
)
def test_impossible_servo_targets_end_in_a_protective_stop(fake, control, receive, change, reason):
    target = (np.array(receive.getActualQ()) + change).tolist()
    control.servoJ(target, 0, 0, 0.002, 0.03, 2000)
    wait_until(receive.isProtectiveStopped, "the stop")
    assert reason in fake.state()["stop_reason"]
    assert np.isfinite(receive.getActualQ()).all()


def test_joint_limits_end_in_a_protective_stop(fake, control, receive):
    assert control.speedJ([0, 0, 0, 0, 0, 3.0], 20.0)
    wait_until(receive.isProtectiveStopped, "the stop")
    assert "joint 5 would leave its limits" in fake.state()["stop_reason"]


def test_pressing_on_the_table_ends_in_a_protective_stop(fake, control, receive):
    assert control.speedL([0, 0, -0.1, 0, 0, 0], 0.5)
    wait_until(receive.isProtectiveStopped, "the stop")
    assert "the tool is pressed" in fake.state()["stop_reason"]
    assert fake.state()["tool"][2] > -0.02


def test_gripper_without_power(fake):
    with socket.create_connection((fake.host, 63352), timeout=30) as sock:
        fake.faults.gripper_fault(11)
        sock.sendall(b"GET FLT\n")
        assert sock.recv(100) == b"FLT 11\n"
        fake.faults.disconnect_gripper()
        sock.sendall(b"GET POS\n")
        assert sock.recv(100) == b"POS ?\n"
        fake.faults.clear()
        sock.sendall(b"GET POS\n")
        assert sock.recv(100) == b"POS 3\n"
        fake.faults.drop("gripper")
        assert sock.recv(100) == b""
