"""What deployments are tried on: a tiny policy in the robot's names, and an operator by rote."""

import os
from pathlib import Path
from typing import Any

import pytest
import tiny_policies
import torch

from actquant.compression.pipeline import compress
from actquant.deploy.settings import DeploySettings

# Modules that share this stage may run at the same time, in workers of pytest-xdist (gw0, gw1, …).
HOST = f"127.0.{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]}.82"
IMAGE = 48
CAMERAS = [f"{name}=zmq:{HOST}:5555:{name}" for name in ("scene", "wrist")]
STATE_NAMES = [
    *(f"joint_{i}_rad" for i in range(1, 7)),
    "gripper_opening_m",
    *(f"tool_{axis}_m" for axis in "xyz"),
    *(f"tool_rotation_{axis}_rad" for axis in "xyz"),
]
ACTION_NAMES = [f"{kind}_{axis}" for kind in ("move", "turn") for axis in "xyz"] + ["gripper"]
# Near where start 0 of pick_cube begins.
STATE_MEAN = [-0.3, -1.5, 1.7, -1.8, -1.57, -1.9, 0.08, -0.34, 0.0, 0.1, 0.0, 0.0, 0.0]


class Answers:
    """An operator: `is_present` if there are answers to give, in their order."""

    def __init__(self, *answers: str) -> None:
        self._answers, self.is_present = list(answers), bool(answers)
        self.asked: list[str] = []
        self.told: list[Any] = []

    def tell(self, *what: Any) -> None:
        self.told += what

    def ask(self, question: str) -> str:
        self.asked.append(question)
        return self._answers.pop(0) if self._answers else ""


def patient_settings(model: Path, log: Path, **changes: Any) -> DeploySettings:
    """For the fake controller on a busy machine, where real time is not to be had; the wait for a
    policy is what it always is."""
    values: dict[str, Any] = {
        "model": model,
        "robot": "ur3e",
        "ip": HOST,
        "task": "pick up the cube",
        "cameras": CAMERAS[:1],
        "log": log,
        "activate_gripper": True,
        "seed": 0,
        "speed": 1.0,
        "limits": {"max_state_age_s": 1.5, "max_camera_age_s": 1.5},
    }
    return DeploySettings(**(values | changes))


def build(folder: Path) -> Path:
    """A GGUF of a tiny SmolVLA whose actions move the tool a little, mostly upwards."""
    statistics = {
        "observation.state": {"mean": torch.tensor(STATE_MEAN), "std": torch.full((13,), 0.5)},
        "action": {
            "mean": torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0, -0.5]),
            "std": torch.tensor([0.02, 0.02, 0.02, 0.001, 0.001, 0.001, 0.01]),
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_policies, "dataset_statistics", lambda *_: statistics)
        checkpoint = tiny_policies.build_tiny_smolvla(
            folder / "tiny",
            hidden=32,
            image=IMAGE,
            layers=1,
            vision_layers=1,
            state_dim=13,
            action_dim=7,
            max_state_dim=16,
            num_steps=2,
        )
    model = folder / "tiny.gguf"
    compress(
        checkpoint,
        model,
        recipe="f32",
        control_rate_hz=10,
        state_names=STATE_NAMES,
        action_names=ACTION_NAMES,
    )
    return model
