"""`actquant robot-sim` in a process of its own: what it says, that it serves, how it ends."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from actquant.common.errors import DeployError, UsageError
from actquant.deploy.robot_sim import SimSettings, run

HOST, CONTROL_PORT = "127.0.0.80", 30099
COMMAND = [sys.executable, "-m", "actquant.cli", "robot-sim", "--host", HOST]


@pytest.fixture(scope="module")
def simulation() -> Iterator[subprocess.Popen[str]]:
    words = [*COMMAND, "--task", "stack", "--start", "3"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


def test_it_serves_says_how_to_connect_and_ends_with_ctrl_c(
    simulation: subprocess.Popen[str],
) -> None:
    assert simulation.stdout is not None
    said = simulation.stdout.readline() + simulation.stdout.readline()
    assert "start 3 of stack" in said
    assert f"deploy MODEL.gguf --robot ur3e --ip {HOST} --task 'stack the" in said
    assert f"--camera wrist=zmq:{HOST}:5555:wrist" in said
    with socket.create_connection((HOST, CONTROL_PORT), timeout=30) as connection:
        connection.sendall(b'{"do": "state"}\n')
        state = json.loads(connection.makefile().readline())["result"]
    assert (state["task"], state["start"]) == ("stack", 3)
    with pytest.raises(DeployError, match=f"taken on {HOST}; choose another --host"):
        run(SimSettings(host=HOST))
    simulation.send_signal(signal.SIGINT)
    rest = simulation.stdout.read()
    assert simulation.wait(30) == 0 and "Traceback" not in rest


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        run(SimSettings(host="10.0.0.1", model="ur9", task="juggle", start=-1))
    text = str(caught.value)
    for part in ("ur9", "ur3e, ur5e", "juggle", "pick_cube", "--start -1", "10.0.0.1"):
        assert part in text
