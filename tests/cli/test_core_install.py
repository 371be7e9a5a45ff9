"""Every command in an install without extras: it works, or one line says what to install."""

import json
import os
import subprocess
import sys
from pathlib import Path

import core_install
import pytest

from actquant.capture.policy import convert_f32
from actquant.common.extras import EXTRAS, find_extra

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "exports" / "reference"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, core_install.__file__, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "400"},
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def file(loaded, tmp_path_factory) -> Path:
    return convert_f32(loaded, tmp_path_factory.mktemp("file") / "policy.gguf")


@pytest.fixture
def results(tmp_path) -> list[Path]:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, success in zip(paths, (True, False), strict=True):
        episodes = [
            {"task": "stack", "start": k, "success": success or k < 2, "steps": 9} for k in range(4)
        ]
        rate = {
            "n": 4,
            "successes": 4 if success else 2,
            "success_rate": 1.0 if success else 0.5,
            "wilson95": [0.1, 0.9],
            "mean_steps": 9.0,
            "mean_steps_of_successes": 9.0,
        }
        provenance = {
            **{"actquant_version": "0", "model": path.name, "model_sha256": "0", "env": "ur3e"},
            **{"starts": "0:4", "seed": 0, "steps_per_chunk": 8, "grey_camera": None},
            **{"wrong_colour": False, "jobs": 1, "threads_per_job": 1, "machine": "", "date": ""},
        }
        content = {
            **{"tasks": {"stack": rate}, "overall": rate, "latency_ms": None},
            **{"episodes": episodes, "provenance": provenance},
        }
        path.write_text(json.dumps(content))
    return paths


def test_the_core_is_what_pyproject_says():
    core = core_install.core_distributions()
    assert {"gguf", "numpy", "pillow", "pydantic", "rich", "typer"} < core
    assert not core & {"torch", "scipy", "lerobot", "safetensors", "mujoco"}
    foreign = core_install.CoreOnly().foreign
    assert {"torch", "scipy", "lerobot", "mujoco", "lerobot_robot_ur"} <= foreign
    assert not foreign & {"numpy", "typer", "json"}


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_commands_on_a_file_need_no_extra(command, file, tmp_path):
    options = ["--n", "1"] if command == "bench" else []
    done = run(tmp_path, command, str(file), *options, "--json")
    if command == "verify":  # a file that was not proved has no golden values
        assert done.returncode == 1 and "golden" in done.stdout, done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


def test_compare_plan_and_doctor_need_no_extra(results, tmp_path):
    for words in (["compare", *map(str, results)], ["plan", "--detect", "3"]):
        done = run(tmp_path, *words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
    done = run(tmp_path, "report", *map(str, results))
    assert done.returncode == 1 and "pip install 'actquant[sim]'" in done.stderr
    done = run(tmp_path, "doctor", "--json")
    assert "Traceback" not in done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["native runtime"]["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["compress", "CHECKPOINT", "--recipe", "rtn", "--out", "x.gguf"], "'actquant[compress]'"),
        (["verify", "FILE", "--against", "CHECKPOINT"], "'actquant[compress]'"),
        (["eval", "FILE", "--out", "x.json", "--starts", "0"], "lerobot_env_ur3e"),
        (["eval", "CHECKPOINT", "--out", "x.json", "--starts", "0"], "lerobot_env_ur3e"),
        (["demo", "--out", "demo"], "'actquant[compress]'"),
        (["robot-sim"], "'lerobot_robot_ur[sim]'"),
        (
            [
                *("deploy", "FILE", "--ip", "127.0.0.9", "--task", "x", "--yes"),
                *("--camera", "scene=zmq:127.0.0.9:5555:scene"),
                *("--camera", "wrist=zmq:127.0.0.9:5555:wrist"),
            ],
            "lerobot_robot_ur",
        ),
        (["pull", "some/policy"], "'actquant[hub]'"),
        (["push", "FILE", "some/policy", "--dry-run"], "'actquant[hub]'"),
        (["bench", "some/policy"], "'actquant[hub]'"),
        (["salvage", "set"], "'actquant[record]'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_line_names_what_to_install(arguments, remedy, file, tmp_path):
    (tmp_path / "set.journal").mkdir()
    places = {"CHECKPOINT": str(REFERENCE / "checkpoint"), "FILE": str(file)}
    done = run(tmp_path, *[places.get(word, word) for word in arguments])
    said = done.stderr.strip()
    assert "Traceback" not in said
    if arguments[0] == "verify":
        assert "golden" in said
        return
    if arguments[0] == "salvage" and done.returncode == 0:
        assert "nothing to salvage" in done.stdout
        return
    assert done.returncode == 1, said
    assert f"pip install {remedy}" in said, said
    # A deployment lists everything that policy and robot lack of each other, a line each.
    assert len(said.splitlines()) == 1 or arguments[0] == "deploy"


def test_every_extra_of_the_project_is_in_the_table():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in set(project["optional-dependencies"]) - {"dev"}:
        assert any(f"actquant[{name}]" in extra.install for extra in EXTRAS), name
    assert find_extra("torch.nn") is EXTRAS[0] and find_extra("json") is find_extra(None) is None
