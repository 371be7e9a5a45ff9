"""Numbered starts: the same on every machine, ambiguous without colour and shape."""

import hashlib

import numpy as np
import pytest
from lerobot_env_ur3e import FIRST_TRAINING_START, STARTS_VERSION, TASK_NAMES
from lerobot_env_ur3e.scene import OBJECTS
from lerobot_env_ur3e.starts import SPACING, make_start
from lerobot_env_ur3e.tasks import TASKS, find_task

# Results name their starts: if these change, STARTS_VERSION has to change with them.
GOLDEN = {
    "pick_cube": "a36a23189882fabc",
    "pick_cylinder": "9d1b4818668dbe6a",
    "place_tray": "3556ad76399c8652",
    "push_zone": "360a77fce1d9e50d",
    "stack": "c43577dfb785b3b1",
    "pick_side": "4226fbb3ec9225de",
}
GOLDEN_JOINTS = [-0.324508, -1.487791, 1.712616, -1.795621, -1.570798, -1.895303]


def digest(task: str) -> str:
    """Hash of the first ten starts of a task, exact to the last bit."""
    sha = hashlib.sha256()
    for k in range(10):
        s = make_start(find_task(task), k)
        sha.update(repr((s.instruction, s.present, s.target, s.support, s.side)).encode())
        for array in (s.positions, s.yaws, s.tool):
            sha.update(array.astype("<f8").tobytes())
    return sha.hexdigest()[:16]


def test_version():
    assert STARTS_VERSION == 1


@pytest.mark.parametrize("task", TASK_NAMES)
def test_starts_are_the_golden_ones(task):
    assert digest(task) == GOLDEN[task]


def test_the_robot_starts_in_the_golden_configuration(blind_env):
    env = blind_env("pick_cube")
    env.reset(options={"start": 0})
    np.testing.assert_allclose(env._world.data.qpos[env._world.joints], GOLDEN_JOINTS, atol=2e-6)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_starts_are_sound(task):
    instructions = set()
    for k in range(150):
        s = make_start(task, k)
        instructions.add(s.instruction)
        assert s.instruction == s.instruction.lower() and len(s.instruction.split()) <= 11
        assert len(set(s.present)) == 3 and s.present[0] == s.target
        gaps = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=-1)
        assert gaps[np.triu_indices(3, 1)].min() >= SPACING
    expected = {"pick_cube": 3, "pick_cylinder": 3, "place_tray": 12, "push_zone": 12,
                "stack": 6, "pick_side": 4}  # fmt: skip
    assert len(instructions) == expected[task.name]


@pytest.mark.parametrize("name", ["pick_cube", "pick_cylinder", "place_tray", "push_zone"])
def test_neither_colour_nor_shape_alone_names_the_target(name):
    same_colour = same_shape = 0
    for k in range(200):
        s = make_start(find_task(name), k)
        colour, shape = OBJECTS[s.target].split()
        others = [OBJECTS[i].split() for i in s.present[1:]]
        same_colour += any(c == colour for c, _ in others)
        same_shape += any(sh == shape for _, sh in others)
    assert same_colour > 80 and same_shape > 80


def test_side_of_pick_side_is_plain():
    for k in range(100):
        s = make_start(find_task("pick_side"), k)
        left_of = s.positions[0, 1] - s.positions[1, 1]
        assert left_of > 0.05 if s.side == "left" else left_of < -0.05


def test_reset_chooses_starts(blind_env):
    env = blind_env("stack")
    assert env.reset(seed=12)[1]["start"] == 12
    assert env.reset(seed=12, options={"start": 3})[1]["start"] == 3
    assert env.reset(options={"something_else": True})[1]["start"] >= FIRST_TRAINING_START
    with pytest.raises(ValueError, match="0 or more"):
        env.reset(options={"start": -1})


def test_unknown_task_lists_the_names():
    with pytest.raises(ValueError, match="pick_cube, pick_cylinder"):
        find_task("juggle")
