"""The arm led by hand, as LeRobot's teleoperator, and what else the state can hold."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from lerobot.teleoperators import make_teleoperator_from_config
from lerobot_robot_ur import UR3e, UR3eConfig, URFreedriveConfig
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.errors import ConfigError, ConnectionFailed, RobotError
from streaming import config
from sway import Sway
from ur_fake_controller import FakeController
from waiting import wait_until

HOST = "127.0.0.64"


@pytest.fixture
def fake(renewed: FakeController) -> FakeController:
    return renewed


def test_an_arm_comes_to_rest_is_led_and_then_moves_again(fake):
    with Arm(config(HOST)) as arm:
        stream = Sway(arm)
        wait_until(lambda: np.abs(arm.state().joint_speeds).max() > 0.1, "motion")
        stream.end()
        arm.lead(True)
        assert arm.is_led and np.abs(arm.state().joint_speeds).max() < 0.01
        fake.reset(start=3)  # as by hand
        put = np.array(fake.state()["joints"])
        wait_until(lambda: np.abs(arm.commanded() - put).max() < 1e-4, "the new place")
        with pytest.raises(RobotError, match="led by hand"):
            arm.move_to(put + [0.02, 0, 0, 0, 0, 0])
        time.sleep(2 * arm.config.watchdog_s)  # it goes on being fed
        arm.lead(False)
        assert not arm.is_led
        arm.move_to(put + [0.02, 0, 0, 0, 0, 0])
        assert arm.stopped is None
        arm.lead(True)
        arm.stop("a key")
        wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")


@pytest.fixture
def robot(fake: FakeController) -> Iterator[UR3e]:
    limits = {"max_state_age_s": 1.2}
    settings = UR3eConfig(ip=HOST, limits=limits, watchdog_s=0.5, extra_state=["digital_inputs"])
    robot = UR3e(settings)
    robot.connect()
    yield robot
    robot.disconnect()


def test_positions_are_the_actions_of_a_led_arm(fake, robot):
    leader = make_teleoperator_from_config(URFreedriveConfig(ip=HOST))
    leader.connect()
    assert leader.is_connected and leader.action_features == robot.action_features
    fake.reset(start=3)
    put = fake.state()["joints"]
    wait_until(
        lambda: leader.get_action()["elbow.pos"] == pytest.approx(put[2], abs=1e-3), "the place"
    )
    action = leader.get_action()
    assert list(action) == list(robot.action_features)
    assert robot.send_action(action) == action  # and nothing is sent
    leader.disconnect()
    assert not robot.driver.arm.is_led
    np.testing.assert_allclose(fake.state()["joints"], put, atol=1e-3)


def test_a_leader_needs_its_robot():
    with pytest.raises(ConnectionFailed, match="robot of this address in the same program"):
        make_teleoperator_from_config(URFreedriveConfig(ip="127.0.0.48")).connect()


def test_inputs_and_force_can_be_part_of_the_state(fake, robot):
    assert list(robot.observation_features)[-8:] == [f"digital_input_{i}.pos" for i in range(8)]
    fake.faults.set_inputs(0b101)
    names = [f"digital_input_{i}" for i in range(8)]
    wait_until(lambda: list(robot.driver.measure(names))[:3] == [1.0, 0.0, 1.0], "the inputs")
    observation = robot.get_observation()
    assert observation["digital_input_2.pos"] == 1.0 and observation["digital_input_1.pos"] == 0.0
    assert np.isfinite(robot.driver.measure(["tool_force_z_n", "tool_torque_x_nm"])).all()
    with pytest.raises(ConfigError, match="no state voltage; valid are tool_force, digital_inputs"):
        UR3e(UR3eConfig(ip=HOST, extra_state=["voltage"]))
