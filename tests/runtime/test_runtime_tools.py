"""actquant-run and actquant-bench against the Python face."""

import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import Runtime, golden_observation
from native_build import newest_build
from PIL import Image
from policy_files import ACTION_DIM, CHUNK, noise, observation, write_policy

from actquant.fidelity.self_test import verify


def find_tool(name: str) -> Path:
    return newest_build(f"runtime/tools/{name}", Path(sysconfig.get_path("scripts"), name))


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [find_tool(tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def answer(tool: str, *arguments: object):
    done = run(tool, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def golden_policy(path: Path, shift: float = 0.0, **keys) -> Path:
    """A policy with two golden cases, whose stored actions are `shift` away from its answers."""
    plain = Runtime(write_policy(path, keys=keys), threads=1)
    cases = []
    for seed, masked in ((3, []), (4, ["observation.images.wrist"])):
        case = {"seed": seed, "prompt": "push the cube", "masked_cameras": masked}
        inputs, start = golden_observation(plain.describe(), **case)
        actions = plain.act(inputs, noise=start) + np.float32(shift)
        reference = actions + np.float32(0.1)
        cases.append({**case, "actions": actions.tolist(), "actions_reference": reference.tolist()})
    return write_policy(path, keys={**keys, "actquant.golden": ("string", json.dumps(cases))})


@pytest.fixture
def files(tmp_path):
    """A policy, its runtime, an observation, and the options that say the same."""
    path = write_policy(tmp_path / "tiny.gguf")
    frame = observation()
    options = ["--text", frame["task"]]
    options += ["--state", ",".join(str(float(x)) for x in frame["observation.state"])]
    for camera in ("scene", "wrist"):
        image = tmp_path / f"{camera}.png"
        Image.fromarray(frame[f"observation.images.{camera}"]).save(image)
        options += ["--image", f"{camera}={image}"]
    return path, Runtime(path, threads=1), frame, options


def test_actions_are_those_of_the_python_face(files, tmp_path):
    path, runtime, frame, options = files
    np.save(tmp_path / "noise.npy", noise())
    for given, start in ((["--seed", 7], {"seed": 7}), (["--noise", tmp_path / "noise.npy"], None)):
        result = answer("actquant-run", path, *options, *given, "--threads", 1)
        wanted = runtime.act(frame, **(start or {"noise": noise()}))
        np.testing.assert_array_equal(np.float32(result["actions"]), wanted)
    assert result["action_names"] == ["x_m", "y_m"]
    assert result["control_rate_hz"] == 10 and result["steps_per_chunk"] == CHUNK
    assert result["timings_ms"]["total"] > 0


def test_a_camera_may_be_absent_and_named_in_full(files, tmp_path):
    path, runtime, frame, options = files
    wrist = f"observation.images.{options[-1]}"
    result = answer("actquant-run", path, *options[:4], "--image", wrist, "--seed=7")
    runtime_frame = {k: v for k, v in frame.items() if k != "observation.images.scene"}
    wanted = runtime.act(runtime_frame, seed=7)
    np.testing.assert_allclose(np.float32(result["actions"]), wanted, rtol=1e-5)


def test_a_chunk_is_printed_as_a_table(files):
    path, runtime, frame, options = files
    lines = run("actquant-run", path, *options, "--seed", 7).stdout.splitlines()
    assert lines[0].split() == ["step", "x_m", "y_m"]
    rows = np.array([line.split() for line in lines[1 : 1 + CHUNK]], float)
    assert rows.shape == (CHUNK, 1 + ACTION_DIM)
    np.testing.assert_allclose(rows[:, 1:], runtime.act(frame, seed=7), rtol=1e-4, atol=1e-5)
    assert "3 actions at 10 Hz" in lines[-1]


def test_golden_cases_are_those_of_the_python_face(tmp_path):
    steps = {"actquant.image.source_height": ("uint32", 13)}
    steps["actquant.image.source_width"] = ("uint32", 17)
    resize = "resize height=6 width=12 filter=bilinear antialias=1 round=0"
    steps["actquant.image.steps"] = ("array", [resize])
    path = golden_policy(tmp_path / "golden.gguf", **steps)
    result = answer("actquant-run", path, "--golden", "--threads", 1)
    wanted = Runtime(path, threads=1).self_test()
    assert result["passed"] and wanted["passed"]
    assert result.keys() == wanted.keys() and result["inputs"] == 2
    for key, value in wanted.items():
        assert result[key] == pytest.approx(value, abs=1e-6)
    assert "passed" in run("actquant-run", path, "--golden").stdout


def test_golden_fails_where_the_actions_are_others(tmp_path):
    path = golden_policy(tmp_path / "golden.gguf", shift=0.5)
    done = run("actquant-run", path, "--golden")
    assert done.returncode == 1 and "FAILED" in done.stdout


@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False)])
def test_verify_and_the_tool_judge_alike_on_both_sides_of_the_limit(share, passes, tmp_path):
    plain = Runtime(golden_policy(tmp_path / "plain.gguf"), threads=1)
    limit = plain.self_test()["limit"]
    # Golden values of a policy with one deviation for all actions are off by this share of it.
    deviation = min(plain.describe()["action"]["std"])
    keys = {"actquant.action.std": ("array", [deviation] * ACTION_DIM)}
    path = golden_policy(tmp_path / "off.gguf", shift=share * limit * deviation, **keys)
    assert run("actquant-run", path, "--golden", "--threads", 1).returncode == (0 if passes else 1)
    report = verify(path)
    assert report.passed == passes and report.checks[0].distance.limit == limit
    assert report.checks[0].distance.worst == pytest.approx(share * limit, rel=0.05)


