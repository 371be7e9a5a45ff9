import numpy as np
import pytest

from actquant.common.errors import EvaluationError
from actquant.environments.base import open_suite, parse_perturb
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


def test_what_is_perturbed_is_alike_for_all_and_nothing_at_level_0(suite) -> None:
    task, kinds = suite.tasks[0], {"light": 2, "instruction": 1}
    plain = suite.environment(task).reset(7)
    first, other = (open_suite("ur3e", kinds).environment(task).reset(7) for _ in range(2))
    nothing = open_suite("ur3e", dict.fromkeys(kinds, 0)).environment(task).reset(7)
    for key in plain:
        np.testing.assert_array_equal(first[key], other[key])
        np.testing.assert_array_equal(nothing[key], plain[key])
        assert np.array_equal(first[key], plain[key]) == (key == "observation.state")
    assert suite.about.conventions == {}
    assert open_suite("ur3e", kinds).about.conventions == {"perturbations": "version 1"}
    assert suite.mislead(str(first["task"])) != first["task"]


def test_perturbations_are_parsed_and_refused() -> None:
    assert parse_perturb("camera=1,light=0,texture=3") == {"camera": 1, "texture": 3}
    assert parse_perturb("") == {}
    for text, told in [
        ("camera", "is no KIND=LEVEL"),
        ("camera=4", "levels 0 to 3"),
        ("camera=-1", "levels 0 to 3"),
        ("camera=1.5", "levels 0 to 3"),
        ("=1", "is no KIND=LEVEL"),
        ("camera=1,", "is no KIND=LEVEL"),
        ("camera=1,camera=2", "has camera twice"),
    ]:
        with pytest.raises(EvaluationError, match=told):
            parse_perturb(text)
    with pytest.raises(EvaluationError, match="no perturbation 'fog'; it has camera, light"):
        open_suite("ur3e", {"fog": 1})
    with pytest.raises(EvaluationError, match="'libero_goal' has no perturbations; ur3e has"):
        open_suite("libero_goal", {"light": 1})


def test_a_hold_moves_nothing_but_keeps_the_gripper(suite) -> None:
    environment = suite.environment(suite.tasks[0])
    environment.reset(7)
    before = environment.step(np.array([0.5, 0.2, -0.5, 0, 0, 0, 1], np.float32)).observation
    for _ in range(4):  # until the servo has arrived
        after = environment.step(environment.hold(np.ones(7, np.float32))).observation
    again = environment.step(environment.hold(np.ones(7, np.float32))).observation
    assert before is not None and after is not None and again is not None
    tool = slice(7, 10)
    moved = again["observation.state"][tool] - after["observation.state"][tool]
    assert np.abs(moved).max() < 1e-4 and again["observation.state"][6] < 0.06
    assert environment.hold(None).tolist() == [0] * 6 + [-1]
