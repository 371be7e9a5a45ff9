"""Shared by the tests of the environments."""

from collections.abc import Callable

import pytest
from lerobot_env_ur3e import UR3eEnv


@pytest.fixture(scope="session")
def blind_env() -> Callable[[str], UR3eEnv]:
    """The environment of a task, without pictures, made once."""
    envs: dict[str, UR3eEnv] = {}

    def get(task: str) -> UR3eEnv:
        if task not in envs:
            envs[task] = UR3eEnv(task, render_images=False)
        return envs[task]

    return get
