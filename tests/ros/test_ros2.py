"""A policy in ROS 2 itself: its client library, its middleware, each program in its own process.

`make ros` installs both. With the source of rosbridge_suite (branch ros2) at $ROSBRIDGE_SUITE the
same goes through its server.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actquant_runtime import Runtime
from policy_files import HEIGHT, WIDTH

from actquant.ros.messages import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY, STRING

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-ros" / "bin" / "python"
SUITE = os.environ.get("ROSBRIDGE_SUITE", "")
SCENE, WRIST = "observation.images.scene", "observation.images.wrist"
ARM, STATUS = "/joint_trajectory_controller/joint_trajectory", "/actquant/status"
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
POSITIONS = {"turn": -0.2, "lift": 0.1, "grip": 0.3}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make ros` installs ROS 2")


class Program:
    """A process whose lines are kept as they come."""

    def __init__(self, words: list[Any], environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            [str(word) for word in words], text=True, env=os.environ | environment, **pipes
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def wait_for(self, text: str) -> None:
        until(lambda: any(text in line for line in self.lines), lambda: f"{text}: {self.lines}")

    def end(self) -> int:
        """Waits for the end; kills what does not come to it."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._thread.join()
        return self.process.wait()


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    domain = 1 + os.getpid() % 100
    return {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@pytest.fixture
def robot(environment: dict[str, str]) -> Iterator[Program]:
    heard = [f"{ARM}={JOINT_TRAJECTORY}", f"{STATUS}={STRING}"]
    program = Program([PYTHON, HERE / "robot.py", *heard], environment)
    program.wait_for("ready")
    yield program
    assert program.end() == 0, program.lines


@pytest.fixture(params=["node", "rosbridge_suite"])
def link(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[list[str]]:
    """How the policy reaches ROS: options of the command."""
    if request.param == "node":
        yield []
        return
    if not SUITE:
        pytest.skip("there is no source of rosbridge_suite at $ROSBRIDGE_SUITE")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Program([PYTHON, HERE / "suite.py", SUITE, port], environment)
    try:
        server.wait_for("server started")
        yield ["--url", f"ws://127.0.0.1:{port}"]
    finally:
        server.process.kill()
        server.end()


def picture(kind: str = IMAGE) -> dict[str, Any]:
    data = base64.b64encode(PICTURE.tobytes()).decode()
    fields: dict[str, Any] = {"header": {"stamp": "now"}, "data": data}
    if kind == IMAGE:
        fields |= {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "step": 3 * WIDTH}
    return {"type": kind, "fields": fields}


def joints() -> dict[str, Any]:
    fields = {"name": list(POSITIONS), "position": list(POSITIONS.values())}
    return {"type": JOINT_STATE, "fields": {"header": {"stamp": "now"}, **fields}}


ALL = {"/scene": picture(), "/wrist": picture(), "/joint_states": joints()}


def heard(robot: Program, topic: str) -> list[dict[str, Any]]:
    messages = [json.loads(line) for line in robot.lines if line.startswith('{"topic"')]
    return [m["message"] for m in messages if m["topic"] == topic]


def test_a_policy_acts_in_ros(model, robot, link, environment):
    python = sys.executable if link else PYTHON
    words = [python, "-m", "actquant.cli", "ros", model, *link, "--task", "push the red cube"]
    words += ["--camera", f"{SCENE}=/scene", "--camera", f"{WRIST}=/wrist"]
    if not link:  # rosbridge_suite takes no subscription to a topic of another type
        robot.tell({**ALL, "/wrist": picture(COMPRESSED_IMAGE)})
    policy = Program(words, environment)
    try:
        carried = f"/wrist: no {IMAGE} yet"
        policy.wait_for(carried if link else f"{carried} (it carries {COMPRESSED_IMAGE})")
        assert not heard(robot, ARM)

        robot.tell(ALL)
        until(lambda: len(heard(robot, ARM)) > 2, lambda: f"{policy.lines} {robot.lines}")

        robot.tell({"/joint_states": joints()})
        policy.wait_for("/scene: nothing new for more than 0.5 s; /wrist: nothing new")
        count = len(heard(robot, ARM))
        time.sleep(0.5)
        assert len(heard(robot, ARM)) == count, "nothing is published on old pictures"

        robot.tell(ALL)
        until(lambda: len(heard(robot, ARM)) > count, lambda: f"{policy.lines}")
    finally:
        policy.process.send_signal(signal.SIGINT)
        status = policy.end()
    assert status == 130, policy.lines
    until(
        lambda: heard(robot, STATUS)[-1:] == [{"data": "ended: SIGINT"}], lambda: f"{robot.lines}"
    )

    first = heard(robot, ARM)[0]
    state = np.array([POSITIONS[name] for name in ("lift", "turn", "grip")], np.float32)
    seen = {SCENE: PICTURE, WRIST: PICTURE, "task": "push the red cube"}
    actions = Runtime(str(model)).act({**seen, "observation.state": state})
    assert first["joint_names"] == ["lift", "grip"]
    np.testing.assert_allclose([p["positions"] for p in first["points"]], actions, atol=1e-5)
    due = [p["time_from_start"] for p in first["points"]]
    assert due == [{"sec": 0, "nanosec": n * 100_000_000} for n in (1, 2, 3)]
    assert first["header"] == {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
