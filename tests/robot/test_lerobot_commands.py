"""LeRobot's own commands with the arm: record, replay, rollout, against the fake controller."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig  # noqa: E402
from lerobot.datasets import LeRobotDataset  # noqa: E402
from lerobot.policies.factory import get_policy_class  # noqa: E402
from lerobot.scripts import lerobot_replay, lerobot_rollout  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from lerobot_env_ur3e import UR3eEnv  # noqa: E402
from lerobot_robot_ur import UR3e  # noqa: E402
from lerobot_robot_ur.layout import MEASURED, TOOL_MOTION  # noqa: E402
from safetensors.torch import load_file, save_file
from tiny_policies import build_tiny_smolvla  # noqa: E402
from ur_fake_controller import FakeController  # noqa: E402
from ur_motion.control import TRANSLATION_STEP  # noqa: E402
from waiting import wait_for_pictures  # noqa: E402

from actquant.capture.policy import convert_f32  # noqa: E402
from actquant.policies import load_policy  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from served import PYTHON, running  # noqa: E402

HOST = "127.0.0.70"
SIZE = 48
TELEOPERATOR = '''
"""Gives the actions of a JSON file, one after the other, then the last one for ever."""
import json
from dataclasses import dataclass

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig


@TeleoperatorConfig.register_subclass("scripted")
@dataclass
class ScriptedConfig(TeleoperatorConfig):
    file: str = ""


class Scripted(Teleoperator):
    config_class = ScriptedConfig
    name = "scripted"
    is_connected = is_calibrated = True
    action_features = feedback_features = {}

    def __init__(self, config):
        super().__init__(config)
        self.actions = json.load(open(config.file))
        self.action_features = dict.fromkeys(self.actions[0], float)

    def get_action(self):
        return self.actions.pop(0) if len(self.actions) > 1 else self.actions[0]

    def connect(self, calibrate=True): ...
    def calibrate(self): ...
    def configure(self): ...
    def send_feedback(self, feedback): ...
    def disconnect(self): ...
'''


@pytest.fixture(scope="module")
def fake():
    with FakeController(
        HOST, task="pick_cube", start=2, cameras=True, image_size=SIZE, camera_rate_hz=15
    ) as controller:
        wait_for_pictures(HOST)
        yield controller


def robot_arguments(layout: str = "tool_motion") -> list[str]:
    cameras = {
        name: {
            "type": "zmq", "server_address": HOST, "camera_name": name,
            "width": SIZE, "height": SIZE, "fps": 15, "timeout_ms": 30_000,
        }
        for name in ("scene", "wrist")
    }  # fmt: skip
    # A busy machine draws late; what is too old is tested elsewhere.
    limits = {"max_camera_age_s": 10.0, "max_state_age_s": 10.0, "hold_after_s": 1.0}
    return [
        "--robot.type=ur3e",
        f"--robot.ip={HOST}",
        "--robot.watchdog_s=0.5",
        f"--robot.layout={layout}",
        f"--robot.cameras={json.dumps(cameras)}",
        f"--robot.limits={json.dumps(limits)}",
    ]


def script() -> list[dict[str, float]]:
    """Small motions of the tool with the gripper closing half way, then rest."""
    rng = np.random.default_rng(1)
    actions = [
        dict(zip(TOOL_MOTION, rng.uniform(-0.5, 0.5, 7).tolist(), strict=True)) for _ in range(6)
    ]
    for i, action in enumerate(actions):
        action["move_x.vel"], action["gripper.vel"] = 0.6, 1.0 if i > 2 else -1.0
    return [*actions, dict.fromkeys(TOOL_MOTION, 0.0) | {"gripper.vel": 1.0}]


def install_teleoperator(folder: Path, actions: list[dict[str, float]]) -> Path:
    """A distribution that LeRobot finds as it finds any other; returns the script's file."""
    name = "lerobot_teleoperator_scripted"
    for path in (folder / name, folder / f"{name}-1.0.dist-info"):
        path.mkdir(parents=True)
    (folder / name / "__init__.py").write_text(TELEOPERATOR)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    (folder / "actions.json").write_text(json.dumps(actions))
    return folder / "actions.json"


