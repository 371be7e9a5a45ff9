"""The embedded reference policy computed by Vulkan, by every face of the runtime."""

import json
import os
import subprocess
import sys
from pathlib import Path

import actquant_runtime
import numpy as np
import pytest
from actquant_runtime import Runtime, golden_observation

from actquant.compression.pipeline import compress

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "exports/reference/checkpoint"
RECIPES = {"f16": None, "rtn": 3.0}
"""Recipe -> bits per weight."""


@pytest.fixture(scope="module", params=RECIPES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "policy.gguf"
    compress(CHECKPOINT, path, recipe=request.param, bpw=RECIPES[request.param], control_rate_hz=10)
    return path


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a tool as a user does, with products in f16 where the device has them."""
    command = [Path(actquant_runtime.__file__).parents[1] / "bin" / name, *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "GGML_VK_DISABLE_F16"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def actquant(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actquant.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_passes_its_self_test(file: Path):
    runtime = Runtime(file, device="vulkan")
    assert runtime.self_test()["passed"]
    assert runtime.describe()["operators_on_cpu"] == []


def test_the_same_call_gives_the_same_actions(file: Path):
    runtime = Runtime(file, device="vulkan")
    observation, noise = golden_observation(runtime.describe(), seed=3, prompt="push the red cube")
    first = runtime.act(observation, noise=noise)
    longer = {**observation, "task": "put the red cube into the bowl, and then the blue one"}
    other = runtime.act(longer, noise=noise)
    np.testing.assert_array_equal(runtime.act(observation, noise=noise), first)
    assert not np.array_equal(other, first)


def test_its_weights_are_in_the_devices_memory(file: Path):
    here, there = (Runtime(file, device=d).describe()["memory"] for d in ("cpu", "vulkan"))
    assert here["device_bytes"] == 0
    assert there["device_bytes"] > here["weights_bytes"] > 10 * there["weights_bytes"]
    assert there["tables_bytes"] == here["tables_bytes"]


def test_the_tools_and_commands_take_the_device(file: Path):
    tested = tool("actquant-run", file, "--golden", "--json", "--device", "vulkan")
    assert json.loads(tested.stdout)["passed"], tested.stderr
    timed = tool("actquant-bench", file, "--runs", 1, "--warmup", 0, "--json", "--device=vulkan")
    assert json.loads(timed.stdout)["device"] == "vulkan0", timed.stderr
    verified = actquant("verify", file, "--json", "--device", "vulkan")
    assert json.loads(verified.stdout)["passed"], verified.stderr
    timed = actquant("bench", file, "--n", 1, "--json", "--device", "vulkan0")
    assert json.loads(timed.stdout)["device"] == "vulkan0", timed.stderr


def test_what_is_not_there_is_told_with_what_is(file: Path):
    with pytest.raises(actquant_runtime.ArgumentError) as told:
        Runtime(file, device="cuda")
    assert "'cuda' (this build does without CUDA: -DACTQUANT_CUDA=ON)" in str(told.value)
    assert "there are: cpu, vulkan0 (" in str(told.value)
    with pytest.raises(actquant_runtime.ArgumentError, match="no device 'vulkan7'; there are: cpu"):
        Runtime(file, device="vulkan7")


def test_operators_are_profiled_on_the_processor_alone(file: Path):
    runtime = Runtime(file, device="vulkan")
    observation, _ = golden_observation(runtime.describe(), seed=3)
    with pytest.raises(actquant_runtime.ArgumentError, match="not on vulkan0"):
        runtime.profile(observation)


def test_a_forked_process_is_told_to_open_it_again(file: Path):
    runtime = Runtime(file, device="vulkan")
    observation, noise = golden_observation(runtime.describe(), seed=3)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            runtime.act(observation, noise=noise)
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        assert "which opened this policy on vulkan0; open it here" in told.read()
