"""The arm's face, against the fake controller."""

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from lerobot_robot_ur import servo_process
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.dashboard import PORT, Dashboard
from lerobot_robot_ur.errors import ConnectionFailed, Refused, RobotError, StaleState, Stopped
from lerobot_robot_ur.gripper import GripperError
from streaming import STILL_RAD_S, config, speed, wait_for_motion
from sway import Sway
from ur_fake_controller import FakeController
from waiting import bring_back, wait_until

HOST, GRIPPER_HOST, MUTE_HOST = "127.0.0.50", "127.0.0.57", "127.0.0.58"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeController]:
    with FakeController(HOST, unlock_delay=0.1) as controller:
        yield controller


@pytest.fixture
def arm(fake: FakeController) -> Iterator[Arm]:
    fake.faults.clear()
    bring_back(HOST)
    fake.reset()
    with Arm(config(HOST)) as connected:
        yield connected


def test_move_to_ends_at_rest_at_its_goal(fake, arm):
    goal = arm.state().joints + [0.1, 0.0, 0.05, 0.0, 0.0, 0.1]
    arm.move_to(goal)
    assert not arm.state().is_moving
    wait_until(lambda: np.abs(np.array(fake.state()["joints"]) - goal).max() < 2e-3, "the goal")


def test_a_streamed_way_is_followed_in_time(arm):
    start, begin, period = arm.state().commanded, arm.clock(), 0.1
    path = start + np.linspace(0.01, 0.2, 20)[:, None] * [1, 0, 0, 0, 0, 0]
    times = begin + period * np.arange(1, len(path) + 1)
    for i in range(len(path)):
        before = time.monotonic()
        arm.move_through(path[i : i + 4], times[i : i + 4])
        time.sleep(max(0.0, times[i] - arm.clock()))
    wait_until(lambda: not arm.state().is_moving, "the end")
    arm.hold()
    assert arm.clock() < times[-1] + 1.0
    np.testing.assert_allclose(arm.state().commanded, path[-1], atol=1e-9)
    assert not [e for e in arm.events() if e.kind == "hold" and e.time_s < before]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([[np.nan, 0, 0, 0, 0, 0]], "shoulder_pan is nan"),
        ([[0.0] * 5], r"shape \[n, 6\], got \[1, 5\]"),
        ([["0.0"] * 6], "rows of 6 numbers, got <U"),
        ([[0.0, 0.0, 0.0, 0.0, 0.0, 0.1j]], "rows of 6 numbers, got complex"),
        ([[1.0, 0, 0, 0, 0, 0]], "shoulder_pan jumps by 1.0"),
    ],
)
def test_what_must_not_reach_the_arm_is_refused(arm, change, reason):
    before = arm.state().commanded
    joints = np.array(change)
    if len(change[0]) == 6 and joints.dtype.kind != "U":
        joints = joints + before
    with pytest.raises(Refused, match=reason):
        arm.move_through(joints, [arm.clock() + 0.1])
    assert [event.kind for event in arm.events()][-1] == "refused"
    np.testing.assert_array_equal(arm.state().commanded, before)
    if joints.dtype.kind in "Uc":
        with pytest.raises(Refused, match="goal: .* instead of numbers"):
            arm.move_to(joints[0])


def test_fingers_stop_with_the_arm(fake):
    fake.faults.clear()
    bring_back(HOST)
    fake.reset()
    with Arm(config(HOST, gripper="robotiq_2f85")) as arm:
        here = arm.commanded()
        arm.move_through([here], [arm.clock() + 0.1], [0.0])
        wait_until(lambda: arm.state().gripper_opening_m < 0.07, "closing")
        fake.faults.protective_stop()
        wait_until(lambda: arm.stopped is not None, "the stop")
        time.sleep(0.3)
        stopped = fake.state()["gripper_opening"]
        time.sleep(0.3)
        # Its springs settle; going on, it would be shut by now.
        assert fake.state()["gripper_opening"] == pytest.approx(stopped, abs=5e-3)
        assert stopped > 0.01


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


def test_another_model_of_the_same_series_does_not_connect(fake):
    fake.faults.pretend_to_drive("UR5")
    with pytest.raises(ConnectionFailed, match="drives a 'UR5', configured is a ur3e .'UR3'"):
        Arm(config(HOST)).connect()
    fake.faults.pretend_to_drive("UR3e")
    with Arm(config(HOST)) as arm:
        assert arm.controller is not None and arm.controller.model == "UR3e"
    fake.faults.clear()


def test_a_stop_outlives_the_connection(fake):
    fake.reset()
    arm = Arm(config(HOST))
    arm.connect()
    arm.stop("a key")
    arm.disconnect()  # before the servo process has told of it
    with pytest.raises(Stopped, match="a key"):
        arm.connect()
    arm.recover("Ada")
    assert arm.stopped is None
    arm.disconnect()
    arm.connect()
    arm.disconnect()