def run_here(main, arguments: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lerobot", *arguments])
    main()


@pytest.fixture(scope="module")
def recorded(fake, tmp_path_factory) -> tuple[LeRobotDataset, dict]:
    """What `lerobot-record` wrote in a process of its own, and how the controller ended."""
    folder = tmp_path_factory.mktemp("record")
    plugins = folder / "plugins"
    file = install_teleoperator(plugins, script())
    path = os.pathsep.join([str(plugins), *(p for p in sys.path if p)])
    command = [
        *(sys.executable, "-m", "lerobot.scripts.lerobot_record"),
        *robot_arguments(),
        *("--teleop.type=scripted", f"--teleop.file={file}"),
        *("--dataset.repo_id=test/arm", f"--dataset.root={folder / 'data'}"),
        *("--dataset.single_task=move about", "--dataset.fps=10", "--dataset.video=false"),
        *("--dataset.num_episodes=1", "--dataset.episode_time_s=1.6"),
        *("--dataset.push_to_hub=false", "--play_sounds=false"),
    ]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-6000:]
    return LeRobotDataset("test/arm", root=folder / "data"), fake.state()


def test_record_writes_what_was_measured_and_sent(recorded):
    dataset, _ = recorded
    features = dataset.meta.features
    assert dataset.meta.robot_type == "ur3e"
    assert features["observation.state"]["names"] == list(MEASURED)
    assert features["action"]["names"] == list(TOOL_MOTION)
    for camera in ("scene", "wrist"):
        assert tuple(features[f"observation.images.{camera}"]["shape"]) == (SIZE, SIZE, 3)
    sent = [list(action.values()) for action in script()]
    actions = np.stack([frame["action"].numpy() for frame in dataset])
    assert len(actions) > len(sent)
    np.testing.assert_allclose(actions[: len(sent)], sent, atol=1e-6)
    assert dataset[0]["task"] == "move about"
    for camera in ("scene", "wrist"):
        picture = dataset[0][f"observation.images.{camera}"]
        assert picture.shape == (3, SIZE, SIZE) and picture.std() > 0.05


def test_record_moved_the_arm(recorded):
    dataset, controller = recorded
    states = np.stack([frame["observation.state"].numpy() for frame in dataset])
    start = UR3eEnv("pick_cube", render_images=False).reset(options={"start": 2})[0]["agent_pos"]
    np.testing.assert_allclose(states[0], start, atol=2e-3)
    asked = sum(action["move_x.vel"] for action in script()) * TRANSLATION_STEP
    assert states[-1][7] - states[0][7] == pytest.approx(asked, abs=5e-3)
    assert controller["tcp_pose"][0] - states[0][7] == pytest.approx(asked, abs=2e-3)
    assert states[0][6] > 0.08 and states[-1][6] < 0.03


def test_replay_repeats_the_motion(fake, recorded, monkeypatch):
    dataset, controller = recorded
    fake.reset(start=2)
    arguments = [
        *robot_arguments(),
        *("--dataset.repo_id=test/arm", f"--dataset.root={dataset.root}"),
        *("--dataset.episode=0", "--play_sounds=false"),
    ]
    run_here(lerobot_replay.main, arguments, monkeypatch)
    np.testing.assert_allclose(fake.state()["joints"], controller["joints"], atol=5e-3)


