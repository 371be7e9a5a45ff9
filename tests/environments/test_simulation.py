"""What a policy is shown: ablations, and the last observations of an episode."""

import numpy as np
import pytest

from actquant.common.errors import EvaluationError
from actquant.environments.simulation import Ablation, Simulation, Window, swap_colours


def test_swapping_colours_names_another_object() -> None:
    before = "stack the red cube on the blue cube"
    assert swap_colours(before) == "stack the green cube on the red cube"
    assert swap_colours("pick up the left cube") == "pick up the left cube"


def test_greying_out_leaves_the_observation_itself_alone() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    observation = {"observation.images.wrist": image, "task": "pick up the red cube"}
    seen = Ablation("observation.images.wrist", wrong_colour=True).apply(observation)
    assert (seen["observation.images.wrist"] == 128).all()
    assert seen["task"] == "pick up the green cube"
    assert not image.any() and observation["task"] == "pick up the red cube"


def test_greying_out_an_unknown_camera_names_the_known_ones() -> None:
    observation = {"observation.images.wrist": np.zeros((4, 4, 3), np.uint8), "task": ""}
    with pytest.raises(EvaluationError, match="no camera 'wrist'.*observation.images.wrist"):
        Ablation("wrist").apply(observation)


def observed(value: int) -> dict:
    image = np.full((4, 4, 3), value, np.uint8)
    return {"observation.images.wrist": image, "observation.state": np.full(2, value), "task": "t"}


def test_a_window_repeats_the_first_observation_and_keeps_the_last() -> None:
    window, seen = Window(3), []
    for value in range(5):
        window.append(observed(value))
        state = window.observation["observation.state"]
        assert state.shape == (3, 2)
        assert window.observation["observation.images.wrist"].shape == (3, 4, 4, 3)
        assert window.observation["task"] == "t"
        seen.append(state[:, 0].tolist())
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_window_of_one_observation_has_no_time_axis() -> None:
    window = Window(1)
    for value in range(2):
        window.append(observed(value))
        assert window.observation["observation.state"].tolist() == [value, value]
        assert window.observation["observation.images.wrist"].shape == (4, 4, 3)


class Clock:
    """An environment whose pictures and state are the number of its step; pictures are missing
    when nobody looks at them, as in the simulator."""

    instruction = "watch"
    render_images = True

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, options: dict) -> tuple[dict, dict]:
        self.now = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.now += 1
        done = self.now == self.length
        return self._observation(), 0.0, False, done, {"is_success": False}

    def _observation(self) -> dict:
        pixels = {"wrist": np.full((2, 2, 3), self.now, np.uint8)}
        return {"agent_pos": np.array([self.now])} | (
            {"pixels": pixels} if self.render_images else {}
        )


class Watcher:
    noise_shape = (1, 1)

    def __init__(self, observation_steps: int, steps_per_chunk: int) -> None:
        self.observation_steps = observation_steps
        self.steps_per_chunk = steps_per_chunk
        self.seen: list[list[int]] = []

    def act(self, observation: dict, noise: np.ndarray) -> np.ndarray:
        state = np.asarray(observation["observation.state"])[..., 0]
        images = observation["observation.images.wrist"]
        assert np.array_equal(images[..., 0, 0, 0], state)
        self.seen.append(np.atleast_1d(state).tolist())
        return np.zeros((self.steps_per_chunk, 1))


@pytest.mark.parametrize(
    ("steps", "chunk", "expected"),
    [
        (1, 4, [[0], [4], [8]]),
        (2, 4, [[0, 0], [3, 4], [7, 8]]),
        (3, 2, [[0, 0, 0], [0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]),
    ],
)
def test_an_episode_shows_the_last_observations_at_the_control_rate(steps, chunk, expected) -> None:
    simulation = Simulation("ur3e")
    simulation.environment = lambda task: Clock(10)  # type: ignore[method-assign]
    watcher = Watcher(steps, chunk)
    episode = simulation.run_episode(watcher, "watch", 0)
    assert watcher.seen == expected
    assert (episode.steps, len(episode.latencies_ms)) == (10, len(expected))
