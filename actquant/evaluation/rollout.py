"""One closed-loop episode: a policy in a simulated world, from a numbered start."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import EvaluationError
from actquant.control.chunk_scheduler import ChunkScheduler
from actquant.control.noise import chunk_noise
from actquant.control.policy import Policy
from actquant.control.window import Observation, ObservationWindow
from actquant.environments.base import Environment, Suite


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
    """What to take from the policy, to prove that it uses it.

    grey_camera: a camera to grey out; wrong_instruction: whether to ask for something else
    (`Suite.mislead`).
    """

    grey_camera: str | None = None
    wrong_instruction: bool = False

    def apply(self, observation: Observation, suite: Suite) -> Observation:
        """Returns the observation without what is taken from it.

        Raises EvaluationError if there is no such camera.
        """
        observation = dict(observation)
        if self.grey_camera is not None:
            if self.grey_camera not in observation:
                cameras = [key for key in observation if key.startswith("observation.images.")]
                raise EvaluationError(
                    f"no camera '{self.grey_camera}' to grey out; this environment has {cameras}"
                )
            observation[self.grey_camera] = np.full_like(observation[self.grey_camera], 128)
        if self.wrong_instruction:
            observation["task"] = suite.mislead(observation["task"])
        return observation


@dataclass
class _Answers:
    """The policy of one episode: what it is shown, the noise of each chunk, how long each took."""

    policy: Policy
    show: Callable[[Observation], Observation]
    noise: Callable[[int], NDArray[np.float32]]
    latencies_ms: list[float] = field(default_factory=list)

    def __call__(self, window: ObservationWindow, previous: Any) -> NDArray[np.float32]:
        observation = self.show(window.observation)
        noise = self.noise(len(self.latencies_ms))
        begin = time.perf_counter()
        chunk = self.policy.act(observation, noise=noise)
        self.latencies_ms.append((time.perf_counter() - begin) * 1e3)
        return chunk


def run_episode(
    suite: Suite,
    policy: Policy,
    task: str,
    start: int,
    *,
    seed: int = 0,
    steps_per_chunk: int | None = None,
    ablation: Ablation | None = None,
    on_step: Callable[[Environment], None] | None = None,
) -> Episode:
    """Runs the policy from start `start` until the environment says that it is over.

    The noise of each chunk follows from (seed, task, start, chunk) alone. steps_per_chunk: actions
    executed of each chunk, by default the policy's. on_step: gets the environment after the reset
    and after every step.

    Raises EvaluationError for an unknown task or camera.
    """
    environment, about = suite.environment(task), policy.describe()
    take = ablation or Ablation()
    window = ObservationWindow(about.observation_steps)
    window.append(environment.reset(start))
    answers = _Answers(
        policy,
        lambda observation: take.apply(observation, suite),
        lambda chunk: chunk_noise(about.noise_shape, seed, task, start, chunk),
    )
    episode = Episode(task, start, success=False, steps=0, latencies_ms=answers.latencies_ms)
    executed = min(steps_per_chunk or about.steps_per_chunk, about.chunk_length)
    with ChunkScheduler(answers, mode="sync", steps_per_chunk=executed) as scheduler:
        if on_step:
            on_step(environment)
        done = False
        while not done:
            tick = scheduler.tick(window)
            assert tick is not None, "a synchronous policy always has an action"
            # Only what the policy will be asked about is looked at.
            step = environment.step(tick.action, look=len(tick.upcoming) < about.observation_steps)
            if step.observation is not None:
                window.append(step.observation)
            episode.steps += 1
            if on_step:
                on_step(environment)
            done, episode.success = step.done, step.done and step.success
    return episode
