"""Datasets, worlds and arms as people have them, from public threads: each works, or one line says
what to do.

A test names its threads by repository and number.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.dashboard import stop_program
from lerobot_robot_ur.errors import ConnectionFailed
from rtde_control import RTDEControlInterface
from toy_policy import CAMERAS, make_dataset, make_toy
from typer.testing import CliRunner
from ur_fake_controller import FakeController

from actquant.calibration.dataset import load_for_dataset, read_dataset_info
from actquant.calibration.frames import calibrate
from actquant.cli import app
from actquant.common.errors import DatasetError, EvaluationError
from actquant.common.renames import propose
from actquant.control.policy import PolicyDescription
from actquant.deploy.cameras import parse_cameras
from actquant.deploy.robot import _camera_problems
from actquant.environments.base import Step
from actquant.evaluation.rollout import run_episode

SCENE, WRIST = CAMERAS
STATE = "observation.state"


def edit_info(folder: Path, change: Callable[[Any], Any]) -> Path:
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    return folder


def rename_feature(folder: Path, old: str, new: str) -> None:
    """In all files of a dataset with pictures in its tables."""

    def rename(info: Any) -> None:
        info["features"] = {new if k == old else k: v for k, v in info["features"].items()}

    edit_info(folder, rename)
    for file in folder.glob("data/*/*.parquet"):
        table = pyarrow.parquet.read_table(file)
        names = [new if name == old else name for name in table.column_names]
        metadata = {
            key: value.replace(f'"{old}"'.encode(), f'"{new}"'.encode())
            for key, value in (table.schema.metadata or {}).items()
        }
        renamed = table.rename_columns(names).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(renamed, file)
    file = folder / "meta" / "stats.json"
    stats = json.loads(file.read_text())
    file.write_text(json.dumps({new if k == old else k: v for k, v in stats.items()}))


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "data"))


def refusal(call: Callable[[], Any]) -> str:
    """The one line by which a dataset is refused."""
    with pytest.raises(DatasetError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 800, text
    return text


def test_a_dataset_of_format_2_1(copy: Path) -> None:
    """huggingface/lerobot#2191, #2643, NVIDIA/Isaac-GR00T#391: v2.1, with the command."""
    edit_info(copy, lambda info: info.update(codebase_version="v2.1"))
    text = refusal(lambda: read_dataset_info(copy))
    command = (
        f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/data --root={copy}"
    )
    assert "format v2.1" in text and command in text


@pytest.mark.parametrize("version", ["v2.0", "2.3.0", "v1.6"])
def test_older_datasets(copy: Path, version: str) -> None:
    """huggingface/lerobot#2858, #2805, Physical-Intelligence/openpi#394, #443: before v2.1."""
    edit_info(copy, lambda info: info.update(codebase_version=version))
    assert "LeRobot 0.3 converts it to v2.1, then" in refusal(lambda: read_dataset_info(copy))


def test_pointers_of_git_lfs_in_a_dataset(copy: Path) -> None:
    """huggingface/lerobot#2035: "Parquet magic bytes not found in footer"."""
    (file,) = copy.glob("data/*/*.parquet")
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    text = refusal(lambda: calibrate(make_toy(), copy))
    assert "has not fetched data/chunk-000/file-000.parquet" in text
    assert f"git -C {copy} lfs pull" in text


def test_tables_that_are_not_as_the_info_says(copy: Path) -> None:
    """huggingface/lerobot#1317: a column is missing, told with the whole schema."""
    front = "observation.images.front"
    edit_info(copy, lambda info: info["features"].update({front: info["features"].pop(SCENE)}))
    text = refusal(lambda: calibrate(make_toy(), copy, renames={front: SCENE}))
    assert f"lists {front}, its data files have no such column but {SCENE}" in text


