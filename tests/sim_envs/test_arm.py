"""The arm: the model is the published numbers, and control stays within its limits."""

import math

import mujoco
import numpy as np
import pytest
from lerobot_env_ur3e.arm import BODIES
from lerobot_env_ur3e.scene import FINGER_STROKE, PAD_HALF, kinematics_xml, scene_xml
from ur_motion.arms import DH_ALPHA, JOINT_LIMIT, JOINT_NAMES, MAX_SPEED, UR3E
from ur_motion.control import (
    CONTROL_PERIOD,
    FINGERTIP,
    MAX_TILT,
    TOOL_OFFSET,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
)


def forward_kinematics(joints):
    """Flange pose [4, 4] (m) at joint positions [6] (rad), as a product of DH matrices."""
    pose = np.eye(4)
    for angle, a, d, alpha in zip(joints, UR3E.dh_a, UR3E.dh_d, DH_ALPHA, strict=True):
        c, s, ca, sa = math.cos(angle), math.sin(angle), math.cos(alpha), math.sin(alpha)
        pose = pose @ [
            [c, -s * ca, s * sa, a * c],
            [s, c * ca, -c * sa, a * s],
            [0.0, sa, ca, d],
            [0.0, 0.0, 0.0, 1.0],
        ]
    return pose


@pytest.mark.parametrize("xml", [scene_xml(), kinematics_xml()], ids=["scene", "arm alone"])
def test_forward_kinematics_is_dh(xml):
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    addresses = [model.joint(j).qposadr[0] for j in JOINT_NAMES]
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


def test_what_control_knows_of_the_gripper_is_the_scenes():
    assert (PAD_HALF[0], FINGER_STROKE + 2 * PAD_HALF[1], PAD_HALF[2]) == FINGERTIP


def test_the_bodies_turn_with_the_joints():
    model = mujoco.MjModel.from_xml_string(kinematics_xml())
    bodies = [model.body(model.jnt_bodyid[model.joint(j).id]).name for j in JOINT_NAMES]
    assert bodies == list(BODIES)


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
