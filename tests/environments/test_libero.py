"""LIBERO in its own process. What needs it is skipped where `make libero` was not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_policies import build_tiny_smolvla
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.common.errors import EvaluationError, SimulatorError
from actquant.environments import libero, libero_process
from actquant.environments.base import open_suite
from actquant.evaluation.result import EvaluationResult
from actquant.policies import load_policy

SUITE, TASK = "libero_object", "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
CAMERAS = ("observation.images.image", "observation.images.image2")
FORWARD = np.array([0.4, 0, -0.3, 0, 0, 0.2, 1], np.float32)
OF_LEROBOT = """
import sys
import numpy as np
sys.path.append(sys.argv[1])  # behind hf-libero, whose name libero.py has too
import libero_process
libero_process.configure()
libero_process.find_assets(sys.argv[2] or None)
from gymnasium.vector import SyncVectorEnv
from lerobot.envs.libero import LiberoEnv, _get_suite
from lerobot.envs.utils import preprocess_observation
from lerobot.processor.env_processor import LiberoProcessorStep
env = SyncVectorEnv([lambda: LiberoEnv(
    _get_suite("libero_object"), 0, "libero_object", obs_type="pixels_agent_pos", episode_index=3
)])
seen, _ = env.reset(seed=[1003])
def show(name):
    found = LiberoProcessorStep().observation(preprocess_observation(seen))
    pictures = {key: value[0].permute(1, 2, 0).numpy() for key, value in found.items()
                if "images" in key}
    np.savez(sys.argv[3] + name, state=found["observation.state"][0].numpy(), **pictures)
show("0")
for _ in range(5):
    seen, *_ = env.step(np.array([[0.4, 0, -0.3, 0, 0, 0.2, 1]], np.float32))
show("5")
"""


@pytest.fixture(scope="module")
def installed() -> Path:
    try:
        python = libero.libero_python()
    except EvaluationError as error:
        pytest.skip(str(error))
    own = Path.home() / ".cache" / "libero" / "assets"
    if libero.assets_folder() is None and not own.is_dir():
        pytest.skip(f"no LIBERO assets: name a folder with {libero.ASSETS}")
    return python


@pytest.fixture(scope="module")
def suite(installed):
    suite = open_suite(SUITE)
    yield suite
    suite.close()


def evaluated(*words: object):
    return CliRunner().invoke(app, ["eval", *map(str, words)])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny policy with random weights and LIBERO's inputs and outputs."""
    folder = tmp_path_factory.mktemp("libero")
    checkpoint = build_tiny_smolvla(folder / "tiny", state_dim=8, chunk=100, cameras=CAMERAS)
    return convert_f32(load_policy(checkpoint, control_rate_hz=20), folder / "tiny.gguf")


def test_without_it_one_line_says_what_to_run(model, tmp_path, monkeypatch):
    monkeypatch.setenv(libero.VENV, str(tmp_path / "nothing"))
    done = evaluated(model, "--env", SUITE, "--out", tmp_path / "r.json")
    assert done.exit_code == 1 and "Traceback" not in done.output
    said = " ".join(done.output.split())
    assert "LIBERO is not installed" in said and said.endswith("run `make libero`")


def test_an_environment_without_libero_says_what_it_lacks(monkeypatch):
    monkeypatch.setenv(libero.VENV, sys.prefix)
    with pytest.raises(EvaluationError, match="has no hf-libero; run `make libero`"):
        open_suite(SUITE)


def test_assets_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(libero.ASSETS, str(tmp_path / "nowhere"))
    with pytest.raises(EvaluationError, match=f"{libero.ASSETS}=.*nowhere: there is no such"):
        libero.assets_folder()
    monkeypatch.setenv(libero.ASSETS, str(tmp_path))
    assert libero.assets_folder() == tmp_path
    monkeypatch.setenv(libero.ASSETS, "hub")
    assert libero.assets_folder() is None


def test_the_digest_of_assets_is_of_their_names_and_contents(tmp_path):
    (tmp_path / "a.xml").write_text("1234")
    before = libero_process.digest(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "of_the_hub").write_text("metadata")
    assert libero_process.digest(tmp_path) == before
    (tmp_path / "b.xml").write_text("5")
    assert libero_process.digest(tmp_path) != before
    (tmp_path / "b.xml").unlink()
    (tmp_path / "a.xml").write_text("1235")
    assert libero_process.digest(tmp_path) != before


