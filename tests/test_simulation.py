"""Ablations of what a policy is shown."""

import numpy as np
import pytest

from actquant.errors import EvaluationError
from actquant.simulation import Ablation, swap_colours


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
