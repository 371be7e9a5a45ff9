"""Commands stay in the workspace and within the joints' limits; nothing moves by itself."""

import numpy as np
import pytest
from ur_motion import rotations
from ur_motion.arms import JOINT_LIMIT, UR3, UR3E
from ur_motion.chain import Chain
from ur_motion.control import (
    CONTROL_PERIOD,
    HOME,
    MAX_TILT,
    STRAIGHT_DOWN,
    TOOL_POINT,
    TRANSLATION_STEP,
    WORKSPACE_LOW,
    Controller,
    limit_pose,
)
from ur_motion.inverse import InverseKinematics

# Its tool still is within the tilt limit where a straight one points straight down.
TURNED = (0.01, -0.02, 0.18, 0.0, 0.0, 0.5)


def straight_down(arm):
    """Joint positions [6] (rad) at which the flange points straight down."""
    return Controller(arm).start_at(np.array([-0.28, 0.0, 0.13])).joints


def test_limit_pose_keeps_the_tilted_gripper_off_the_table():
    tilted = rotations.exp(np.array([0.6, 0.0, 0.0])) @ STRAIGHT_DOWN
    position, rotation = limit_pose(np.array([-0.3, 0.0, -0.5]), tilted)
    np.testing.assert_allclose(rotation, tilted)
    assert position[2] > WORKSPACE_LOW[2]  # a fingertip reaches lower than the tool point
    _, rotation = limit_pose(position, rotations.exp(np.array([2.0, 0, 0])) @ STRAIGHT_DOWN)
    assert np.linalg.norm(rotations.log(rotation @ STRAIGHT_DOWN.T)) == pytest.approx(MAX_TILT)


def test_joint_limits_hold_where_the_target_lies_beyond_them():
    inverse = InverseKinematics(Chain(UR3E, TOOL_POINT), HOME)
    command = Controller().start_at(np.array([-0.28, 0.0, 0.13]))
    joints, rotation = command.joints, command.rotation
    for _ in range(60):  # turn about the vertical for as long as it goes
        rotation = rotations.exp(np.array([0, 0, 0.5])) @ rotation
        joints, _ = inverse.advance(joints, command.position, rotation, CONTROL_PERIOD)
        assert np.all(np.abs(joints) <= np.array(JOINT_LIMIT))
    assert np.any(np.abs(joints) > 0.89 * np.array(JOINT_LIMIT))


@pytest.mark.parametrize("arm", [UR3E, UR3], ids=["ur3e", "ur3"])
@pytest.mark.parametrize("tcp", [TOOL_POINT, TURNED], ids=["straight", "turned"])
def test_an_action_of_zeros_leaves_the_arm_where_it_is(arm, tcp):
    controller = Controller(arm, tcp)
    before = controller.command_at(straight_down(arm))
    after = controller.advance(before, np.zeros(6))
    np.testing.assert_allclose(after.joints, before.joints, atol=1e-4)
    np.testing.assert_allclose(after.position, before.position, atol=1e-12)


@pytest.mark.parametrize("arm", [UR3E, UR3], ids=["ur3e", "ur3"])
@pytest.mark.parametrize("tcp", [TOOL_POINT, TURNED], ids=["straight", "turned"])
def test_the_tool_follows_its_command(arm, tcp):
    controller, chain = Controller(arm, tcp), Chain(arm, tcp)
    command = controller.command_at(straight_down(arm))
    start = command.position
    motion = np.array([0.3, 0.4, -0.2, 0.1, 0.0, -0.1])
    for action in (motion, *np.zeros((8, 6))):
        command = controller.advance(command, action)
    np.testing.assert_allclose(command.position, start + TRANSLATION_STEP * motion[:3], atol=1e-9)
    tool = chain.tool(command.joints)
    np.testing.assert_allclose(tool.position, command.position, atol=1e-4)
    np.testing.assert_allclose(tool.rotation, command.rotation, atol=1e-3)


def test_a_command_of_its_own_is_not_shared():
    command = Controller().command_at(HOME)
    copy = command.copy()
    copy.joints += 1.0
    copy.position += 1.0
    np.testing.assert_array_equal(command.joints, HOME)
    assert not np.array_equal(copy.position, command.position)
