"""A robot's computer: an environment with what `actquant` and the driver require, and no more."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

import actquant_runtime
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stage import CAMERAS, HOST
from ur_fake_controller import FakeController

import actquant

ROOT = Path(__file__).parents[2]
PROJECTS = {"lerobot-robot-ur": "robot", "ur-motion": "motion"}
"""Distributions that are built from folders of this repository."""

# A busy machine is late.
PATIENT = ("max_state_age_s=5", "max_camera_age_s=5", "stop_after_s=10", "max_heartbeat_age_s=10")


class Environment:
    """A virtual environment and what runs in it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        [self.packages] = (folder / "lib").glob("python*/site-packages")

    def run(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "HOME": str(cwd), "COLUMNS": "400"},
            check=False,
            timeout=300,
        )


def install_project(folder: str, packages: Path, scratch: Path) -> list[Requirement]:
    """Builds and installs one of our own pure distributions; returns what it requires."""
    # Beside its sources setuptools would leave its build.
    source = Path(shutil.copytree(ROOT / folder, scratch / folder))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, source]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([*command, *offline], check=True, timeout=300)
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    (metadata,) = importlib.metadata.distributions(name=project["name"], path=[str(packages)])
    return [Requirement(text) for text in metadata.requires or ()]


def copy_distribution(name: str, packages: Path) -> list[Requirement]:
    """Copies a distribution of this environment; returns what it requires."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        if ".." in file.parts or file.suffix == ".pyc":  # commands, and what Python makes itself
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(distribution.locate_file(file)), target)
    return [Requirement(text) for text in distribution.requires or ()]


def install(wanted: Iterable[Requirement], packages: Path, scratch: Path) -> set[str]:
    """Installs what is wanted and all that it requires, as pip would, in the versions that this
    environment has. Returns the names."""
    requirements: dict[str, list[Requirement]] = {}
    queue, done = list(wanted), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name not in requirements:
            project = PROJECTS.get(name)
            requirements[name] = (
                install_project(project, packages, scratch)
                if project
                else copy_distribution(name, packages)
            )
        for extra in ("", *requirement.extras):
            if (name, extra) not in done:
                done.add((name, extra))
                queue += [
                    each
                    for each in requirements[name]
                    if each.marker is None or each.marker.evaluate({"extra": extra})
                ]
    return set(requirements)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, set[str]]:
    scratch = tmp_path_factory.mktemp("robot-pc")
    environment = Environment(scratch / "venv")
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = [Requirement(text) for text in (*core, "lerobot_robot_ur[zmq]")]
    names = install(wanted, environment.packages, scratch)
    # The native module is the one of this environment: compiling it again takes minutes.
    for package in (actquant, actquant_runtime):
        for folder in package.__path__:
            if (Path(folder) / "__init__.py").exists():
                shutil.copytree(folder, environment.packages / package.__name__)
    native = Path(actquant_runtime._core.__file__ or "")
    shutil.copy2(native, environment.packages / "actquant_runtime")
    return environment, names


@pytest.fixture(scope="module")
def environment(installed: tuple[Environment, set[str]]) -> Environment:
    return installed[0]


ABSENT = """
import importlib.util, sys
import lerobot_robot_ur, lerobot_robot_ur.robot, lerobot_robot_ur.cameras.zmq_camera
import actquant.deploy.session
there = [name for name in ("torch", "lerobot", "mujoco", "cv2", "scipy", "transformers")
         if importlib.util.find_spec(name) is not None]
sys.exit(f"there are {there}" if there else 0)
"""


def test_neither_pytorch_nor_lerobot_is_there(
    installed: tuple[Environment, set[str]], tmp_path: Path
) -> None:
    environment, names = installed
    assert {"numpy", "ur-rtde", "ruckig", "pyzmq", "pillow", "pydantic"} < names
    assert not names & {"torch", "lerobot", "mujoco", "opencv-python-headless", "lerobot-env-ur3e"}
    done = environment.run("-c", ABSENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("torch", "lerobot"):
        done = environment.run("-c", f"import {name}", cwd=tmp_path)
        assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


def test_it_is_as_small_as_the_documentation_says(environment: Environment) -> None:
    files = [path for path in environment.packages.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files if path.suffix != ".pyc") / 2**20
    said = re.search(r"With `zmq` that is (\d+) MB", (ROOT / "docs" / "deploy.md").read_text())
    assert said is not None and size_mb == pytest.approx(float(said[1]), rel=0.15)


def deploy(
    environment: Environment, model: Path, folder: Path, *more: str, cameras: Iterable[str]
) -> subprocess.CompletedProcess[str]:
    words = ["--ip", HOST, "--task", "pick up the cube", "--yes", "--activate-gripper", "--json"]
    words += ["--speed", "1", "--max-seconds", "2", "--seed", "0", "--log", str(folder / "log")]
    for camera in cameras:
        words += ["--camera", f"{camera}?first_picture_s=60"]
    for limit in PATIENT:
        words += ["--limit", limit]
    return environment.run("-m", "actquant.cli", "deploy", model, *words, *more, cwd=folder)


def test_a_policy_moves_the_arm(
    environment: Environment, model: Path, controller: FakeController, tmp_path: Path
) -> None:
    controller.reset()
    before = np.array(controller.state()["joints"])
    done = deploy(environment, model, tmp_path, cameras=CAMERAS)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    (episode,) = report["episodes"]
    assert episode["ending"]["kind"] == "time limit" and episode["actions"] >= 1
    assert np.abs(np.array(controller.state()["joints"]) - before).max() > 0.01
    pictures = [row for row in report["preflight"] if row["what"].startswith("observation.images")]
    assert len(pictures) == len(CAMERAS) and all("ms old" in row["value"] for row in pictures)


@pytest.mark.parametrize(
    ("more", "camera", "remedy"),
    [
        (["--record", "set"], CAMERAS[0], "pip install 'actquant[record]'"),
        ([], "scene=opencv:/dev/video0", "pip install 'lerobot_robot_ur[opencv]'"),
        ([], "scene=realsense:0123", "pip install 'lerobot_robot_ur[realsense]'"),
    ],
    ids=["record", "opencv", "realsense"],  # two workers have two addresses
)
def test_what_is_lacking_is_told_before_the_arm_is_touched(
    environment: Environment,
    model: Path,
    tmp_path: Path,
    more: list[str],
    camera: str,
    remedy: str,
) -> None:
    done = deploy(environment, model, tmp_path, *more, cameras=[camera])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert remedy in done.stdout + done.stderr
    assert not (tmp_path / "log").exists() and not (tmp_path / "set").exists()
