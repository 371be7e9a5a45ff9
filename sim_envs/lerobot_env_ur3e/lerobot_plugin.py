"""LeRobot plugin: `lerobot-eval --env.type=ur3e --env.task=pick_cube,stack ...`.

LeRobot imports every installed distribution named `lerobot_env_*`; the package then imports
this module, which registers the configuration. Nothing else in the package needs LeRobot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from .env import ACTION_DIM, STATE_DIM, UR3eEnv
from .simulator import CAMERAS
from .tasks import TASK_NAMES, find_task


@EnvConfig.register_subclass("ur3e")
@dataclass
class UR3eEnvConfig(EnvConfig):
    """What lerobot-eval can set; task numbers in its results are places in TASK_NAMES."""

    task: str | None = "all"  # all, or task names separated by commas
    fps: int = 10
    image_size: int = 96
    render_size: int = 256  # of the videos
    episode_length: int | None = None  # control steps; the task's own limit by default
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fps != UR3eEnv.metadata["render_fps"]:
            raise ValueError(f"the ur3e environments run at 10 Hz; fps cannot be {self.fps}")
        self.features[ACTION] = PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))
        self.features["agent_pos"] = PolicyFeature(FeatureType.STATE, (STATE_DIM,))
        self.features_map |= {ACTION: ACTION, "agent_pos": OBS_STATE}
        for camera in CAMERAS:
            shape = (self.image_size, self.image_size, 3)
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, shape)
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of every UR3eEnv made from this configuration."""
        return {
            "image_size": self.image_size,
            "render_size": self.render_size,
            "max_episode_steps": self.episode_length,
        }

    def task_names(self) -> list[str]:
        """Returns the tasks asked for, each checked to exist."""
        if self.task in (None, "", "all"):
            return list(TASK_NAMES)
        return [find_task(name.strip()).name for name in str(self.task).split(",")]

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """Returns one vector environment of `n_envs` per task: {"ur3e": {task number:
        environment}}.

        lerobot-eval seeds its environments, and a seed is a start number here, so that its
        episodes are the starts from `--seed` on, the same for every policy.
        """
        make_vector = _lazy_async if use_async_envs and n_envs > 1 else _sync
        return {
            "ur3e": {
                TASK_NAMES.index(name): make_vector(
                    [partial(UR3eEnv, name, **self.gym_kwargs)] * n_envs
                )
                for name in self.task_names()
            }
        }


def _sync(env_fns: list[Any]) -> gym.vector.VectorEnv:
    return gym.vector.SyncVectorEnv(env_fns, autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP)


def _lazy_async(env_fns: list[Any]) -> Any:
    # LeRobot's own wrapper: it starts a task's processes only when the task's turn comes.
    from lerobot.envs.utils import _LazyAsyncVectorEnv

    return _LazyAsyncVectorEnv(env_fns)