def test_what_was_opened_is_closed_where_it_fails(fake, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(servo_process.sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        Arm(config(HOST)).connect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dashboard_that_does_not_greet_is_hung_up_on():
    with socket.create_server((MUTE_HOST, PORT)) as server:
        with pytest.raises(ConnectionFailed, match="gave not its greeting") as failed:
            Dashboard(MUTE_HOST, timeout_s=0.1)
        other, _ = server.accept()
        with other:
            other.settimeout(10.0)
            assert other.recv(1) == b""
    del failed  # whose traceback kept the connection from being collected


class SilentGripper:
    """Robotiq's port, that answers as long as it `speaks`."""

    def __init__(self) -> None:
        speaks = self.speaks = threading.Event()
        speaks.set()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    speaks.wait()
                    values = {b"STA": b"3", b"OBJ": b"3", b"FLT": b"0", b"POS": b"3"}
                    name = line.split()[1]
                    self.wfile.write(name + b" " + values[name] + b"\n")

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer((GRIPPER_HOST, 63352), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.speaks.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def silent() -> Iterator[SilentGripper]:
    gripper = SilentGripper()
    yield gripper
    gripper.close()


def gripper_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gripper"]


def with_gripper(**changes):
    return config(HOST, gripper="robotiq_2f85", gripper_ip=GRIPPER_HOST, **changes)


def test_the_arm_stops_before_its_gripper_is_waited_for(fake, silent):
    fake.reset()
    arm = Arm(with_gripper())
    arm.connect()
    stream = Sway(arm)
    wait_for_motion(fake)
    silent.speaks.clear()
    time.sleep(0.1)
    leaving = threading.Thread(target=arm.disconnect)
    leaving.start()
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")
    assert gripper_threads()  # its socket still waits for an answer
    leaving.join()
    stream.end()
    assert not gripper_threads()


def test_an_arm_moves_whatever_its_gripper_does(fake, silent):
    fake.reset()
    with Arm(with_gripper()) as arm:
        goal = arm.commanded() + [0.05, 0, 0, 0, 0, 0]
        silent.speaks.clear()
        with pytest.raises(StaleState, match="gripper has not answered"):
            wait_until(lambda: arm.state() is None, "an old reading")
        arm.move_to(goal)
        np.testing.assert_allclose(arm.commanded(), goal, atol=2e-3)


def test_nothing_is_left_of_a_gripper_whose_start_was_interrupted(fake, silent, monkeypatch):
    silent.speaks.clear()

    arm = Arm(with_gripper())
    monkeypatch.setattr("lerobot_robot_ur.gripper.GripperThread.start", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        arm.connect()
    assert not arm.is_connected and not gripper_threads()
    monkeypatch.undo()
    silent.speaks.set()
    silent.close()
    with pytest.raises(GripperError, match="no Robotiq URCap"):
        arm.connect()
    assert not arm.is_connected and not gripper_threads()


def _interrupted(thread) -> None:
    """As by Ctrl-C while fingers are waited for."""
    thread._thread.start()
    time.sleep(0.2)
    raise KeyboardInterrupt


def outcome_of_moving(arm: Arm, meanwhile) -> BaseException | None:
    """What `move_to` raises where something happens while the arm moves."""
    raised: list[BaseException | None] = [None]
    goal = arm.commanded() + [0.3, 0, 0, 0, 0, 0]

    def move() -> None:
        try:
            arm.move_to(goal)
        except BaseException as error:
            raised[0] = error

    thread = threading.Thread(target=move)
    thread.start()
    wait_until(lambda: np.abs(arm.state().joint_speeds).max() > 0.1, "motion")
    meanwhile()
    thread.join()
    return raised[0]


@pytest.mark.parametrize("kind", ["protective_stop", "emergency_stop", "safeguard_stop"])
def test_move_to_tells_of_a_stop(fake, arm, kind):
    error = outcome_of_moving(arm, getattr(fake.faults, kind))
    assert isinstance(error, Stopped) and error.kind == kind


def test_move_to_tells_of_a_stop_that_was_asked_for(arm):
    error = outcome_of_moving(arm, lambda: arm.stop("a key"))
    assert isinstance(error, Stopped) and error.kind == "requested"


def test_move_to_tells_of_another_command(arm):
    error = outcome_of_moving(arm, arm.hold)
    assert isinstance(error, RobotError) and "told something else" in str(error)


def test_move_to_tells_of_a_refusal_in_motion(arm, monkeypatch):
    """The parent lets a path pass that the servo process refuses on the way."""
    goal = arm.commanded() + [-1.5, 0, 0, 0, 0, 0]
    monkeypatch.setattr(arm.guard, "check_waypoints", lambda *_: None)
    with pytest.raises(RobotError, match="rests before its goal: in motion: tool at .* box"):
        arm.move_to(goal)
    assert arm.refused_in_motion == 1
    assert [e.kind for e in arm.events()][-1] == "refused"


def test_an_arm_that_slows_down_for_a_stop_still_moves(fake, arm):
    stream = Sway(arm)
    wait_for_motion(fake)
    wait_until(lambda: speed(fake) > 0.3, "speed")
    arm.stop("a key")
    assert arm.state().is_moving
    wait_until(lambda: not arm.state().is_moving, "rest")
    assert speed(fake) < 5 * STILL_RAD_S
    stream.end()
