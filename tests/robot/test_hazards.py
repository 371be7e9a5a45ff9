"""Each hazard of the bare ur-rtde client, and that an `Arm` is guarded against it.

The first test of each pair fails where the hazard has gone; the second where its guard has.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lerobot_robot_ur
import numpy as np
import pytest
from lerobot_robot_ur import servo_process
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.dashboard import stop_program
from lerobot_robot_ur.errors import ConnectionFailed, Refused, StaleState
from lerobot_robot_ur.link import Link
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from streaming import config, speed, wait_for_rest
from ur_fake_controller import FakeController
from waiting import wait_until

HOST = "127.0.0.51"
SERVO = (0.0, 0.0, 0.002, 0.1, 300.0)
BAD_TARGETS = [[float("nan")] + [0.0] * 5, [0.0] * 5]


@pytest.fixture
def fake(renewed: FakeController) -> FakeController:
    return renewed


@pytest.fixture
def control(fake: FakeController) -> Iterator[RTDEControlInterface]:
    interface = RTDEControlInterface(fake.host)
    yield interface
    interface.disconnect()


def client(code: str, host: str = HOST) -> subprocess.Popen[str]:
    """A process with a bare client in it, for what can take its process with it."""
    begin = (
        "import os, sys, threading, time\n"
        "from rtde_control import RTDEControlInterface\n"
        "from rtde_receive import RTDEReceiveInterface\n"
        "host = sys.argv[1]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", begin + code, host],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_bare_servo_takes_any_target(control, target):
    assert control.servoJ(target, *SERVO)


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_an_arm_refuses_what_is_no_target(fake, arm, target):
    with pytest.raises(Refused):
        arm.move_through([target], [arm.clock() + 0.1])
    with pytest.raises(Refused):
        arm.move_to(target)
    assert fake.state()["safety_mode"] == "NORMAL"


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_the_link_refuses_what_is_no_target(fake, target):
    link = Link(fake.host, *SERVO[2:])
    with pytest.raises(ValueError, match="6 finite numbers"):
        link.servo(np.array(target))
    link.close()
    assert fake.state()["safety_mode"] == "NORMAL"


def test_bare_servo_goes_on_while_output_is_frozen(fake, control):
    receive = RTDEReceiveInterface(fake.host)
    target = receive.getActualQ()
    fake.faults.freeze_output()
    time.sleep(0.2)
    stamp = receive.getTimestamp()
    for _ in range(20):
        assert control.servoJ(target, *SERVO)
        time.sleep(0.02)
    assert control.isConnected() and receive.isConnected()
    assert receive.getTimestamp() == stamp
    fake.faults.clear()
    receive.disconnect()


def test_an_arm_stops_when_output_is_frozen(fake, arm, moving):
    fake.faults.freeze_output()
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped is not None and arm.stopped.kind == "stale_state"
    with pytest.raises(StaleState):
        wait_until(lambda: arm.state() is None, "state that is too old")
    wait_until(lambda: "its watchdog expired" in fake.state()["log"][-1], "the watchdog")
    wait_for_rest(fake)


def test_an_arm_stops_when_output_is_late(fake, arm, moving):
    fake.faults.delay(3.0)
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped is not None and arm.stopped.kind == "stale_state"
    wait_for_rest(fake)


SERVO_ON = """
control = RTDEControlInterface(host)
q = RTDEReceiveInterface(host).getActualQ()
control.setWatchdog(10)
while True:
    print(control.servoJ(q, 0, 0, 0.002, 0.1, 300), flush=True)
    time.sleep(0.02)
