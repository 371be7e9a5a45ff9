"""The benchmark of chunks that take time: simulated delays, and what counts as a seam."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("lerobot_env_ur3e") is None:
    pytest.skip("lerobot_env_ur3e is not installed", allow_module_level=True)

from seams import (
    HEADINGS,
    HOLDING,
    PERIOD_S,
    Course,
    Smoothness,
    measure,
    row,
    run_episode,
)

from actquant.environments.base import open_suite

CHUNK, STEPS = 8, 4


@pytest.fixture(scope="module")
def env():
    return open_suite("ur3e").environment("pick_cube").env


class Policy:
    """Chunk n moves along x by (n + 1) / 10 in every step."""

    def __init__(self):
        self.previous = []

    def act(self, observation, previous, chunk):
        self.previous.append(previous)
        actions = np.zeros((CHUNK, 7), np.float32)
        actions[:, 0] = (chunk + 1) / 10 % 0.5
        actions[:, 6] = 1
        return actions


class Expert:
    """Repeats the expert's action, which depends on the state alone."""

    noise_shape = (2,)

    def __init__(self, env):
        self.env = env
        self.noise = []

    def act(self, observation, noise, previous=None):
        self.noise.append(noise.tolist())
        return np.repeat(self.env.expert_action()[None], CHUNK, 0)


def drive(env, mode, delay):
    policy = Policy()
    course = run_episode(env, policy.act, 0, mode=mode, delay=delay, steps_per_chunk=STEPS)
    assert not course.success
    return course, policy


def test_in_sync_the_arm_holds_while_the_policy_thinks(env):
    course, policy = drive(env, "sync", 2)
    expected = [0] * 4 + [HOLDING] * 2 + [1] * 4 + [HOLDING] * 2 + [2] * 4
    assert course.chunks[:16].tolist() == expected
    assert (course.actions[4:6, :6] == 0).all() and (course.actions[4:6, 6] == 1).all()
    assert set(policy.previous) == {None}
    assert course.steps == len(course.actions) + 2


@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_otherwise_chunks_change_while_it_moves(env, mode):
    course, policy = drive(env, mode, 3)
    assert course.chunks[:19].tolist() == [0] * 7 + [1] * 4 + [2] * 4 + [3] * 4
    assert HOLDING not in course.chunks
    first, *later = policy.previous
    assert first is None
    if mode == "async":
        assert set(later) == {None}
    else:
        assert [len(previous.actions) for previous in later] == [4] * len(later)
        assert [previous.delay for previous in later] == [3] * len(later)


def test_without_delay_all_modes_do_the_same(env):
    courses = [drive(env, mode, 0)[0] for mode in ("sync", "async", "rtc")]
    for course in courses[1:]:
        np.testing.assert_array_equal(course.actions, courses[0].actions)
        np.testing.assert_array_equal(course.joints, courses[0].joints)


def test_a_cell_has_every_task_from_every_start_with_the_same_noise():
    suite = open_suite("ur3e")
    env = suite.environment("pick_cube").env
    cells, noise = [], []
    for mode in ("sync", "async"):
        expert = Expert(env)
        settings = {"mode": mode, "delay": 0, "steps_per_chunk": 1}
        cells.append(measure(expert, suite, ["pick_cube"], [0, 1], **settings))  # type: ignore[arg-type]
        noise.append(expert.noise)
    assert cells[0].episodes == cells[1].episodes and noise[0] == noise[1]
    assert [episode[:3] for episode in cells[0].episodes] == [
        ("pick_cube", 0, True),
        ("pick_cube", 1, True),
    ]
    assert (cells[0].n, cells[0].successes) == (2, 2)
    assert cells[0].inside.steps == 0 and cells[0].inside.jump_rms is None
    assert len(row(cells[0])) == len(HEADINGS) and row(cells[0])[:3] == ["sync", "0", "2/2"]


def test_jump_and_jerk_are_counted_where_they_are():
    """One joint at constant speed, which changes by 1 rad/s at one seam."""
    speed = np.array([1.0] * 6 + [2.0] * 6)
    joints = np.zeros((13, 6))
    joints[1:, 2] = np.cumsum(speed * PERIOD_S)
    actions = np.zeros((12, 7))
    actions[:, 0] = speed
    actions[5:, 6] = 1  # the gripper is no motion
    course = Course(actions, joints, np.repeat([0, 1, 2], [6, 4, 2]), steps=12, success=True)
    seams, inside = (Smoothness.of([course], at_seams=kind) for kind in (True, False))
    assert (seams.steps, inside.steps) == (2, 9)
    assert seams.jump_rms == pytest.approx(np.sqrt(1 / 2))
    assert inside.jump_rms == 0
    # The change of 1 rad/s in a step of 0.1 s is 10 rad/s² on and off again: two of four jerks.
    assert seams.jerk_rms == pytest.approx(100 * np.sqrt(2 / 4))
    assert inside.jerk_rms == pytest.approx(0, abs=1e-9)


def test_an_episode_without_a_seam_has_no_figure_for_it():
    course = Course(np.zeros((5, 7)), np.zeros((6, 6)), np.zeros(5, int), steps=5, success=True)
    assert Smoothness.of([course], at_seams=True) == Smoothness(0, None, None, None)