def test_cameras_of_other_names(
    copy: Path, dataset: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GetSoloTech/solo-cli#67, huggingface/lerobot#3018: "feature mismatch", before any weight is
    read; --rename settles it."""
    from actquant.calibration import dataset as module

    front = "observation.images.front"
    rename_feature(copy, SCENE, front)
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_policy", lambda *_, **__: pytest.fail("weights were read"))
        text = refusal(lambda: load_for_dataset(checkpoint, copy))
    assert f"the policy looks through {SCENE}, {WRIST}, the dataset has {front}, {WRIST}" in text
    assert f"--rename {front}={SCENE}" in text
    renames = {front: SCENE}
    loaded = load_for_dataset(checkpoint, copy, renames=renames)
    frames = calibrate(loaded, copy, renames=renames).calibration
    others = calibrate(load_for_dataset(checkpoint, dataset), dataset).calibration
    for ours, theirs in ((frames[k].observation, others[k].observation) for k in range(3)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_camera_of_another_name_in_the_command(copy: Path, checkpoint: Path) -> None:
    """huggingface/lerobot#3183, #3240: the option that the message names is there and works."""
    front = "observation.images.rgb.front_left"
    rename_feature(copy, SCENE, front)
    words = ["compress", str(checkpoint), "--dataset", str(copy), "--recipe", "f16", "--frames"]
    words += ["2", "--held-out", "2", "--out", str(copy.parent / "policy.gguf"), "--json"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1
    (option,) = [w for w in json.loads(refused.stdout)["message"].split() if f"{front}=o" in w]
    words += ["--rename", option.rstrip(";"), "--rename", f"{WRIST}="]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["provenance"]["renames"] == {front: SCENE, WRIST: ""}
    assert any(f"no {WRIST}: masked out" in remark for remark in report["remarks"])


def test_fewer_cameras_than_the_policy_has(tmp_path: Path, checkpoint: Path) -> None:
    """huggingface/lerobot#2332: a dataset of one camera for a policy of two."""
    folder = make_dataset(tmp_path / "data", episodes=2, length=3, cameras=(SCENE,))
    (remark,) = load_for_dataset(checkpoint, folder).remarks
    assert f"no {WRIST}: masked out" in remark


def test_a_camera_that_is_left_out(copy: Path, checkpoint: Path) -> None:
    """4paradigm and strands-labs/robots#517: none of the robot's views is the policy's."""
    hand = "observation.images.hand"
    rename_feature(copy, WRIST, hand)
    text = refusal(lambda: load_for_dataset(checkpoint, copy))
    assert f"--rename {hand}= leaves one out" in text
    loaded = load_for_dataset(checkpoint, copy, renames={hand: ""})
    sample = calibrate(loaded, copy, renames={hand: ""}).calibration[0]
    assert SCENE in sample.observation and WRIST not in sample.observation


def test_a_state_in_several_parts(copy: Path, checkpoint: Path) -> None:
    """Tavish9/any4lerobot#97, huggingface/lerobot#1032, #905: no observation.state by that name."""
    joints = "observation.states.joints"
    rename_feature(copy, STATE, joints)
    with pytest.raises(DatasetError) as caught:
        load_for_dataset(checkpoint, copy)
    assert f"found nothing; is it one of these? --rename {joints}={STATE}" in str(caught.value)
    renames = {joints: STATE}
    loaded = load_for_dataset(checkpoint, copy, renames=renames)
    assert loaded.interface.state_names == tuple(f"o{i}" for i in range(6))
    assert calibrate(loaded, copy, renames=renames).calibration[0].observation[STATE].shape == (6,)


def test_a_state_that_the_processors_rename(copy: Path, checkpoint: Path, tmp_path: Path) -> None:
    """huggingface/lerobot#2332: the checkpoint's own `rename_map`, here of a vector."""
    joints = "observation.states.joints"
    rename_feature(copy, STATE, joints)
    folder = Path(shutil.copytree(checkpoint, tmp_path / "policy"))
    file = folder / "policy_preprocessor.json"
    processor = json.loads(file.read_text())
    processor["steps"][0]["config"]["rename_map"] = {joints: STATE}
    file.write_text(json.dumps(processor))
    sample = calibrate(load_for_dataset(folder, copy), copy).calibration[0]
    assert sample.observation[STATE].shape == (6,)


def test_renames_that_cannot_be(copy: Path) -> None:
    """huggingface/lerobot#3425: what was asked for must not be dropped without a word."""
    text = refusal(lambda: read_dataset_info(copy, {"observation.images.fron": SCENE}))
    assert f"has no observation.images.fron; it has {SCENE}, {WRIST}" in text
    assert "two of that name" in refusal(lambda: read_dataset_info(copy, {WRIST: SCENE}))
    swapped = read_dataset_info(copy, {WRIST: SCENE, SCENE: WRIST})
    assert (swapped.stored_name(SCENE), swapped.stored_name(WRIST)) == (WRIST, SCENE)
    for words in (["--rename", "front"], ["--rename", "a=b", "--rename", "a=c"]):
        made = CliRunner().invoke(app, ["compress", "x", "--out", "y.gguf", *words])
        assert made.exit_code == 2 and "--rename" in made.output


def test_proposals_go_by_likeness() -> None:
    """huggingface/lerobot#2595: names with dots, of which the last part counts."""
    given = ["observation.images.rgb.left_wrist", "observation.images.rgb.top_view"]
    wanted = ["observation.images.top", "observation.images.wrist_left"]
    assert propose(given, wanted) == (
        f"--rename {given[1]}={wanted[0]} --rename {given[0]}={wanted[1]}"
    )


class World:
    """A suite and environment of one camera, `front`, and a state of two numbers."""

    tasks: tuple[str, ...] = ("look",)

    def environment(self, task: str) -> "World":
        return self

    def mislead(self, instruction: str) -> str:
        return instruction

    def reset(self, start: int) -> dict:
        picture = np.zeros((2, 2, 3), np.uint8)
        return {"observation.images.front": picture, STATE: np.zeros(2), "task": "look"}

    def step(self, action: np.ndarray, *, look: bool = True) -> Step:
        return Step(self.reset(0), done=True, success=True)

    def render(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)


class Looker:
    """A policy of one camera, `scene`, that notes what it is shown."""

    def __init__(self, state: int = 2) -> None:
        self.state = state
        self.shown: list[set[str]] = []

    def describe(self) -> PolicyDescription:
        return PolicyDescription(
            name="looker",
            cameras=(SCENE,),
            optional_cameras=0,
            image_size=(2, 2),
            state_names=tuple(f"s{i}" for i in range(self.state)),
            action_names=("nothing",),
            control_rate_hz=10.0,
            chunk_length=1,
            steps_per_chunk=1,
            observation_steps=1,
            noise_shape=(1,),
            supports_guidance=False,
        )

    def act(self, observation: Any, *, noise: Any = None, previous: Any = None) -> np.ndarray:
        self.shown.append(set(observation))
        return np.zeros((1, 1), np.float32)


def test_an_environment_of_other_names() -> None:
    """huggingface/lerobot#2128, #4367: "visual feature mismatch", before the first action."""
    policy = Looker()
    with pytest.raises(EvaluationError) as caught:
        run_episode(World(), policy, "look", 0)
    front = "observation.images.front"
    assert f"the environment has {front}: say which is which, such as" in str(caught.value)
    assert f"--rename {front}={SCENE}" in str(caught.value) and not policy.shown
    run_episode(World(), policy, "look", 0, renames={front: SCENE})
    assert policy.shown == [{SCENE, STATE, "task"}]


def test_a_state_of_another_size() -> None:
    """Physical-Intelligence/openpi#525: a policy of another robot's joints."""
    with pytest.raises(EvaluationError, match=r"reads a state of 8 numbers, .* is \(2,\)"):
        run_episode(World(), Looker(8), "look", 0, renames={"observation.images.front": SCENE})


def test_cameras_of_other_names_at_the_robot() -> None:
    """huggingface/lerobot#1620, #2374: a robot's camera is named as the policy names it."""
    cameras = parse_cameras(["rgb.left=opencv:0"])
    assert list(cameras) == ["observation.images.rgb.left"]
    (missing, unknown) = _camera_problems(Looker().describe(), cameras)  # pyright: ignore
    assert f"add --camera {SCENE}=" in missing
    assert f"it has {SCENE}; name it as the policy does, such as --camera {SCENE}=" in unknown


@pytest.fixture
def controller() -> Iterator[FakeController]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with FakeController(f"127.{201 + worker}.0.2") as fake:
        yield fake


def test_a_controller_that_another_client_drives(controller: FakeController) -> None:
    """UniversalRobots/RTDE_Python_Client_Library#15, #18: registers are in use."""
    other = RTDEControlInterface(controller.host)
    try:
        with pytest.raises(ConnectionFailed, match="another program is there .PLAYING"):
            Arm(ArmConfig(ip=controller.host, model="ur3e")).connect()
        stop_program(controller.host)
        with pytest.raises(ConnectionFailed, match="input registers are already in use"):
            Arm(ArmConfig(ip=controller.host, model="ur3e")).connect()
    finally:
        other.disconnect()


def test_a_controller_in_local_control(controller: FakeController) -> None:
    """UniversalRobots/Universal_Robots_Client_Library#90, Universal_Robots_ROS_Driver#459: scripts
    are ignored without a word."""
    controller.faults.refuse("remote_control")
    with pytest.raises(ConnectionFailed, match="enable remote control at the pendant"):
        Arm(ArmConfig(ip=controller.host, model="ur3e")).connect()


def test_an_address_without_a_controller() -> None:
    """UniversalRobots/Universal_Robots_ROS2_Driver#424: connection refused."""
    with pytest.raises(ConnectionFailed) as caught:
        Arm(ArmConfig(ip="127.201.0.99", model="ur3e")).connect()
    assert "127.201.0.99" in str(caught.value) and "\n" not in str(caught.value)