"""


def test_bare_control_connects_anew_and_unwatched_or_crashes(fake):
    bare = client(SERVO_ON)
    try:
        wait_until(lambda: fake.state()["watchdog_s"] is not None, "its watchdog")
        assert bare.stdout is not None and bare.stdout.readline()
        fake.faults.delay(0.2)  # s; or it may connect anew before its watchdog (0.1 s) expires
        fake.faults.drop_rtde()

        def is_unwatched() -> bool:
            state = fake.state()
            return state["program"] == "PLAYING" and state["watchdog_s"] is None

        wait_until(lambda: bare.poll() is not None or is_unwatched(), "either")
    finally:
        end(bare)
        stop_program(fake.host)


def test_an_arm_stops_when_its_connection_drops(fake, arm, moving):
    uploads = fake.state()["uploads"]
    fake.faults.drop_rtde()
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped is not None and arm.stopped.kind == "link_lost"
    wait_until(lambda: fake.state()["clients"]["rtde"] == 0, "the end of the servo process")
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")
    wait_for_rest(fake)
    assert fake.state()["uploads"] == uploads


SPEED_ON = """
control = RTDEControlInterface(host)
control.speedJ([0.1, 0, 0, 0, 0, 0], 0.5)
time.sleep(100)
"""


def test_a_bare_client_that_is_killed_leaves_the_arm_moving(fake):
    bare = client(SPEED_ON)
    wait_until(lambda: speed(fake) > 0.05, "motion")
    end(bare)
    before = fake.state()["time"]
    wait_until(lambda: fake.state()["time"] > before + 1.0, "a second")
    assert speed(fake) > 0.05
    stop_program(fake.host)


def test_the_watchdog_stops_an_arm_whose_servo_process_hangs(fake, arm, moving):
    os.kill(arm.servo_pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "its watchdog expired" in fake.state()["log"][-1], "the watchdog")
        wait_for_rest(fake)
    finally:
        os.kill(arm.servo_pid, signal.SIGCONT)
    wait_until(lambda: arm.stopped is not None, "the stop")


def test_an_arm_notices_at_once_that_its_servo_process_was_killed(fake, arm, moving):
    os.kill(arm.servo_pid, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert time.monotonic() - began < 1.0
    assert arm.stopped is not None and arm.stopped.kind == "link_lost"
    assert "SIGKILL" in arm.stopped.detail
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")
    wait_for_rest(fake)


FORWARD = """
control = RTDEControlInterface(host)
control.getForwardKinematics([0.0] * 6, [0.0] * 6)
"""


def misfits(fake: FakeController) -> int:
    """Packets that fitted no recipe so far."""
    return fake.state()["misfits"]


def test_bare_forward_kinematics_sends_a_packet_that_fits_nothing(fake):
    before = misfits(fake)
    bare = client(FORWARD)
    wait_until(lambda: misfits(fake) > before, "the packet")
    end(bare)


def test_only_calls_that_are_known_to_be_right_are_used():
    used = set()
    for path in Path(lerobot_robot_ur.__file__).parent.glob("*.py"):
        used |= set(re.findall(r"\b_?(?:control|receive)\.(\w+)\(", path.read_text()))
    used -= {"receive"}  # of our own channel
    state = {"getTimestamp", "getActualQ", "getActualQd", "getActualTCPForce"}
    speed = {"getSpeedScaling", "getTargetSpeedFraction"}
    modes = {"getRobotMode", "getRobotStatus", "getSafetyStatusBits", "getRuntimeState"}
    settings = {
        "setTcp",
        "getActualTCPPose",
        "setPayload",
        "getPayload",
        "getPayloadCog",
        "setWatchdog",
        "kickWatchdog",
    }
    motion = {"servoJ", "servoStop", "stopScript"}
    state |= {"getActualDigitalInputBits", "getActualDigitalOutputBits"}
    assert used == state | speed | modes | settings | motion | {"isConnected", "disconnect"}


def test_the_tool_is_where_our_kinematics_have_it(fake, arm):
    before = misfits(fake)
    tool, _ = arm.guard.kinematics.tool(arm.state().joints)
    np.testing.assert_allclose(tool, fake.state()["tcp_pose"][:3], atol=1e-3)
    assert misfits(fake) == before


CONSTRUCT = """
def tick():
    while True:
        os.write(1, b"tick\\n")
        time.sleep(0.05)
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.5)
os.write(1, b"constructing\\n")
RTDEReceiveInterface(host)
"""


def test_a_bare_constructor_stops_every_thread_while_it_waits(fake):
    fake.faults.freeze_output()
    bare = client(CONSTRUCT)
    try:
        assert bare.stdout is not None
        lines = iter(bare.stdout.readline, "")
        assert next(lines) == "tick\n"
        while next(lines) != "constructing\n":
            pass
        before = fake.state()["time"]
        wait_until(lambda: fake.state()["time"] > before + 1.0, "a second")
    finally:
        bare.kill()
    assert len(list(lines)) <= 1
    bare.communicate()
    fake.faults.clear()


def test_threads_go_on_while_an_arm_cannot_connect(fake, monkeypatch):
    monkeypatch.setattr(servo_process, "CONNECT_TIMEOUT_S", 3.0)
    fake.faults.freeze_output()
    ticks, is_over = [], threading.Event()

    def tick() -> None:
        while not is_over.wait(0.05):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(ConnectionFailed, match="no state came over RTDE"):
        Arm(config(fake.host)).connect()
    is_over.set()
    thread.join()
    assert np.diff(ticks).max() < 1.0
    fake.faults.clear()


def test_a_bare_client_is_not_watched(fake, control):
    assert control.isProgramRunning()
    assert fake.state()["watchdog_s"] is None


def test_an_arm_is_watched_from_before_its_first_motion(fake, arm):
    assert fake.state()["watchdog_s"] == pytest.approx(arm.config.watchdog_s)
    assert ArmConfig(fake.host).watchdog_s == 0.1
