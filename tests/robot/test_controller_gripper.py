"""The gripper's port, and picking something up through it."""

import socket

import numpy as np
import pytest
from waiting import wait_until

PORT = 63352
ACTIVE, AT_TARGET, HOLDS = 3, 3, 2


class Gripper:
    """The smallest client of the URCap's port."""

    def __init__(self, host: str):
        self._socket = socket.create_connection((host, PORT), timeout=30)

    def ask(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\n")
        return self._socket.recv(1024).decode()

    def get(self, name: str) -> int:
        answered, value = self.ask(f"GET {name}").split()
        assert answered == name
        return int(value)

    def activate(self) -> None:
        assert self.ask("SET ACT 1") == "ack"
        wait_until(lambda: self.get("STA") == ACTIVE, "an active gripper")

    def go(self, position: int) -> int:
        assert self.ask(f"SET POS {position} SPE 255 FOR 255 GTO 1") == "ack"
        wait_until(lambda: self.get("OBJ") != 0, "the end of the fingers' motion")
        return self.get("OBJ")


@pytest.fixture
def gripper(fake):
    return Gripper(fake.host)


def test_activation_and_motion(gripper):
    assert gripper.get("STA") == 0
    gripper.activate()
    assert gripper.go(255) == AT_TARGET
    assert gripper.get("POS") >= 225
    assert gripper.get("PRE") == 255
    assert gripper.go(0) == AT_TARGET
    assert gripper.get("POS") <= 5
    assert gripper.go(128) == AT_TARGET
    assert abs(gripper.get("POS") - 128) <= 4


def test_without_activation_nothing_moves(gripper, fake):
    assert gripper.ask("SET POS 255 GTO 1") == "ack"
    before = fake.state()["time"]
    wait_until(lambda: fake.state()["time"] > before + 0.3, "some time")
    assert fake.state()["gripper_opening"] > 0.08


def test_unknown_words(gripper):
    assert gripper.ask("GET XYZ") == "XYZ ?\n"
    assert gripper.ask("SET POS 999") != "ack"
    assert gripper.ask("HELLO") != "ack"


def test_picking_a_cube_succeeds(fake, gripper, control):
    gripper.activate()
    state = fake.state()
    assert not state["success"]
    x, y, z = state["objects"][state["target"]]
    pose = np.array(state["tcp_pose"])
    for height in (0.12, z):
        pose[:3] = x, y, height
        assert control.moveL(pose.tolist(), 0.2, 1.0)
    assert gripper.go(255) == HOLDS
    assert 0.035 < fake.state()["gripper_opening"] < 0.045
    pose[2] = 0.16
    assert control.moveL(pose.tolist(), 0.2, 1.0)
    wait_until(lambda: fake.state()["success"], "success")
    assert gripper.go(0) == AT_TARGET
    wait_until(lambda: not fake.state()["success"], "the cube let go")
    assert fake.state()["was_successful"]
    fake.reset(start=3)
    state = fake.state()
    assert state["start"] == 3 and not state["was_successful"]
