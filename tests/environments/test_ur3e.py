import numpy as np
import pytest

from actquant.common.errors import EvaluationError
from actquant.environments.base import open_suite
from actquant.environments.ur3e import UR3eSuite


@pytest.fixture(scope="module")
def suite() -> UR3eSuite:
    return UR3eSuite()


def test_misleading_names_another_object(suite) -> None:
    before = "stack the red cube on the blue cube"
    assert suite.mislead(before) == "stack the green cube on the red cube"
    assert suite.mislead("pick up the left cube") == "pick up the left cube"


def test_a_start_looks_the_same_each_time_and_a_step_shows_what_is_asked_for(suite) -> None:
    environment = suite.environment(suite.tasks[0])
    assert environment is suite.environment(suite.tasks[0])
    assert suite.cameras == ("observation.images.scene", "observation.images.wrist")
    first, again = environment.reset(7), environment.reset(7)
    assert (
        first.keys()
        == again.keys()
        == {
            *suite.cameras,
            "observation.state",
            "task",
        }
    )
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    unseen = environment.step(np.zeros(7, np.float32), look=False)
    assert unseen.observation is None and not unseen.done and not unseen.success
    seen = environment.step(np.zeros(7, np.float32))
    assert seen.observation is not None and seen.observation["task"] == first["task"]
    assert environment.render().shape == (256, 256, 3)


def test_what_there_is_is_listed(suite) -> None:
    assert open_suite("ur3e").tasks == suite.tasks
    with pytest.raises(EvaluationError, match="no environment 'moon'; choose one of .*'ur3e'"):
        open_suite("moon")
    with pytest.raises(EvaluationError, match="has no task 'fly'; it has"):
        suite.environment("fly")
