"""The arm: the model is the published numbers, and control stays within its limits."""

import mujoco
import numpy as np
import pytest
from lerobot_env_ur3e import rotations
from lerobot_env_ur3e.arm import JOINT_LIMIT, JOINTS, MAX_SPEED, forward_kinematics
from lerobot_env_ur3e.control import (
    CONTROL_PERIOD,
    MAX_TILT,
    STRAIGHT_DOWN,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    limit_pose,
)
from lerobot_env_ur3e.scene import TOOL_OFFSET
from lerobot_env_ur3e.simulator import shared_simulator


@pytest.mark.parametrize("which", ["model", "kinematics"])
def test_forward_kinematics_is_dh(which):
    model = getattr(shared_simulator(), which)
    data = mujoco.MjData(model)
    addresses = [model.joint(j).qposadr[0] for j in JOINTS]
    flange, tool = model.site("flange").id, model.site("tool").id
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = rng.uniform(-3, 3, 6)
        data.qpos[addresses] = q
        mujoco.mj_kinematics(model, data)
        pose = forward_kinematics(q)
        assert np.abs(data.site_xpos[flange] - pose[:3, 3]).max() < 1e-9
        assert np.abs(data.site_xmat[flange].reshape(3, 3) - pose[:3, :3]).max() < 1e-9
        tool_point = pose[:3, 3] + TOOL_OFFSET * pose[:3, 2]
        assert np.abs(data.site_xpos[tool] - tool_point).max() < 1e-9


def test_rotation_vectors_invert():
    rng = np.random.default_rng(1)
    for scale in (1e-10, 1e-4, 1.0, 3.0):
        axis = rng.standard_normal(3)
        vector = axis / np.linalg.norm(axis) * scale
        np.testing.assert_allclose(rotations.log(rotations.exp(vector)), vector, atol=1e-9)


def test_limit_pose_keeps_the_tilted_gripper_off_the_table():
    tilted = rotations.exp(np.array([0.6, 0.0, 0.0])) @ STRAIGHT_DOWN
    position, rotation = limit_pose(np.array([-0.3, 0.0, -0.5]), tilted)
    np.testing.assert_allclose(rotation, tilted)
    assert position[2] > WORKSPACE_LOW[2]  # a fingertip reaches lower than the tool point
    _, rotation = limit_pose(position, rotations.exp(np.array([2.0, 0, 0])) @ STRAIGHT_DOWN)
    assert np.linalg.norm(rotations.log(rotation @ STRAIGHT_DOWN.T)) == pytest.approx(MAX_TILT)


@pytest.mark.parametrize("seed", range(3))
def test_limits_hold_under_stubborn_random_actions(blind_env, seed):
    env = blind_env("pick_cube")
    env.reset(options={"start": seed})
    rng = np.random.default_rng(seed)
    before = env._command.joints
    for step in range(120):
        if step % 12 == 0:  # long pushes in one direction reach every limit
            action = np.sign(rng.standard_normal(7)) * rng.uniform(0.5, 3.0, 7)
        env.step(action.astype(np.float32))
        command = env._command
        assert np.all(command.position >= WORKSPACE_LOW - 0.011)
        assert np.all(command.position <= WORKSPACE_HIGH + 0.011)
        assert np.linalg.norm(command.rotation_vector) <= MAX_TILT + 1e-6
        speed = np.abs(command.joints - before) / CONTROL_PERIOD
        assert np.all(speed <= np.array(MAX_SPEED) + 1e-6)
        assert np.all(np.abs(command.joints) <= np.array(JOINT_LIMIT))
        # The servo may swing a little past its command.
        measured = env._world.data.qpos[env._world.joints]
        assert np.all(np.abs(measured) <= np.array(JOINT_LIMIT) + 0.01)
        assert env._world.data.site_xpos[env._world.tool][2] > 0.0
        before = command.joints


def test_joint_limits_hold_where_the_target_lies_beyond_them(blind_env):
    env = blind_env("pick_cube")
    env.reset(options={"start": 0})
    command = env._command.copy()
    for _ in range(60):  # turn about the vertical for as long as it goes
        command.rotation = rotations.exp(np.array([0, 0, 0.5])) @ command.rotation
        command.joints = env._controller._solve(command.joints, command.position, command.rotation)
        assert np.all(np.abs(command.joints) <= np.array(JOINT_LIMIT))