def test_bench_measures_load_latency_and_memory(tmp_path):
    path = golden_policy(tmp_path / "golden.gguf")
    result = answer("actquant-bench", path, "--runs", 5, "--threads", 1)
    assert result["runs"] == 5 and result["threads"] == 1 and result["load_ms"] > 0
    for stage in ("vision", "prefix", "denoise", "total"):
        latency = result["latency_ms"][stage]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert result["latency_ms"]["total"]["max"] >= result["latency_ms"]["denoise"]["max"]
    assert 1 < result["peak_memory_mib"] < 4096
    assert "peak memory" in run("actquant-bench", path, "--runs", 1).stdout


def test_bench_says_where_the_time_goes(tmp_path):
    path = golden_policy(tmp_path / "golden.gguf")
    options = ("--runs", 1, "--threads", 1, "--operators")
    profile = answer("actquant-bench", path, *options)["profile"]
    assert {cost["stage"] for cost in profile["stages"]} == {"vision", "prefix", "denoise"}
    for stage in profile["stages"]:
        own = [cost for cost in profile["operators"] if cost["stage"] == stage["stage"]]
        assert sum(cost["ms"] for cost in own) == pytest.approx(stage["ms"])
        assert sum(cost["least_ms"] for cost in own) == pytest.approx(stage["least_ms"])
    printed = run("actquant-bench", path, *options).stdout
    assert "of reach" in printed and "vision" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--state is given 0 times; the policy takes it 1 times: a_rad, b_rad, c_m"),
        (["--state", "1,2"], "--state has 2 numbers; expected 3: a_rad, b_rad, c_m"),
        (["--state", "1,x,3"], "no list of numbers"),
        (["--state", "1,2,3"], "--text is missing"),
        (["--image", "front=a.png"], "no camera 'front'; there are observation.images.scene"),
        (["--image", "scene"], "is no CAMERA=FILE"),
        (["--image", "scene=absent.png"], "'absent.png' cannot be read"),
        (["--state", "1,2,3", "--text", "a", "--seed", "x"], "--seed x is no whole number"),
        (["--state", "1,2,3", "--text", "a", "--noise", "absent.npy"], "expected a .npy file"),
        (["--threads", "-1"], "--threads -1 is no whole number from 0"),
        (["--speed", "1"], "no option '--speed'"),
        (["--text"], "--text needs a value"),
        (["other.gguf"], "two models"),
    ],
)
def test_a_wrong_command_line_is_explained(files, arguments, message):
    done = run("actquant-run", files[0], *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_noise_of_another_shape_is_refused(files, tmp_path):
    path, _, _, options = files
    np.save(tmp_path / "noise.npy", np.zeros((2, 2), np.float32))
    done = run("actquant-run", path, *options, "--noise", tmp_path / "noise.npy")
    assert done.returncode == 2 and "--noise is [2,2]; the policy takes [3,4]" in done.stderr
    np.save(tmp_path / "noise.npy", np.zeros((3, 4)))
    done = run("actquant-run", path, *options, "--noise", tmp_path / "noise.npy")
    assert done.returncode == 2 and "another type" in done.stderr


def test_failures_of_the_policy_are_explained(files, tmp_path):
    path, _, _, options = files
    assert run("actquant-run").returncode == 2
    assert "actquant-run MODEL" in run("actquant-run", "--help").stdout
    done = run("actquant-run", tmp_path / "absent.gguf", *options)
    assert done.returncode == 1 and "absent.gguf" in done.stderr
    done = run("actquant-run", path, *options[:4], "--seed", 1)
    assert done.returncode == 1 and "observation.images" in done.stderr
    done = run("actquant-run", path, "--golden")
    assert done.returncode == 1 and "no golden values" in done.stderr
