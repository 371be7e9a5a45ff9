"""`actquant ros`: what is wrong is said in a line, with an exit code, before anything moves."""

import importlib.util
import socket

import pytest
from typer.testing import CliRunner

from actquant.cli import app

SCENE, WRIST = "observation.images.scene", "observation.images.wrist"
URL = ["--url", "ws://127.0.0.1:1"]
GOOD = ["--camera", f"{SCENE}=/scene", "--camera", f"{WRIST}=/wrist", "--task", "push"]


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--task", "push"], [f"add --camera {SCENE}=TOPIC"]),
        ([*GOOD, "--camera", "front=/front"], ["--camera front: the policy has no such camera"]),
        ([*GOOD, "--task-topic", "/t"], ["by --task, or by --task-topic, not both"]),
        ([*GOOD, "--joint", "wrist=w"], ["--joint wrist", "lift.pos, turn.pos, grip.pos"]),
        ([*GOOD, "--max-jump", "0"], ["--max-jump 0: wanted VALUE"]),
        ([*GOOD, "--max-jump", "lift=x"], ["--max-jump lift=x: wanted VALUE"]),
        ([*GOOD, "--max-jump", "hand=1"], ["does not move hand; it moves lift, grip"]),
        ([*GOOD, "--trajectory", "/x=lift"], ["no topic is for grip"]),
        ([*GOOD, "--mode", "rtc"], ["rtc"]),
        ([*GOOD, "--ahead", "nan"], ["no finite number"]),
    ],
)
def test_a_wrong_command_line(model, words, parts):
    result = CliRunner().invoke(app, ["ros", str(model), *URL, *words])
    assert result.exit_code == 2, result.output
    assert all(part in " ".join(result.output.split()) for part in parts), result.output


def test_a_bridge_that_is_not_there(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    for wrong, words in ((url, f"no rosbridge at {url}"), ("nonsense", "is no address")):
        result = CliRunner().invoke(app, ["ros", str(model), "--url", wrong, *GOOD])
        assert result.exit_code == 1, result.output
        assert words in " ".join(result.output.split())


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="ROS 2 is here")
def test_where_ros_is_not_installed_it_says_what_to_do(model):
    result = CliRunner().invoke(app, ["ros", str(model), *GOOD])
    assert result.exit_code == 1
    assert "source ROS 2" in result.output and "--url" in result.output


def test_what_is_no_policy(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    for given, code in ((broken, 1), ("ws://127.0.0.1:1/x", 1), (tmp_path / "none.gguf", 2)):
        result = CliRunner().invoke(app, ["ros", str(given), *URL, *GOOD])
        assert (result.exit_code, result.exception.__class__) == (code, SystemExit), result.output
