"""What a policy is shown in an episode, and which noise it samples from."""

import numpy as np
import pytest

from actquant.control.noise import chunk_noise
from actquant.control.policy import PolicyDescription
from actquant.environments.base import Step
from actquant.evaluation.rollout import Ablation, run_episode


def test_greying_out_leaves_the_observation_itself_alone() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    observation = {"observation.images.wrist": image, "task": "pick up the red cube"}
    seen = Ablation("observation.images.wrist", wrong_instruction=True).apply(observation, Clock(1))
    assert (seen["observation.images.wrist"] == 128).all()
    assert seen["task"] == "pick up the green cube"
    assert not image.any() and observation["task"] == "pick up the red cube"


class Clock:
    """A suite whose only environment shows the number of its step; nothing is seen when nobody
    looks, as in the simulator."""

    tasks = ("watch",)
    cameras = ("observation.images.wrist",)
    distribution = "numpy"

    def __init__(self, length: int) -> None:
        self.length = length

    def mislead(self, instruction: str) -> str:
        return instruction.replace("red", "green")

    def environment(self, task: str) -> "Clock":
        return self

    def reset(self, start: int) -> dict:
        self.now = 0
        return self.observation()

    def step(self, action: np.ndarray, *, look: bool = True) -> Step:
        self.now += 1
        done = self.now == self.length
        return Step(self.observation() if look else None, done, success=True)

    def render(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def observation(self) -> dict:
        image = np.full((2, 2, 3), self.now, np.uint8)
        return {
            "observation.images.wrist": image,
            "observation.state": np.array([self.now]),
            "task": "watch",
        }


class Watcher:
    def __init__(self, observation_steps: int, steps_per_chunk: int) -> None:
        self.observation_steps = observation_steps
        self.steps_per_chunk = steps_per_chunk
        self.seen: list[list[int]] = []
        self.noise: list[np.ndarray] = []

    def describe(self) -> PolicyDescription:
        return PolicyDescription(
            name="watcher",
            cameras=("observation.images.wrist",),
            optional_cameras=0,
            image_size=(2, 2),
            state_names=("now",),
            action_names=("nothing",),
            control_rate_hz=10.0,
            chunk_length=self.steps_per_chunk,
            steps_per_chunk=self.steps_per_chunk,
            observation_steps=self.observation_steps,
            noise_shape=(1, 1),
            supports_guidance=False,
        )

    worst = 0.0

    def act(self, observation, *, noise=None, previous=None) -> np.ndarray:
        state = np.asarray(observation["observation.state"])[..., 0]
        images = observation["observation.images.wrist"]
        assert np.array_equal(images[..., 0, 0, 0], state)
        self.seen.append(np.atleast_1d(state).tolist())
        self.noise.append(noise)
        chunk = np.zeros((self.steps_per_chunk, 1), np.float32)
        if len(self.seen) == 3:
            chunk[1] = self.worst
        return chunk


@pytest.mark.parametrize(
    ("steps", "chunk", "expected"),
    [
        (1, 4, [[0], [4], [8]]),
        (2, 4, [[0, 0], [3, 4], [7, 8]]),
        (3, 2, [[0, 0, 0], [0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]),
    ],
)
def test_an_episode_shows_the_last_observations_at_the_control_rate(steps, chunk, expected) -> None:
    watcher = Watcher(steps, chunk)
    episode = run_episode(Clock(10), watcher, "watch", 0, seed=3)
    assert watcher.seen == expected
    assert (episode.steps, len(episode.latencies_ms)) == (10, len(expected))
    assert episode.success
    for number, noise in enumerate(watcher.noise):
        np.testing.assert_array_equal(noise, chunk_noise((1, 1), 3, "watch", 0, number))


def test_more_steps_than_a_chunk_has_are_no_more_than_the_chunk() -> None:
    watcher = Watcher(1, 4)
    run_episode(Clock(10), watcher, "watch", 0, steps_per_chunk=9)
    assert watcher.seen == [[0], [4], [8]]


@pytest.mark.parametrize("worst", [np.nan, -np.inf])
def test_a_policy_in_python_that_gives_no_numbers_fails_by_name(worst: float) -> None:
    watcher = Watcher(1, 4)
    watcher.worst = worst
    episode = run_episode(Clock(100), watcher, "watch", 0)
    told = "the policy gave a non-finite action: step 1, nothing of chunk 2"
    assert (episode.success, episode.failure, episode.steps) == (False, told, 8)
