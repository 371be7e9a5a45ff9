"""What a policy is computed on, where a build knows the processor alone; else see tests/gpu."""

import subprocess
import sys
from pathlib import Path

import actquant_runtime
import numpy as np
import pytest
from actquant_runtime import Runtime
from policy_files import noise, observation, write_policy
from test_runtime_tools import run

NO_VULKAN = (
    "there is no device 'vulkan' (this build does without Vulkan: -DACTQUANT_VULKAN=ON); there "
    "are: cpu, and auto"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("device") / "tiny.gguf")


def test_the_processor_is_what_there_is(file: Path):
    assert actquant_runtime.build_info()["devices"] == ["cpu"]
    found = [Runtime(file, 1, device).act(observation(), noise()) for device in ("cpu", "auto")]
    np.testing.assert_array_equal(*found)
    about = Runtime(file, device="auto").describe()
    assert about["device"] == "cpu" and about["operators_on_cpu"] == []
    assert about["memory"]["device_bytes"] == 0


def test_a_device_that_is_not_there_is_told_with_what_is(file: Path):
    with pytest.raises(actquant_runtime.ArgumentError) as told:
        Runtime(file, device="vulkan")
    assert str(told.value) == NO_VULKAN
    with pytest.raises(actquant_runtime.ArgumentError, match="no device 'tpu'; there are: cpu"):
        Runtime(file, device="tpu")


@pytest.mark.parametrize("tool", ["actquant-run", "actquant-bench"])
def test_the_tools_say_the_same(file: Path, tool: str):
    done = run(tool, file, "--device", "vulkan")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{tool}: {NO_VULKAN}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "FILE"],
        ["bench", "FILE"],
        ["eval", "FILE", "--out", "OUT"],
        ["serve", "FILE", "--port", "0"],
        ["deploy", "FILE", "--robot", "ur", "--ip", "127.0.0.1", "--task", "push", "--yes"],
    ],
    ids=lambda command: command[0],
)
def test_the_commands_say_the_same(file: Path, tmp_path: Path, command: list[str]):
    places = {"FILE": str(file), "OUT": str(tmp_path / "out.json")}
    words = [places.get(word, word) for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "actquant.cli", *words, "--device", "vulkan"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    told = " ".join(done.stderr.replace("│", " ").split())
    assert f"Invalid value for '--device': {NO_VULKAN}" in told