def test_what_there_is(suite):
    assert len(suite.tasks) == 10 and suite.tasks[0] == TASK
    about = suite.about
    assert (about.starts, about.published_starts, about.one_task_at_a_time) == (50, "0:50", True)
    assert about.conventions["most steps"] == "280"
    assert about.versions["mujoco"] == "3.3.2" and about.versions["hf-libero"] == "0.1.4"
    given = libero.assets_folder()
    fetched = given is None or (given / ".cache" / "huggingface" / "download").is_dir()
    assert about.marks == (() if fetched else (libero.STAND_IN_VISUALS,))
    first = "pick up the alphabet soup and place it in the basket"
    assert suite.mislead(first) == "pick up the cream cheese and place it in the basket"
    with pytest.raises(EvaluationError, match="'libero_object' has no task 'fly'; it has"):
        suite.environment("fly")


def test_an_environment_is_lerobots_and_does_not_depend_on_who_looks(suite, installed, tmp_path):
    environment = suite.environment(TASK)
    assert environment is suite.environment(TASK)
    begun = environment.reset(3)
    assert begun["task"] == "pick up the alphabet soup and place it in the basket"
    for _ in range(4):
        unseen = environment.step(FORWARD, look=False)
        assert unseen.observation is None and not unseen.done and not unseen.success
    ended = environment.step(FORWARD).observation
    picture = environment.render()
    assert picture.shape == (256, 256, 3) and picture.std() > 10

    folder = Path(libero_process.__file__).parent
    words = [str(folder), str(libero.assets_folder() or ""), f"{tmp_path}/"]
    done = subprocess.run(
        [installed, "-P", "-c", OF_LEROBOT, *words],
        env={**libero.SETTINGS, **os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name, ours in (("0", begun), ("5", ended)):
        theirs = np.load(tmp_path / f"{name}.npz")
        np.testing.assert_array_equal(ours["observation.state"], theirs["state"])
        for camera in CAMERAS:
            assert ours[camera].dtype == np.uint8 and ours[camera].std() > 10
            np.testing.assert_array_equal(ours[camera], np.rint(theirs[camera] * 255))


def test_a_hold_moves_nothing_and_leaves_the_gripper(suite):
    environment = suite.environment(TASK)
    environment.reset(3)
    for _ in range(3):
        environment.step(FORWARD, look=False)  # with the gripper closing
    seen = [environment.step(environment.hold(FORWARD)).observation for _ in range(15)]
    hands = [each["observation.state"][:3] for each in seen]
    fingers = [each["observation.state"][6] for each in seen]
    assert np.linalg.norm(hands[-1] - hands[9]) < 2e-3  # m, in a quarter of a second
    assert fingers[-1] < 0.5 * fingers[0]
    assert suite.about.control_rate_hz == 20


def test_what_goes_wrong_is_the_simulators(installed):
    suite = open_suite(SUITE)
    with pytest.raises(SimulatorError, match="AttributeError"):
        suite._process.ask("dance")
    suite._process._process.kill()
    with pytest.raises(SimulatorError, match="LIBERO's process has ended with -9"):
        suite.environment(TASK)
    suite.close()


def test_nothing_of_the_users_is_touched(suite, installed):
    config = installed.parents[1] / "libero-config" / "config.yaml"
    assert json.loads(config.read_text()).keys() >= {"assets", "bddl_files", "init_states"}
    assert not (Path.home() / ".libero").exists()


def test_a_policy_is_evaluated(model, installed, tmp_path):
    out = tmp_path / "r.json"
    words = ("--env", SUITE, "--tasks", TASK, "--starts", "7", "--jobs", 1)
    done = evaluated(model, *words, "--out", out)
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(out)
    assert [(e.task, e.start, e.steps) for e in result.episodes] == [(TASK, 7, 280)]
    assert result.latency_ms is not None and result.latency_ms.n == 3
    of = result.provenance
    assert of.environment["seed of the fixtures"].startswith("1000 + start")
    assert of.versions["robosuite"] == "1.4.0"
    assert all(mark in " ".join(done.output.split()) for mark in of.marks)
