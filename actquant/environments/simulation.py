"""Simulated environments by name, and one closed-loop episode in them."""

import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from actquant.common.errors import EvaluationError


class Actor(Protocol):
    """A policy that maps the last observations to a chunk of actions."""

    noise_shape: tuple[int, ...]
    observation_steps: int
    steps_per_chunk: int

    def act(self, observation: dict[str, Any], noise: np.ndarray) -> np.ndarray:
        """observation: raw (uint8 HWC images, state, task), with a leading time axis for more than
        one observation step (see `Window`); noise: of `noise_shape` -> [H, A]."""
        ...


class Window:
    """The last observations of an episode, as a policy takes them: images and state get a leading
    time axis, oldest first, if it takes several; the first is repeated until there are enough."""

    def __init__(self, steps: int) -> None:
        self._observations: deque[dict[str, Any]] = deque(maxlen=steps)
        self._steps = steps

    def append(self, observation: dict[str, Any]) -> None:
        self._observations.extend([observation] * (1 if self._observations else self._steps))

    @property
    def observation(self) -> dict[str, Any]:
        last = self._observations[-1]
        if self._steps == 1:
            return last
        stacked = {key: [o[key] for o in self._observations] for key in last if key != "task"}
        return {**last, **{key: np.stack(values) for key, values in stacked.items()}}


@dataclass
class Episode:
    """What one closed-loop episode gave. `latencies_ms` holds one entry a chunk."""

    task: str
    start: int
    success: bool
    steps: int
    latencies_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ablation:
    """What to take from the policy, to prove that it uses it."""

    grey_camera: str | None = None
    wrong_colour: bool = False

    def apply(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with the camera greyed out and the colour words swapped."""
        observation = dict(observation)
        if self.grey_camera is not None:
            if self.grey_camera not in observation:
                cameras = [key for key in observation if key.startswith("observation.images.")]
                raise EvaluationError(
                    f"no camera '{self.grey_camera}' to grey out; this environment has {cameras}"
                )
            observation[self.grey_camera] = np.full_like(observation[self.grey_camera], 128)
        if self.wrong_colour:
            observation["task"] = swap_colours(observation["task"])
        return observation


COLOURS: tuple[str, ...] = ("red", "green", "blue")


def swap_colours(instruction: str) -> str:
    """The instruction with every colour word replaced by the next of COLOURS.

    An instruction that names no colour stays as it is.
    """
    following = dict(zip(COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True))
    return " ".join(following.get(word, word) for word in instruction.split())


class Simulation:
    """One environment family: its tasks, and episodes from numbered starts."""

    def __init__(self, name: str) -> None:
        if name not in ENVIRONMENTS:
            raise EvaluationError(
                f"there is no environment '{name}'; choose one of {sorted(ENVIRONMENTS)}"
            )
        self.name = name
        self._make, self.tasks = ENVIRONMENTS[name]()
        self._environments: dict[str, Any] = {}

    def environment(self, task: str) -> Any:
        """The task's environment, made once. Raises EvaluationError for an unknown task."""
        if task not in self.tasks:
            raise EvaluationError(
                f"environment '{self.name}' has no task '{task}'; it has {list(self.tasks)}"
            )
        if task not in self._environments:
            self._environments[task] = self._make(task)
        return self._environments[task]

    def run_episode(
        self,
        actor: Actor,
        task: str,
        start: int,
        *,
        seed: int = 0,
        steps_per_chunk: int | None = None,
        ablation: Ablation | None = None,
        on_step: Callable[[Any], None] | None = None,
    ) -> Episode:
        """Runs `actor` from start `start` until success or the task's step limit.

        The noise of chunk c follows from (seed, task, start, c) alone, so that two models are
        compared on the same draws. `on_step` gets the environment after reset and every step.
        """
        env = self.environment(task)
        env.render_images = True
        observation, _ = env.reset(options={"start": start})
        window = Window(actor.observation_steps)
        window.append(policy_observation(observation, env.instruction))
        episode = Episode(task, start, success=False, steps=0)
        limit = steps_per_chunk or actor.steps_per_chunk
        if on_step:
            on_step(env)
        chunk_index, done = 0, False
        while not done:
            raw = window.observation
            if ablation:
                raw = ablation.apply(raw)
            rng = np.random.default_rng([seed, zlib.crc32(task.encode()), start, chunk_index])
            noise = rng.standard_normal(actor.noise_shape, dtype=np.float32)
            begin = time.perf_counter()
            chunk = actor.act(raw, noise)
            episode.latencies_ms.append((time.perf_counter() - begin) * 1e3)
            executed = chunk[:limit]
            for i, action in enumerate(executed):
                # Pictures cost more than physics, and only the last steps' are looked at.
                env.render_images = i >= len(executed) - actor.observation_steps
                observation, _, terminated, truncated, info = env.step(action)
                if env.render_images:
                    window.append(policy_observation(observation, env.instruction))
                episode.steps += 1
                if on_step:
                    on_step(env)
                done = terminated or truncated
                if done:
                    episode.success = bool(info["is_success"])
                    break
            chunk_index += 1
        return episode


def policy_observation(observation: dict[str, Any], instruction: str) -> dict[str, Any]:
    """A Gymnasium observation under LeRobot's keys, as policies take it."""
    raw: dict[str, Any] = {
        f"observation.images.{camera}": image for camera, image in observation["pixels"].items()
    }
    return raw | {"observation.state": observation["agent_pos"], "task": instruction}


def _ur3e() -> tuple[Callable[[str], Any], tuple[str, ...]]:
    try:
        from lerobot_env_ur3e import TASK_NAMES, UR3eEnv
    except ImportError as error:
        raise EvaluationError(
            f"the UR3e simulator is not installed ({error}); pip install ./motion ./sim_envs"
        ) from error
    return (lambda task: UR3eEnv(task=task)), TASK_NAMES


ENVIRONMENTS: dict[str, Callable[[], tuple[Callable[[str], Any], tuple[str, ...]]]] = {
    "ur3e": _ur3e,
}
