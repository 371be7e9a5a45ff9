"""Kinematics are MuJoCo's and inverse kinematics are mink's, to the last bit.

Results that were measured in the simulator before it had a controller of its own stay valid only
while that is so.
"""

# pyright: reportAttributeAccessIssue=false

import mink
import mujoco
import numpy as np
import pytest
from lerobot_env_ur3e.scene import kinematics_xml
from ur_motion import quaternions, rotations
from ur_motion.arms import JOINT_LIMIT, JOINT_NAMES, MAX_SPEED, UR3E
from ur_motion.chain import Chain
from ur_motion.control import HOME, TOOL_POINT, Controller
from ur_motion.inverse import InverseKinematics


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(kinematics_xml())


def test_the_tool_and_its_jacobian(model):
    data, site = mujoco.MjData(model), model.site("tool").id
    chain, jacobian = Chain(UR3E, TOOL_POINT), np.empty((6, 6))
    for joints in np.random.default_rng(0).uniform(-6, 6, (500, 6)):
        data.qpos[:] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
        tool = chain.tool(joints)
        np.testing.assert_array_equal(tool.position, data.site_xpos[site])
        np.testing.assert_array_equal(tool.rotation, data.site_xmat[site].reshape(3, 3))
        np.testing.assert_array_equal(tool.jacobian, jacobian)


def test_a_tool_point_that_is_turned():
    tcp = [0.01, -0.02, 0.2, 0.3, -0.4, 0.5]
    turned, straight = Chain(UR3E, tcp), Chain(UR3E, [*tcp[:3], 0, 0, 0])
    joints = np.array([0.1, -1.2, 1.3, -1.5, -1.4, 0.7])
    expected = straight.tool(joints).rotation @ rotations.exp(tcp[3:])
    np.testing.assert_allclose(turned.tool(joints).rotation, expected, atol=1e-15)
    np.testing.assert_array_equal(turned.tool(joints).position, straight.tool(joints).position)


def test_quaternions():
    rng = np.random.default_rng(2)
    for _ in range(500):
        vector = rng.standard_normal(3)
        expected = mink.SO3.from_matrix(rotations.exp(3.1 * rng.uniform(-1, 1, 3)))
        own = quaternions.from_matrix(expected.as_matrix())
        again = mink.SO3.from_matrix(expected.as_matrix())
        assert own == tuple(again.wxyz)
        np.testing.assert_array_equal(quaternions.matrix(own), again.as_matrix())
        np.testing.assert_array_equal(quaternions.log(own), again.log())
        x, y, z = vector.tolist()
        assert quaternions.rotate(own, (x, y, z)) == tuple(again.apply(vector))


class MinkController(Controller):
    """The controller with mink in the place of its inverse kinematics."""

    def __init__(self, model):
        super().__init__()
        self._inverse = MinkInverse(model)


class MinkInverse(InverseKinematics):
    def __init__(self, model):
        self._configuration = mink.Configuration(model)
        self._tool = mink.FrameTask("tool", "site", position_cost=10.0, orientation_cost=1.0)
        posture = mink.PostureTask(model, cost=1e-3)
        posture.set_target(HOME)
        self._tasks = [self._tool, posture]
        self._limits = [
            mink.ConfigurationLimit(model),
            mink.VelocityLimit(model, dict(zip(JOINT_NAMES, MAX_SPEED, strict=True))),
        ]

    def advance(self, joints, position, rotation, duration_s):
        configuration, dt = self._configuration, duration_s / 2
        configuration.update(joints)
        self._tool.set_target(
            mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), position)
        )
        for _ in range(2):
            try:
                velocity = mink.solve_ik(
                    configuration, self._tasks, dt, "daqp", damping=1e-8, limits=self._limits
                )
            except mink.NoSolutionFound:
                break
            configuration.integrate_inplace(velocity, dt)
        limit = np.asarray(JOINT_LIMIT)
        configuration.update(np.clip(configuration.q, -limit, limit))
        reached = configuration.get_transform_frame_to_world("tool", "site").translation()
        return configuration.q.copy(), reached


@pytest.mark.parametrize("size", [0.3, 1.0, 2.5])
def test_a_run_of_actions(model, size):
    own, reference = Controller(), MinkController(model)
    rng = np.random.default_rng(round(10 * size))
    for _ in range(4):
        position = rng.uniform([-0.34, -0.09, 0.11], [-0.22, 0.09, 0.16])
        command, expected = own.start_at(position), reference.start_at(position)
        for step in range(60):
            if step % 9 == 0:  # long pushes in one direction reach every limit
                push = rng.normal(0, size, 6)
            action = np.clip(push + rng.normal(0, 0.2, 6), -1, 1)
            command = own.advance(command, action)
            expected = reference.advance(expected, action)
            np.testing.assert_array_equal(command.joints, expected.joints)
            np.testing.assert_array_equal(command.position, expected.position)
            np.testing.assert_array_equal(command.rotation, expected.rotation)
