import numpy as np

from actquant.control.window import ObservationWindow


def observed(value: int) -> dict:
    image = np.full((4, 4, 3), value, np.uint8)
    return {"observation.images.wrist": image, "observation.state": np.full(2, value), "task": "t"}


def test_a_window_repeats_the_first_observation_and_keeps_the_last() -> None:
    window, seen = ObservationWindow(3), []
    for value in range(5):
        window.append(observed(value))
        state = window.observation["observation.state"]
        assert state.shape == (3, 2)
        assert window.observation["observation.images.wrist"].shape == (3, 4, 4, 3)
        assert window.observation["task"] == "t"
        seen.append(state[:, 0].tolist())
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_window_of_one_observation_has_no_time_axis() -> None:
    window = ObservationWindow(1)
    for value in range(2):
        window.append(observed(value))
        assert window.observation["observation.state"].tolist() == [value, value]
        assert window.observation["observation.images.wrist"].shape == (4, 4, 3)
