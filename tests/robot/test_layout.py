"""Names, order and units of what is measured and commanded, against the environment's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot_env_ur3e import UR3eEnv
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.errors import ConfigError, Refused
from lerobot_robot_ur.gripper import make_gripper
from lerobot_robot_ur.layout import (
    LAYOUTS,
    MEASURED,
    JointTargets,
    Measurement,
    demand_numbers,
    find_layout,
    read_action,
)
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.robot import ArmWithCameras
from lerobot_robot_ur.tool_motion import OPEN_M, PERIOD_S, ToolMotion
from ur_fake_controller.chain import Chain
from ur_motion import rotations
from ur_motion.control import CONTROL_PERIOD, Controller, limit_pose

TCP = (0.0, 0.0, 0.141, 0.0, 0.0, 0.0)
DATASET = Path(__file__).parents[2] / "exports/reference/calibration/meta/info.json"


@pytest.fixture(scope="module")
def env():
    return UR3eEnv("pick_cube", render_images=False)


@pytest.fixture
def measurement():
    angle = rotations.exp(np.array([0.1, -0.2, 0.3])) @ np.diag([-1.0, 1.0, -1.0])
    return Measurement(np.arange(1.0, 7.0), np.array([0.3, 0.2, 0.1]), angle, 0.05)


def features():
    return json.loads(DATASET.read_text())["features"]


def test_layouts_name_what_a_policy_of_the_simulator_was_trained_on(measurement):
    state, action = (features()[key]["names"] for key in ("observation.state", "action"))
    layout = find_layout("tool_motion")
    assert layout.state == MEASURED and len(layout.state) == 13
    by_dataset = measurement.values(state)
    np.testing.assert_array_equal(by_dataset, measurement.values(layout.state))
    np.testing.assert_allclose(
        by_dataset, [1, 2, 3, 4, 5, 6, 0.05, 0.3, 0.2, 0.1, 0.1, -0.2, 0.3], atol=1e-12
    )
    values = dict(zip(action, np.linspace(-1, 1, 7), strict=True))
    np.testing.assert_array_equal(read_action(values, layout.action), np.linspace(-1, 1, 7))


def test_lerobots_tools_pass_every_name_on():
    for layout in LAYOUTS.values():
        assert all(name.endswith((".pos", ".vel")) for name in (*layout.state, *layout.action))


def test_single_quantities_in_any_order(measurement):
    got = measurement.values(["tool_z_m", "gripper.pos", "elbow.pos", "joint_1_rad"])
    np.testing.assert_array_equal(got, [0.1, 0.05, 3.0, 1.0])


def test_names_that_do_not_exist(measurement):
    with pytest.raises(ConfigError, match=r"unknown: joint_7_rad, sholder_pan.pos; valid are "):
        measurement.values(["joint_7_rad", "joint_1_rad", "sholder_pan.pos"])
    with pytest.raises(ConfigError, match="no layout 'joint'; valid are joints, tool_motion"):
        find_layout("joint")
    names = find_layout("joints").action
    action = dict.fromkeys(names, 0.0)
    with pytest.raises(ConfigError, match=r"unknown: gripper.vel; .*elbow.pos \(joint_3_rad\)"):
        read_action(action | {"gripper.vel": 0.0}, names)
    del action["elbow.pos"], action["wrist_2.pos"]
    with pytest.raises(ConfigError, match=r"lacks elbow.pos, wrist_2.pos"):
        read_action(action, names)


def test_no_gripper_no_opening(measurement):
    without = Measurement(
        measurement.joints, measurement.tool_position, measurement.tool_rotation, None
    )
    with pytest.raises(ConfigError, match="unknown: gripper_opening_m"):
        without.values(["gripper_opening_m"])


def test_values_that_are_no_numbers_are_refused():
    names = find_layout("joints").action
    action = dict.fromkeys(names, 0.0) | {"elbow.pos": float("nan"), "wrist_1.pos": float("inf")}
    with pytest.raises(Refused) as refused:
        demand_numbers(read_action(action, names)[None], names)
    assert refused.value.reasons == ["elbow.pos is nan", "wrist_1.pos is inf"]


def test_joint_targets_are_the_action():
    space = JointTargets()
    actions = np.arange(14.0).reshape(2, 7)
    first, second = space.plan(actions, np.zeros(6))
    np.testing.assert_array_equal(first.joints, actions[0, :6])
    assert (first.gripper_opening_m, second.gripper_opening_m) == (6.0, 13.0)
    np.testing.assert_array_equal(second.action, actions[1])


def test_tool_motion_is_the_environments(env):
    """The joints commanded for a run of actions are those that the simulator commands."""
    env.reset(options={"start": 3})
    space = ToolMotion(MODELS["ur3e"], TCP)
    rng = np.random.default_rng(3)
    joints = env.unwrapped._command.joints.copy()
    for action in rng.uniform(-1.2, 1.2, (12, 7)):
        [target] = space.plan(action[None], joints)
        space.accept()
        env.step(action.astype(np.float32))
        np.testing.assert_allclose(target.joints, env._command.joints, atol=2e-5)
        assert target.gripper_opening_m == (0.0 if action[6] > 0 else OPEN_M)
    assert PERIOD_S == CONTROL_PERIOD


def test_upcoming_tool_motions_go_on_from_the_first(env):
    env.reset(options={"start": 3})
    joints = env._command.joints.copy()
    actions = np.random.default_rng(4).uniform(-1, 1, (4, 7))
    ahead, alone = ToolMotion(MODELS["ur3e"], TCP), ToolMotion(MODELS["ur3e"], TCP)
    planned = ahead.plan(actions, joints)
    ahead.accept()
    for action, target in zip(actions, planned, strict=True):
        [one] = alone.plan(action[None], joints)
        alone.accept()
        np.testing.assert_allclose(one.joints, target.joints, atol=1e-12)
    # Only the first was accepted: the next plan begins after it.
    [again] = ahead.plan(actions[1:2], joints)
    np.testing.assert_allclose(again.joints, planned[1].joints, atol=1e-12)


def test_tool_motion_says_what_was_taken_over(env):
    env.reset(options={"start": 3})
    joints = env._command.joints.copy()
    space = ToolMotion(MODELS["ur3e"], TCP)
    inside = np.array([0.2, -0.3, 0.4, 0.1, 0.2, -0.1, 0.7])
    [target] = space.plan(inside[None], joints)
    np.testing.assert_allclose(target.action, inside, atol=1e-9)
    [clipped] = space.plan(np.array([[0, 0, 3.0, 0, 0, 0, 2.0]]), joints)
    np.testing.assert_allclose(clipped.action, [0, 0, 1, 0, 0, 0, 1], atol=1e-9)
    for _ in range(30):  # down to the table
        [target] = space.plan(np.array([[0, 0, -1.0, 0, 0, 0, -1]]), joints)
        space.accept()
    np.testing.assert_allclose(target.action[:6], 0, atol=1e-3)


def test_tool_motion_begins_where_the_arm_is_after_it_was_moved_otherwise(env):
    env.reset(options={"start": 3})
    joints = env._command.joints.copy()
    space = ToolMotion(MODELS["ur3e"], TCP)
    still = np.array([[0.0] * 6 + [-1.0]])
    [target] = space.plan(still, joints)
    space.accept()
    np.testing.assert_allclose(target.joints, joints, atol=1e-3)
    elsewhere = joints + [0.1, 0, 0, 0, 0, 0]
    [unaware] = space.plan(still, elsewhere)
    np.testing.assert_allclose(unaware.joints, joints, atol=1e-3)
    space.forget()
    [aware] = space.plan(still, elsewhere)
    np.testing.assert_allclose(aware.joints, elsewhere, atol=1e-3)


def test_what_was_planned_is_not_solved_for_again(env, monkeypatch):
    env.reset(options={"start": 3})
    joints = env._command.joints.copy()
    actions = np.random.default_rng(5).uniform(-1, 1, (5, 7))
    space = ToolMotion(MODELS["ur3e"], TCP)
    solved, advance = [], space._controller.advance

    def counted(command, motion):
        solved.append(motion)
        return advance(command, motion)

    monkeypatch.setattr(space._controller, "advance", counted)
    planned = space.plan(actions[:4], joints)
    space.accept()
    again = space.plan(actions[1:5], joints)
    assert again[:3] == planned[1:] and len(solved) == 5
    changed = actions[1:5].copy()
    changed[1] += 0.1
    other = space.plan(changed, joints)
    assert other[0] is again[0] and len(solved) == 8
    space.forget()
    space.plan(actions[1:2], joints)
    assert len(solved) == 9


@pytest.mark.parametrize("kind", ["robotiq_2f85", "rg2", "rg6", "2fg7"])
def test_a_gripper_opens_as_wide_as_the_simulators_or_as_it_can(kind):
    config = ArmConfig("127.0.0.1", gripper=kind)
    driver = ArmWithCameras(Arm(config), layout="tool_motion")
    gripper = make_gripper(kind, config.ip)
    joints = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])
    opened, closed = driver._space.plan(np.array([[0] * 6 + [-1], [0] * 6 + [1]]), joints)
    assert opened.gripper_opening_m == {"2fg7": 0.070}.get(kind, 0.085)
    assert opened.gripper_opening_m <= gripper.stroke_m
    assert closed.gripper_opening_m == 0.0


@pytest.mark.parametrize("turn", [0.0, 0.5])
@pytest.mark.parametrize("model", ["ur3e", "ur3"])
def test_the_tool_point_is_the_configured_one(model, turn):
    tcp = (0.0, 0.0, 0.18, 0.0, 0.0, turn)
    chain = Chain(MODELS[model], tcp)
    # The flange points straight down.
    joints = Controller(MODELS[model].arm).start_at(np.array([-0.28, 0.0, 0.09])).joints
    space = ToolMotion(MODELS[model], tcp)
    position, rotation = chain.tool(joints)
    motion = np.array([0.0, 0.4, -0.4, 0, 0, 0, -1.0])
    # The joints come after the tool's command within a few periods.
    target = space.plan(np.stack([motion, *[motion * 0] * 8]), joints)[-1]
    expected, rotation = limit_pose(position + 0.025 * motion[:3], rotation)
    np.testing.assert_allclose(chain.tool(target.joints)[0], expected, atol=1e-4)
    np.testing.assert_allclose(chain.tool(target.joints)[1], rotation, atol=1e-3)
