"""The UR3e simulator (`lerobot_env_ur3e`) as an environment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import EvaluationError
from actquant.common.extras import explain_missing
from actquant.control.window import Observation
from actquant.environments.base import Step, SuiteFacts, hold_relative, require_task

PICTURES = "observation.images."
COLOURS: tuple[str, ...] = ("red", "green", "blue")


class UR3eEnvironment:
    """One task of the UR3e simulator. env: a `lerobot_env_ur3e.UR3eEnv`."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, start: int) -> Observation:
        """Begins an episode at a numbered start."""
        self.env.render_images = True
        observation, _ = self.env.reset(options={"start": start})
        return as_policy_observation(observation, self.env.instruction)

    def step(self, action: NDArray[np.float32], *, look: bool = True) -> Step:
        """Executes an action [7] for a tenth of a second."""
        self.env.render_images = look
        observation, _, terminated, truncated, info = self.env.step(action)
        seen = as_policy_observation(observation, self.env.instruction) if look else None
        return Step(seen, done=terminated or truncated, success=bool(info["is_success"]))

    def hold(self, last: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Returns the action [7] that moves nothing; the gripper stays as `last` had it."""
        return hold_relative(last)

    def render(self) -> NDArray[np.uint8]:
        """Returns the scene camera's picture."""
        return self.env.render()

    def overview(self) -> NDArray[np.uint8]:
        """Returns a picture of the whole arm and its table."""
        return self.env.overview()


class UR3eSuite:
    """The six tabletop tasks."""

    distribution = "lerobot_env_ur3e"

    def __init__(self, perturb: Mapping[str, int] | None = None) -> None:
        """perturb: kind -> level. Raises EvaluationError for a kind that there is not, and where
        the simulator is not installed."""
        try:
            from lerobot_env_ur3e import PERTURBATIONS, PERTURBATIONS_VERSION, TASK_NAMES, UR3eEnv
            from lerobot_env_ur3e.simulator import CAMERAS
        except ImportError as error:
            raise EvaluationError(
                f"the UR3e simulator is not installed: {explain_missing(error)}"
            ) from error
        self.tasks: tuple[str, ...] = TASK_NAMES
        self.cameras = tuple(f"{PICTURES}{camera}" for camera in CAMERAS)
        for kind in perturb or {}:
            if kind not in PERTURBATIONS:
                raise EvaluationError(
                    f"--perturb: environment 'ur3e' has no perturbation '{kind}'; it has "
                    f"{', '.join(PERTURBATIONS)}"
                )
        facts = {"perturbations": f"version {PERTURBATIONS_VERSION}"} if perturb else {}
        self.about = SuiteFacts(facts, control_rate_hz=float(UR3eEnv.metadata["render_fps"]))
        self._make = partial(UR3eEnv, perturb=perturb)
        self._environments: dict[str, UR3eEnvironment] = {}

    def environment(self, task: str) -> UR3eEnvironment:
        """Returns the task's environment, made once."""
        require_task("ur3e", self.tasks, task)
        if task not in self._environments:
            self._environments[task] = UR3eEnvironment(self._make(task=task))
        return self._environments[task]

    def mislead(self, instruction: str) -> str:
        """Replaces every colour word by the next of COLOURS; without one nothing is changed."""
        following = dict(zip(COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True))
        return " ".join(following.get(word, word) for word in instruction.split())

    def close(self) -> None:
        """Does nothing: the simulator runs in this process."""


def as_policy_observation(observation: dict[str, Any], instruction: str) -> Observation:
    """Puts a Gymnasium observation under LeRobot's keys, as policies take it."""
    raw: Observation = {
        f"{PICTURES}{camera}": image for camera, image in observation["pixels"].items()
    }
    return raw | {"observation.state": observation["agent_pos"], "task": instruction}
