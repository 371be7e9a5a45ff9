"""The arm behind the fake controller, moved by the real client."""

import math
import time

import numpy as np
from lerobot_robot_ur.kinematics import Kinematics
from lerobot_robot_ur.models import MODELS
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from ur_fake_controller import FakeController
from waiting import wait_until


def test_move_j_reaches_its_target(control, receive):
    start = np.array(receive.getActualQ())
    target = start + [0.2, -0.1, 0.1, 0.05, 0.0, 0.3]
    assert control.moveJ(target.tolist(), 1.0, 2.0)
    wait_until(lambda: np.abs(np.array(receive.getActualQ()) - target).max() < 2e-3, "the target")
    np.testing.assert_allclose(receive.getTargetQ(), target, atol=1e-9)


def test_asynchronous_move_is_stopped(control, receive):
    target = np.array(receive.getActualQ()) + [1.5, 0, 0, 0, 0, 0]
    assert control.moveJ(target.tolist(), 0.2, 1.0, True)
    wait_until(lambda: receive.getTargetQd()[0] > 0.05, "motion")
    control.stopJ(2.0)
    wait_until(lambda: receive.getTargetQd()[0] == 0, "rest")
    assert receive.getTargetQ()[0] < target[0] - 0.2


def test_servo_follows_a_moving_target_with_the_lookahead_as_lag(control, receive):
    start, seconds, amplitude, lookahead = np.array(receive.getActualQ()), 1.5, 0.3, 0.1
    wanted, measured = [], []
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < seconds:
        period = control.initPeriod()
        target = start.copy()
        target[0] += amplitude * now / seconds
        assert control.servoJ(target.tolist(), 0, 0, 0.002, lookahead, 300)
        wanted.append(target[0] - start[0])
        measured.append(receive.getActualQ()[0] - start[0])
        control.waitPeriod(period)
    lag = (wanted[-1] - measured[-1]) / (amplitude / seconds)
    assert 0.3 * lookahead < lag < 3 * lookahead
    assert control.servoStop()
    assert control.isProgramRunning()


def test_move_l_goes_straight(control, receive):
    start = np.array(receive.getActualTCPPose())
    target = start + [0.0, 0.05, 0.04, 0, 0, 0]
    assert control.moveL(target.tolist(), 0.1, 1.0, True)
    seen = []

    def arrived() -> bool:
        seen.append(np.array(receive.getTargetTCPPose()[:3]))
        return bool(np.abs(seen[-1] - target[:3]).max() < 1e-6)

    wait_until(arrived, "the pose")
    direction = (target - start)[:3] / np.linalg.norm((target - start)[:3])
    aside = [p - start[:3] - direction * ((p - start[:3]) @ direction) for p in seen]
    assert np.abs(aside).max() < 1e-4


def test_speed_j_goes_on_until_speed_stop(control, receive):
    assert control.speedJ([0.2, 0, 0, 0, 0, 0], 1.0, 0.01)
    wait_until(lambda: abs(receive.getTargetQd()[0] - 0.2) < 1e-9, "the speed")
    first = receive.getTargetQ()[0]
    wait_until(lambda: receive.getTargetQ()[0] > first + 0.05, "further motion")
    assert control.speedStop()
    wait_until(lambda: receive.getTargetQd()[0] == 0, "rest")


def test_speed_l_moves_the_tool(control, receive):
    start = np.array(receive.getActualTCPPose()[:3])
    assert control.speedL([0, 0, 0.03, 0, 0, 0], 0.5)
    wait_until(lambda: receive.getActualTCPPose()[2] > start[2] + 0.02, "rising")
    assert abs(receive.getActualTCPPose()[0] - start[0]) < 2e-3
    assert control.speedStop()


