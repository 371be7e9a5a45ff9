"""The environment: its interface, exact snapshots, predicates, the expert."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from lerobot_env_ur3e import GYM_IDS, TASK_NAMES, UR3eEnv
from lerobot_env_ur3e.check_expert import Disturbance, check_task, main
from lerobot_env_ur3e.scene import OBJECTS, TRAY
from lerobot_env_ur3e.tasks import PUSH_CEILING


@pytest.fixture(scope="module")
def seeing_env() -> UR3eEnv:
    return UR3eEnv("pick_cube")


def test_observation(seeing_env):
    observation, _ = seeing_env.reset(options={"start": 0})
    assert seeing_env.observation_space.contains(observation)
    assert observation["agent_pos"].dtype == np.float32
    state = seeing_env._state()
    np.testing.assert_allclose(observation["agent_pos"][7:10], state.tool, atol=1e-6)
    np.testing.assert_allclose(observation["agent_pos"][10:13], 0, atol=1e-3)  # straight down
    assert observation["agent_pos"][6] == pytest.approx(0.0854, abs=1e-3)
    for picture in observation["pixels"].values():
        assert picture.std() > 20  # something is to be seen
    assert seeing_env.render().shape == (256, 256, 3)


def test_target_is_seen_in_its_colour(seeing_env):
    for k in range(6):
        observation, _ = seeing_env.reset(options={"start": k})
        channel = ["red", "green", "blue"].index(seeing_env.instruction.split()[3])
        picture = observation["pixels"]["scene"].astype(int)
        others = np.delete(picture, channel, axis=2).max(-1)
        assert (picture[..., channel] - others > 60).sum() >= 15, seeing_env.instruction


def test_gymnasium_accepts_it():
    env = gymnasium.make(GYM_IDS["push_zone"])
    check_env(env.unwrapped, skip_render_check=True)
    assert isinstance(env.unwrapped, UR3eEnv)


@pytest.mark.parametrize(
    "action, message",
    [
        ([0, 0, np.nan, 0, 0, 0, 0], "finite"),
        ([0, 0, np.inf, 0, 0, 0, 0], "finite"),
        ([0] * 6, r"shape \(7,\), got \(6,\)"),
        ([[0] * 7], r"shape \(7,\), got \(1, 7\)"),
    ],
)
def test_impossible_actions_are_refused_and_change_nothing(blind_env, action, message):
    env = blind_env("pick_cube")
    env.reset(options={"start": 0})
    before = env._world.data.qpos.copy()
    with pytest.raises(ValueError, match=message):
        env.step(np.array(action, np.float32))
    assert np.array_equal(before, env._world.data.qpos) and env.steps == 0


def test_snapshot_continues_bit_for_bit():
    env, other = UR3eEnv("stack"), UR3eEnv("stack")
    env.reset(options={"start": 4})
    rng = np.random.default_rng(0)
    for _ in range(12):
        env.step(env.expert_action() + rng.uniform(-0.2, 0.2, 7).astype(np.float32))
    snapshot = env.snapshot()
    actions = rng.uniform(-1, 1, (15, 7)).astype(np.float32)
    first = [env.step(a)[0] for a in actions]
    for again in (env, other):
        again.restore(snapshot)
        assert again.steps == 12 and again.instruction == env.instruction
        for action, expected in zip(actions, first, strict=True):
            got = again.step(action)[0]
            assert np.array_equal(got["agent_pos"], expected["agent_pos"])
            for camera in ("scene", "wrist"):
                assert np.array_equal(got["pixels"][camera], expected["pixels"][camera])


def test_snapshot_of_another_task_is_refused(blind_env):
    with pytest.raises(ValueError, match="is of task 'stack'"):
        blind_env("pick_cube").restore(blind_env("stack").snapshot())


@pytest.mark.parametrize("task", TASK_NAMES)
def test_no_start_is_already_a_success(blind_env, task):
    env = blind_env(task)
    for k in range(100):
        env.reset(options={"start": k})
        assert not env.is_success()


@pytest.mark.parametrize("task", TASK_NAMES)
def test_expert(blind_env, task):
    env = blind_env(task)
    for k in range(8):
        _, info = env.reset(options={"start": k})
        success = truncated = False
        while not (success or truncated):
            action = env.expert_action()
            assert action.dtype == np.float32 and np.abs(action).max() <= 1
            _, reward, success, truncated, info = env.step(action)
        assert success and reward == 1.0 and info["is_success"] and env.is_success(), (task, k)


@pytest.mark.parametrize("task", ["push_zone", "stack"])
def test_expert_recovers(task):
    report = check_task(task, range(6), Disturbance(noise=0.2, scramble=8))
    assert report.successes >= 5


def test_expert_is_a_function_of_the_state(blind_env):
    env = blind_env("place_tray")
    env.reset(options={"start": 0})
    for _ in range(10):
        env.step(env.expert_action())
    expected = env.expert_action()
    snapshot = env.snapshot()
    env.reset(options={"start": 5})
    env.restore(snapshot)
    assert np.array_equal(env.expert_action(), expected)


def _put(env: UR3eEnv, position: np.ndarray) -> None:
    address = env._world.free[env._start.target]
    env._world.data.qpos[address : address + 3] = position
    env._world.refresh()


def test_placing_needs_release_and_the_right_tray(blind_env):
    env = blind_env("place_tray")
    env.reset(options={"start": 0})
    right_side = env._start.side or ""
    wrong_side = {"left": "right", "right": "left"}[right_side]
    _put(env, np.array([*TRAY[wrong_side], 0.02]))
    assert not env.is_success()
    _put(env, np.array([*TRAY[right_side], 0.02]))
    assert env.is_success() is True
    env._world.data.qpos[env._world.fingers] = 0.02
    assert not env.is_success()


def test_a_lifted_object_was_not_pushed(blind_env):
    env = blind_env("push_zone")
    env.reset(options={"start": 0})
    goal = env.privileged()["goal"]
    _put(env, goal)
    assert env.is_success()
    _put(env, goal + [0, 0, PUSH_CEILING + 0.08])
    env.step(np.zeros(7, np.float32))  # it falls 5 cm meanwhile
    _put(env, goal)
    assert not env.is_success()


def test_truncation_and_privileged_state():
    env = UR3eEnv("pick_side", max_episode_steps=3, render_images=False)
    env.reset(options={"start": 0})
    ends = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    privileged = env.privileged()
    assert privileged["objects"].shape == (len(OBJECTS), 3) and privileged["present"].sum() == 3
    assert privileged["present"][privileged["target"]]


def test_absent_objects_stay_parked(blind_env):
    env = blind_env("pick_cube")
    env.reset(options={"start": 1})
    absent = set(range(6)) - set(env._start.present)
    before = {i: env._world.data.xpos[env._world.bodies[i]].copy() for i in absent}
    for _ in range(40):
        env.step(np.zeros(7, np.float32))
    for i in absent:
        np.testing.assert_allclose(env._world.data.xpos[env._world.bodies[i]], before[i], atol=1e-9)


def test_check_expert_tool(capsys):
    assert main(["--tasks", "pick_cube", "--starts", "0:2", "--json"]) == 0
    assert '"successes": 2' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--tasks", "juggle"])


def test_core_needs_neither_torch_nor_lerobot():
    code = (
        "import sys, lerobot_env_ur3e as e; e.UR3eEnv('stack').reset();"
        "assert not {'torch', 'lerobot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
