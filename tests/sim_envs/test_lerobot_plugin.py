"""The LeRobot plugin, through LeRobot's own factory and rollout."""

import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType
from lerobot.envs import close_envs, make_env
from lerobot.envs.utils import env_to_policy_features
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from lerobot_env_ur3e.lerobot_plugin import UR3eEnvConfig
from lerobot_env_ur3e.tasks import TASK_NAMES


class ExpertPolicy(torch.nn.Module):
    """The scripted expert in the shape of a LeRobot policy; keeps what it was shown."""

    def __init__(self, env):
        super().__init__()
        self.env = env
        self.seen: dict = {}

    def reset(self) -> None: ...

    def select_action(self, observation):
        self.seen = observation
        return torch.from_numpy(np.stack(self.env.call("expert_action")))


def _roll_out(env, seeds):
    identity = PolicyProcessorPipeline(steps=[], to_transition=lambda x: x, to_output=lambda x: x)
    policy = ExpertPolicy(env)
    result = rollout(env, cast(Any, policy), identity, identity, identity, identity, seeds=seeds)
    return policy.seen, result


def test_features():
    features = env_to_policy_features(UR3eEnvConfig(image_size=64))
    assert features["action"].shape == (7,) and features["observation.state"].shape == (13,)
    assert features["observation.images.wrist"].shape == (3, 64, 64)
    assert features["observation.images.scene"].type is FeatureType.VISUAL


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="10 Hz"):
        UR3eEnvConfig(fps=30)
    with pytest.raises(ValueError, match="the tasks are pick_cube"):
        UR3eEnvConfig(task="juggle").create_envs(1)


def test_lerobots_factory_and_rollout():
    envs = make_env(UR3eEnvConfig(task="pick_cube,push_zone"), n_envs=2)
    assert {s: list(t) for s, t in envs.items()} == {
        "ur3e": [TASK_NAMES.index("pick_cube"), TASK_NAMES.index("push_zone")]
    }
    env = envs["ur3e"][TASK_NAMES.index("push_zone")]
    seen, result = _roll_out(env, [0, 1])
    assert result["success"].any(dim=1).tolist() == [True, True]
    assert seen["observation.images.scene"].shape == (2, 3, 96, 96)
    assert seen["observation.state"].shape == (2, 13)
    assert all(text.startswith("push the ") for text in seen["task"])
    close_envs(envs)


def test_worker_processes():
    envs = make_env(UR3eEnvConfig(task="pick_cube"), n_envs=2, use_async_envs=True)
    _, result = _roll_out(envs["ur3e"][0], [0, 1])
    assert result["success"].any(dim=1).tolist() == [True, True]
    close_envs(envs)


def test_lerobot_finds_the_plugin_by_itself():
    code = (
        "from lerobot.envs.configs import EnvConfig;"
        "from lerobot.utils.import_utils import register_third_party_plugins as register;"
        "register(); print(EnvConfig.get_choice_class('ur3e')(task='stack').task_names())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("['stack']")