def test_watchdog_stops_an_abandoned_motion(control, receive):
    assert control.setWatchdog(2)
    assert control.speedJ([0.2, 0, 0, 0, 0, 0], 1.0)
    wait_until(lambda: receive.getTargetQd()[0] > 0, "motion")
    wait_until(lambda: receive.getRuntimeState() == 1, "the end of the program")
    wait_until(lambda: receive.getTargetQd()[0] == 0, "rest")
    assert not control.isProgramRunning()
    assert receive.getSafetyMode() == 1
    assert control.reuploadScript()
    wait_until(control.isProgramRunning, "the program after another upload")


def test_a_kicked_watchdog_lets_the_program_run(control):
    assert control.setWatchdog(0.5)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert control.kickWatchdog()
        time.sleep(0.02)
    assert control.isProgramRunning()


def test_a_servo_has_to_be_stopped_before_a_move(fake, control, receive):
    target = receive.getActualQ()
    assert control.servoJ(target, 0, 0, 0.002, 0.1, 300)
    # A late controller would find the next command in the register, and never this one.
    sent = fake.state()["time"]
    wait_until(lambda: fake.state()["time"] > sent + 0.01, "a cycle")
    assert not control.moveJ(target, 1.0, 1.0)
    assert not control.isProgramRunning()
    assert any("another thread" in line for line in fake.state()["log"])


def test_poses_and_getters(control, receive):
    q = receive.getTargetQ()
    flange = Kinematics(MODELS["ur3e"]).frames(q)[6]
    tool = flange @ np.array([0, 0, 0.141, 1.0])
    np.testing.assert_allclose(receive.getTargetTCPPose()[:3], tool[:3], atol=1e-9)
    np.testing.assert_allclose(control.getTCPOffset(), [0, 0, 0.141, 0, 0, 0], atol=1e-12)
    assert control.setTcp([0, 0, 0, 0, 0, 0])
    wait_until(
        lambda: np.allclose(receive.getTargetTCPPose()[:3], flange[:3, 3], atol=1e-9),
        "the other tool centre point",
    )
    pose = receive.getTargetTCPPose()
    np.testing.assert_allclose(control.getInverseKinematics(pose), q, atol=1e-6)
    assert control.getInverseKinematicsHasSolution(pose)
    assert not control.getInverseKinematicsHasSolution([2.0, 0, 0, 0, 0, 0])
    assert control.isJointsWithinSafetyLimits(q)
    assert not control.isJointsWithinSafetyLimits([7.0, 0, 0, 0, 0, 0])
    assert control.isSteady()
    assert control.setPayload(1.2, [0, 0, 0.05])
    wait_until(lambda: receive.getPayload() == 1.2, "the payload")


def test_path_of_waypoints(control, receive):
    start = np.array(receive.getActualQ())
    path = [start + [0.1, 0, 0, 0, 0, 0], start + [0.1, 0.1, 0, 0, 0, 0]]
    assert control.moveJ([[*q, 1.0, 2.0, 0.0] for q in path])
    np.testing.assert_allclose(receive.getTargetQ(), path[-1], atol=1e-5)


def test_cb3(address):
    with FakeController(address, model="ur3") as fake:
        receive, control = RTDEReceiveInterface(fake.host), RTDEControlInterface(fake.host)
        first = receive.getTimestamp()
        wait_until(lambda: receive.getTimestamp() > first, "another state")
        steps = (receive.getTimestamp() - first) / 0.008
        assert math.isclose(steps, round(steps), abs_tol=1e-6)
        # UR3: the flange of DH parameters 0.1519, -0.24365, -0.21325, 0.11235, 0.08535, 0.0819.
        assert control.setTcp([0, 0, 0, 0, 0, 0])
        assert control.moveJ([0, -math.pi / 2, 0, -math.pi / 2, 0, 0], 2.0, 4.0)
        flange = [0, -0.11235 - 0.0819, 0.1519 + 0.24365 + 0.21325 + 0.08535]
        np.testing.assert_allclose(receive.getTargetTCPPose()[:3], flange, atol=1e-9)
        np.testing.assert_allclose(receive.getActualTCPPose()[:3], flange, atol=5e-3)
        control.disconnect()
        receive.disconnect()