def gentle(checkpoint: Path) -> None:
    """Statistics with which the policy's actions are small."""
    file = checkpoint / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    statistics = load_file(file)
    statistics["action.mean"] = torch.tensor([0.3, 0, 0, 0, 0, 0, 0])
    statistics["action.std"] = torch.full((7,), 0.05)
    save_file(statistics, file)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A compressed policy with the layout of the ur3e environment."""
    folder = tmp_path_factory.mktemp("policy")
    checkpoint = build_tiny_smolvla(
        folder / "tiny", state_dim=len(MEASURED), max_state_dim=16, n_action_steps=4
    )
    gentle(checkpoint)
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), folder / "tiny.gguf")


@pytest.fixture
def policy_arguments(request, model, tmp_path):
    """What names the policy to LeRobot, in each of the ways in which it can be."""
    if request.param == "file":
        yield [f"--policy.path={model}"]
    elif request.param == "folder":
        register_third_party_plugins()
        config = PreTrainedConfig.get_choice_class("actquant")(model=str(model))
        get_policy_class("actquant")(config).save_pretrained(tmp_path / "policy")
        yield [f"--policy.path={tmp_path / 'policy'}"]
    elif request.param == "type":
        yield ["--policy.type=actquant", f"--policy.model={model}"]
    else:
        with running(PYTHON, {"tiny": model}) as server:
            yield ["--policy.type=actquant_remote", f"--policy.url=ws://127.0.0.1:{server.port}"]


@pytest.mark.parametrize("policy_arguments", ["file", "folder", "type", "served"], indirect=True)
def test_rollout_of_a_compressed_policy(fake, policy_arguments, monkeypatch):
    """The policy sees the arm's 13 values, its actions move the arm, and LeRobot takes it back."""
    fake.reset(start=2)
    before = fake.state()["joints"]
    seen, sent, reached = [], [], []
    observe, send = UR3e.get_observation, UR3e.send_action

    def get_observation(robot):
        seen.append(observe(robot))
        return seen[-1]

    def send_action(robot, action):
        sent.append((dict(action), send(robot, action)))
        reached.append(fake.state()["joints"])
        return sent[-1][1]

    monkeypatch.setattr(UR3e, "get_observation", get_observation)
    monkeypatch.setattr(UR3e, "send_action", send_action)
    arguments = [
        *robot_arguments(),
        *policy_arguments,
        *("--task=pick up the red cube", "--fps=10", "--duration=1.5", "--device=cpu"),
    ]
    run_here(lerobot_rollout.main, arguments, monkeypatch)
    assert [key for key in seen[0] if key.endswith(".pos")] == list(MEASURED)
    motions = [(asked, done) for asked, done in sent if "move_x.vel" in asked]
    assert len(motions) >= 5 and all(tuple(asked) == TOOL_MOTION for asked, _ in motions)
    for asked, done in motions:
        assert done == pytest.approx(asked, abs=1e-6)
    assert np.abs(np.array(reached) - before).max() > 0.1
    # LeRobot ends by sending the positions that it began with, and does not wait for the last.
    np.testing.assert_allclose(fake.state()["joints"], before, atol=0.03)


def test_rollout_records_a_compressed_policy(fake, model, tmp_path):
    """The command itself, in a process of its own; `lerobot-record` takes no policy."""
    fake.reset(start=2)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("lerobot-rollout"),
            *robot_arguments(),
            *(f"--policy.path={model}", "--strategy.type=episodic", "--fps=10"),
            *("--dataset.repo_id=test/rollout_arm", f"--dataset.root={tmp_path / 'data'}"),
            *("--dataset.single_task=pick up the red cube", "--dataset.fps=10"),
            *("--dataset.video=false", "--dataset.num_episodes=1", "--dataset.episode_time_s=2.5"),
            *("--dataset.reset_time_s=0", "--dataset.push_to_hub=false", "--play_sounds=false"),
        ],
        capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    dataset: Any = LeRobotDataset("test/rollout_arm", root=tmp_path / "data")
    actions = np.stack([frame["action"].numpy() for frame in dataset])
    assert dataset.num_episodes == 1 and len(actions) >= 3
    assert actions.shape[1] == len(TOOL_MOTION) and actions.std() > 0
