"""Whatever comes over a wire: the fake controller goes on for the others, the driver's own readers
raise their own errors. Bytes are made by hypothesis, plausible packets and lines among them."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lerobot_robot_ur import dashboard, robotiq, rtde_version
from lerobot_robot_ur.dashboard import Dashboard
from lerobot_robot_ur.errors import ConnectionFailed
from lerobot_robot_ur.gripper import GripperError
from lerobot_robot_ur.robotiq import RobotiqGripper
from ur_fake_controller import FakeController

HOST, DRIVER_HOST = "127.0.0.62", "127.0.0.63"
SCRIPT, RTDE = 30003, rtde_version.RTDE_PORT
KINDS = (86, 118, 79, 73, 83, 80, 85)
NAMES = (
    "timestamp",
    "actual_q",
    "actual_TCP_pose",
    "input_int_register_0",
    "speed_slider_mask",
    "",
)
unhurried = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

names = st.lists(st.sampled_from(NAMES), max_size=9).map(lambda found: ",".join(found).encode())
rates = st.floats().map(lambda rate: struct.pack(">d", rate))
payloads = st.one_of(
    st.binary(max_size=60),
    names,
    st.builds(bytes.__add__, rates, names),
    st.builds(lambda n, times: (n + b",") * times, names, st.integers(1, 3000)),
)


def packet(kind: int, payload: bytes) -> bytes:
    payload = payload[: 0xFFFF - 3]
    return struct.pack(">HB", 3 + len(payload), kind) + payload


packets = st.builds(packet, st.sampled_from(KINDS) | st.integers(0, 255), payloads)
streams = st.lists(packets | st.binary(max_size=40), max_size=5).map(b"".join)
words = st.sampled_from(
    ["stop", "play", "get robot model", "SET POS 200 GTO 1", "GET OBJ", "GET", "SET POS", "load x"]
)
lines = st.lists(words | st.text(max_size=20), max_size=6).map(
    lambda found: "\n".join(found).encode()
)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeController]:
    with FakeController(HOST, unlock_delay=0.1) as controller:
        yield controller


def send(port: int, data: bytes) -> None:
    """Sends, takes what comes back for a moment, and goes."""
    with socket.create_connection((HOST, port), timeout=5.0) as sock:
        sock.settimeout(0.02)
        with contextlib.suppress(OSError):  # it may hang up on us, or say nothing
            sock.sendall(data)
            sock.recv(1 << 16)


@unhurried
@given(streams)
@example(packet(79, struct.pack(">d", 500.0) + b",".join([b"actual_q"] * 1500)) + packet(83, b""))
@example(packet(73, b"x," * 32000))
@example(b"".join(packet(73, b"input_int_register_0") for _ in range(300)))
@example(b"".join(packet(79, struct.pack(">d", 1.0) + b"timestamp") for _ in range(300)))
def test_the_fake_controllers_rtde_survives(fake: FakeController, data: bytes) -> None:
    send(RTDE, data)
    assert rtde_version.rtde_version(HOST)[0] == 5


@unhurried
@given(st.sampled_from([dashboard.PORT, robotiq.PORT, SCRIPT]), lines | st.binary(max_size=200))
def test_the_fake_controllers_other_ports_survive(
    fake: FakeController, port: int, data: bytes
) -> None:
    send(port, data + b"\n")
    with Dashboard(HOST) as asked:
        assert asked.controller().model == "UR3"


class Answering:
    """A server that gives whatever it is told to each thing it is asked, and then ends."""

    def __init__(self, port: int):
        self.answers: list[bytes] = []
        self._listener = socket.create_server((DRIVER_HOST, port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(0.05)  # a client that waits for more is sent away
                for answer in self.answers:
                    try:
                        sock.sendall(answer)
                        if not sock.recv(4096):
                            break
                    except OSError:
                        break

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5.0)


@pytest.fixture(scope="module")
def answering() -> Iterator[Callable[[int], Answering]]:
    servers: dict[int, Answering] = {}

    def make(port: int) -> Answering:
        if port not in servers:
            servers[port] = Answering(port)
        return servers[port]

    yield make
    for server in servers.values():
        server.close()


answers = st.lists(
    st.binary(max_size=30).map(lambda data: data + b"\n")
    | st.sampled_from(
        [b"URSoftware 5.11.0\n", b"URSoftware 99999999999999999999.1.1.1\n", b"true\n", b":\n"]
    ),
    max_size=6,
)


@unhurried
@given(answers)
@example([b"hello\n", b"URSoftware " + b"9" * 5000 + b".1\n", b"x\n", b"y\n"])
def test_a_dashboard_that_says_anything(answering, said: list[bytes]) -> None:
    answering(dashboard.PORT).answers = said
    try:
        with Dashboard(DRIVER_HOST, timeout_s=0.5) as asked:
            version = asked.controller().version
            assert all(isinstance(part, int) for part in version)
            asked.robot_mode(), asked.safety_status(), asked.is_in_remote_control()
    except ConnectionFailed as error:
        assert DRIVER_HOST in str(error)


def test_a_dashboard_whose_line_never_ends(answering) -> None:
    answering(dashboard.PORT).answers = [b"x" * (64 << 20)]
    with pytest.raises(ConnectionFailed, match="longer than"):
        Dashboard(DRIVER_HOST, timeout_s=0.5)


@unhurried
@given(
    st.lists(
        st.sampled_from(["STA", "FLT", "POS", "OBJ"]).flatmap(
            lambda name: st.text(max_size=6).map(lambda value: f"{name} {value}".encode())
        )
        | st.binary(min_size=1, max_size=20),
        max_size=5,
    )
)
@example(["STA ²".encode()])
@example([b"STA --3"])
@example([b"STA 3", b"FLT 0", b"POS 999999", b"OBJ -5"])
def test_a_gripper_that_says_anything(answering, said: list[bytes]) -> None:
    # It is asked first.
    answering(robotiq.PORT).answers = [b"", *said]
    gripper = RobotiqGripper(DRIVER_HOST)
    gripper.connect()
    try:
        reading = gripper.read()
        assert 0.0 <= reading.opening_m <= gripper.stroke_m
    except GripperError as error:
        assert DRIVER_HOST in str(error)
    finally:
        gripper.close()


@unhurried
@given(st.lists(packets | st.binary(max_size=30), max_size=3).map(b"".join))
@example(struct.pack(">HB", 0, 118))
@example(packet(0, b"") * 100)
def test_an_rtde_server_that_says_anything(answering, said: bytes) -> None:
    answering(RTDE).answers = [b"", said]
    begin = time.monotonic()
    try:
        assert len(rtde_version.rtde_version(DRIVER_HOST)) == 4
    except ConnectionFailed as error:
        assert DRIVER_HOST in str(error)
    assert time.monotonic() - begin < 20
