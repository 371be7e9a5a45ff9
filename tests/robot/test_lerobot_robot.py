"""The arm as a LeRobot robot, against the fake controller."""

import subprocess
import sys
import time

import draccus  # noqa: E402
import numpy as np
import pytest
from lerobot.cameras.zmq import ZMQCameraConfig  # noqa: E402
from lerobot.robots import make_robot_from_config  # noqa: E402
from lerobot.scripts.lerobot_replay import ReplayConfig  # noqa: E402
from lerobot_robot_ur import UR3, UR3Config, UR3e, UR3eConfig  # noqa: E402
from lerobot_robot_ur.errors import ConfigError, Refused, StaleState, Stopped  # noqa: E402
from lerobot_robot_ur.layout import JOINT_POSITIONS, LAYOUTS, TOOL_MOTION  # noqa: E402
from lerobot_robot_ur.limits import limits_for  # noqa: E402
from lerobot_robot_ur.messages import Move  # noqa: E402
from ur_fake_controller import FakeController  # noqa: E402
from waiting import wait_for_pictures, wait_until  # noqa: E402

HOST = "127.0.0.71"
SIZE = 32
# A busy machine is late; what is too old has tests of its own.
PATIENT = {"max_camera_age_s": 10.0, "max_state_age_s": 10.0, "hold_after_s": 1.0}
STILL = dict.fromkeys(TOOL_MOTION, 0.0) | {"gripper.vel": -1.0}


@pytest.fixture(scope="module")
def fake():
    with FakeController(
        HOST, task="pick_cube", start=2, cameras=True, image_size=SIZE, unlock_delay=0.1
    ) as controller:
        wait_for_pictures(HOST)
        yield controller


def camera(**options) -> ZMQCameraConfig:
    settings = {"camera_name": "scene", "width": SIZE, "height": SIZE, "fps": 30}
    return ZMQCameraConfig(server_address=HOST, timeout_ms=30_000, **(settings | options))


@pytest.fixture
def connect(fake):
    """Connected robots, disconnected in the end."""
    robots = []

    def make(limits=None, **options):
        fake.faults.clear()
        fake.reset(start=2)
        patient = {"watchdog_s": 0.5, **options}
        config = UR3eConfig(ip=HOST, limits=PATIENT | (limits or {}), **patient)
        robot = make_robot_from_config(config)
        robots.append(robot)
        robot.connect()
        return robot

    yield make
    for robot in robots:
        robot.disconnect()


def test_joint_targets_move_the_arm_and_are_what_is_measured(connect, fake):
    robot = connect(cameras={"scene": camera()})
    assert type(robot) is UR3e
    first = robot.get_observation()
    assert list(first) == [*LAYOUTS["joints"].state, "scene"]
    assert first["scene"].shape == (SIZE, SIZE, 3) and first["scene"].dtype == np.uint8
    np.testing.assert_allclose(
        [first[name] for name in JOINT_POSITIONS], fake.state()["joints"], atol=1e-3
    )
    goal = {name: first[name] for name in robot.action_features}
    goal |= {"shoulder_pan.pos": first["shoulder_pan.pos"] + 0.1, "gripper.pos": 0.03}
    sent = robot.send_action(goal)
    assert sent == goal and all(type(value) is float for value in sent.values())
    expected = [goal[name] for name in JOINT_POSITIONS]
    wait_until(
        lambda: np.abs(np.subtract(fake.state()["joints"], expected)).max() < 2e-3, "the arm's goal"
    )
    wait_until(lambda: abs(robot.get_observation()["gripper.pos"] - 0.03) < 3e-3, "the gripper's")


def test_features_are_what_observations_and_actions_hold(connect):
    cameras = {"scene": camera(), "wrist": camera(camera_name="wrist")}
    robot = connect(cameras=cameras, layout="tool_motion")
    observation = robot.get_observation()
    features = robot.observation_features
    assert list(features) == list(observation)
    for name, feature in features.items():
        if feature is float:
            assert type(observation[name]) is float
        else:
            assert observation[name].shape == feature == (SIZE, SIZE, 3)
    assert robot.action_features == dict.fromkeys(TOOL_MOTION, float)
    assert not np.array_equal(observation["scene"], observation["wrist"])


def test_tool_motions_integrate_on_the_last_command(connect, fake):
    robot = connect(layout="tool_motion")
    start = np.array(fake.state()["tcp_pose"][:3])
    motion = STILL | {"move_x.vel": 0.8, "move_y.vel": -0.4}
    for _ in range(4):
        sent = robot.send_action(motion)
        assert sent == pytest.approx(motion, abs=1e-6)
        time.sleep(0.1)
    expected = start + 4 * 0.025 * np.array([0.8, -0.4, 0.0])
    wait_until(
        lambda: np.abs(fake.state()["tcp_pose"][:3] - expected).max() < 1e-3, "four motions' end"
    )


def test_a_slow_plan_does_not_hurry_the_arm(connect, monkeypatch):
    """Inverse kinematics on a busy machine can take as long as the action itself."""
    robot = connect(layout="tool_motion", max_refusals=0)
    space = robot.driver._space
    plan = space.plan

    def slowly(actions, joints):
        targets = plan(actions, joints)
        time.sleep(0.95 * robot.driver.period_s)
        return targets

    monkeypatch.setattr(space, "plan", slowly)
    motion = STILL | {"move_x.vel": 1.0, "move_y.vel": 1.0}
    assert robot.send_action(motion) == pytest.approx(motion, abs=1e-6)


def test_upcoming_actions_are_carried_out_unless_others_come(connect, fake):
    robot = connect(layout="tool_motion", limits={"hold_after_s": 5.0, "stop_after_s": 30.0})
    start = np.array(fake.state()["tcp_pose"][:3])
    motion = STILL | {"move_x.vel": 0.8}
    robot.send_action(motion, upcoming=[motion, motion])
    expected = start + 3 * 0.025 * np.array([0.8, 0.0, 0.0])
    wait_until(lambda: np.abs(fake.state()["tcp_pose"][:3] - expected).max() < 1e-3, "the third")


def test_dataset_names_are_taken_too(connect):
    robot = connect(layout="tool_motion")
    action = {name.removesuffix(".vel"): value for name, value in STILL.items()}
    assert robot.send_action(action) == pytest.approx(action, abs=1e-6)
    values = robot.driver.measure(["gripper_opening_m", "joint_1_rad"])
    observation = robot.get_observation()
    assert values == pytest.approx(
        [observation["gripper.pos"], observation["shoulder_pan.pos"]], abs=1e-3
    )


def test_what_was_observed_can_be_sent_back(connect, fake):
    """LeRobot returns to where it began so; the next motion begins from there."""
    robot = connect(layout="tool_motion")
    begin = robot.get_observation()
    joints = fake.state()["joints"]
    for _ in range(3):
        robot.send_action(STILL | {"move_x.vel": 1.0})
        time.sleep(0.1)
    wait_until(
        lambda: (
            not robot.driver.arm.state().is_moving
            and np.abs(np.subtract(fake.state()["joints"], joints)).max() > 0.02
        ),
        "the motions' end",
    )
    now = robot.get_observation()
    for share in np.linspace(0.05, 1.0, 20):
        robot.send_action({name: now[name] * (1 - share) + begin[name] * share for name in begin})
        time.sleep(0.05)
    wait_until(
        lambda: np.abs(np.subtract(fake.state()["joints"], joints)).max() < 2e-3, "where it began"
    )
    robot.send_action(STILL)
    time.sleep(0.3)
    np.testing.assert_allclose(fake.state()["joints"], joints, atol=5e-3)


FULL = [(-1.0, -1.0, -1.0), (1.0, -1.0, -1.0), (1.0, 1.0, -1.0), (-1.0, 1.0, 1.0)]


@pytest.mark.parametrize("direction", FULL)
def test_full_motions_one_at_a_time_are_carried_out(connect, fake, direction):
    robot = connect(layout="tool_motion", max_refusals=0)
    fake.reset(start=3)
    robot.driver.recover("the operator of this test")  # begins where it was put
    start = np.array(fake.state()["tcp_pose"][:3])
    motion = STILL | dict(zip(("move_x.vel", "move_y.vel", "move_z.vel"), direction, strict=True))
    robot.driver.arm.events()
    for _ in range(2):
        assert robot.send_action(motion) == pytest.approx(motion, abs=0.05)
        time.sleep(0.3)  # each comes to rest: nothing is known to follow
    expected = start + 2 * 0.025 * np.array(direction)
    wait_until(lambda: np.abs(fake.state()["tcp_pose"][:3] - expected).max() < 4e-3, "their end")
    assert [event for event in robot.driver.arm.events() if event.kind == "refused"] == []


def test_after_a_refusal_in_motion_actions_begin_where_the_arm_is(connect):
    robot = connect(layout="tool_motion", max_refusals=0)
    arm = robot.driver.arm
    start = arm.commanded()
    motion = STILL | {"move_y.vel": 1.0}
    robot.send_action(motion)
    # Past all checks of the parent: the servo process finds no motion to that, and brakes.
    nowhere = Move(arm._next_sequence(), np.full((1, 6), 1e9), np.array([arm.clock()]), True)
    arm._process.channel.send(nowhere)
    wait_until(lambda: arm.refused_in_motion == 1, "the refusal")
    wait_until(lambda: not arm.state().is_moving, "rest")
    rest = arm.commanded()
    assert np.abs(rest - start).max() < 0.05  # and not where the action leads, 25 mm farther
    assert robot.send_action(STILL) == pytest.approx(STILL, abs=1e-3)
    time.sleep(0.5)
    np.testing.assert_allclose(arm.commanded(), rest, atol=2e-3)
    assert "refused" in [event.kind for event in arm.events()]


def test_tool_motions_that_come_too_fast_are_refused(connect, caplog):
    robot = connect(layout="tool_motion", max_refusals=0)
    with pytest.raises(Refused, match="faster than 10 a second; run the loop at 10 fps"):
        for _ in range(10):
            robot.send_action(STILL)
    assert "refused: tool motions come faster than 10 a second" in caplog.text


def test_refusals_in_a_row_end_the_loop(connect, fake, caplog):
    robot = connect(max_refusals=2)
    observation = robot.get_observation()
    joints = fake.state()["joints"]
    far = observation | {"elbow.pos": observation["elbow.pos"] + 1.0}
    assert robot.send_action(far) == {} and robot.send_action(far) == {}
    assert "refused: " in caplog.text and "elbow jumps" in caplog.text
    assert robot.send_action(observation) == observation  # counts anew
    caplog.clear()
    assert robot.send_action(observation | {"wrist_1.pos": float("nan")}) == {}
    assert [(r.levelname, r.message) for r in caplog.records if "refused" in r.message] == [
        ("WARNING", "refused: wrist_1.pos is nan")
    ]
    assert robot.send_action(far) == {}
    with pytest.raises(Refused, match="elbow"):
        robot.send_action(far)
    np.testing.assert_allclose(fake.state()["joints"], joints, atol=2e-3)


def test_the_silence_between_episodes(connect):
    """LeRobot sends nothing while it saves an episode: the arm holds, and goes on."""
    robot = connect(layout="tool_motion", limits={"hold_after_s": 0.3})
    robot.send_action(STILL)
    time.sleep(limits_for("ur3e").stop_after_s + 0.6)
    assert robot.send_action(STILL) == pytest.approx(STILL, abs=1e-6)


def test_pictures_that_are_too_old(connect, fake):
    robot = connect(cameras={"scene": camera()}, limits={"max_camera_age_s": 1.0})
    wait_until(lambda: _observes(robot), "fresh pictures")
    fake.faults.freeze_cameras()
    time.sleep(1.5)
    with pytest.raises(StaleState, match="camera 'scene': .* too old"):
        robot.get_observation()
    fake.faults.clear()
    wait_until(lambda: _observes(robot), "fresh pictures")


def _observes(robot) -> bool:
    try:
        robot.get_observation()
    except StaleState:
        return False
    return True


READ_THEN_CLOSE = """
import sys
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot_robot_ur.robot import close_camera
config = ZMQCameraConfig(server_address=sys.argv[1], camera_name="scene", timeout_ms=4000)
camera = ZMQCamera(config)
camera.connect()
print("connected", flush=True)
sys.stdin.readline()
close_camera(camera)
"""


def test_a_camera_that_hangs_does_not_abort_the_process_that_closes_it(fake):
    """LeRobot's own disconnect closes a socket in use: "Assertion failed", SIGABRT."""
    fake.faults.clear()
    process = subprocess.Popen(
        [sys.executable, "-c", READ_THEN_CLOSE, HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "connected\n"
    fake.faults.freeze_cameras()
    time.sleep(0.5)  # until the thread waits for a picture that does not come
    process.communicate("close\n", timeout=60)
    fake.faults.clear()
    assert process.returncode == 0


def test_pictures_of_another_size(connect):
    robot = connect(cameras={"scene": camera(width=SIZE * 2)})
    with pytest.raises(ConfigError, match=r"camera 'scene' gives uint8 \[32, 32, 3\].*\[32, 64, 3"):
        robot.get_observation()


def test_a_stopped_arm_neither_observes_nor_acts(connect, fake):
    robot = connect(layout="tool_motion")
    robot.send_action(STILL)
    fake.faults.protective_stop()
    wait_until(lambda: robot.driver.arm.stopped is not None, "the stop")
    with pytest.raises(Stopped, match="protective"):
        robot.get_observation()
    with pytest.raises(Stopped, match="protective"):
        robot.send_action(STILL)
    time.sleep(0.2)
    robot.driver.recover("the operator of this test")
    assert robot.send_action(STILL) == pytest.approx(STILL, abs=1e-6)


def test_a_stop_outlives_the_connection(connect, fake):
    robot = connect(cameras={"scene": camera()})
    robot.driver.arm.stop("a key")
    robot.disconnect()
    with pytest.raises(Stopped, match="a key"):
        robot.connect()
    assert not robot.is_connected and not robot.cameras["scene"].is_connected
    robot.driver.recover("the operator of this test")
    assert not robot.is_connected
    robot.connect()
    robot.get_observation()


def test_cameras_are_closed_where_the_arm_cannot_be_reached(fake):
    fake.faults.clear()
    robot = make_robot_from_config(UR3Config(ip=HOST, cameras={"scene": camera()}))
    assert type(robot) is UR3
    with pytest.raises(Exception, match="not that of a ur3"):
        robot.connect()
    assert not robot.is_connected and not robot.cameras["scene"].is_connected


def test_settings_from_a_command_line():
    arguments = [
        "--dataset.repo_id=of/no/concern",
        "--dataset.episode=0",
        "--robot.type=ur3",
        "--robot.ip=10.0.0.2",
        "--robot.layout=tool_motion",
        "--robot.speed=0.1",
        "--robot.gripper=rg2",
        "--robot.tcp=[0, 0, 0.2, 0, 0, 0]",
        "--robot.limits={tool_speed_m_s: 0.1, box_high_m: [-0.1, 0.2, 0.2]}",
    ]
    config = draccus.parse(ReplayConfig, args=arguments).robot
    arm = config.arm_config()
    assert (arm.model, arm.ip, arm.gripper, arm.speed) == ("ur3", "10.0.0.2", "rg2", 0.1)
    assert arm.tcp == (0, 0, 0.2, 0, 0, 0)
    assert arm.limits.tool_speed_m_s == 0.1 and arm.limits.box_high_m == (-0.1, 0.2, 0.2)
    assert arm.limits.stop_after_s == config.stop_after_s
    assert make_robot_from_config(config).driver.period_s == pytest.approx(1.0)


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="no limits tool_speed; there are .*tool_speed_m_s"):
        UR3eConfig(ip=HOST, limits={"tool_speed": 1.0})
    with pytest.raises(ConfigError, match="gripper is 'rg3'.*speed is 2"):
        UR3eConfig(ip=HOST, gripper="rg3", speed=2.0)
    with pytest.raises(ConfigError, match="layout 'joint'"):
        UR3e(UR3eConfig(ip=HOST, layout="joint"))
    with pytest.raises(ConfigError, match="'tool_motion' needs a gripper"):
        UR3e(UR3eConfig(ip=HOST, layout="tool_motion", gripper="none"))
    with pytest.raises(ConfigError, match="control_rate_hz is 0"):
        UR3e(UR3eConfig(ip=HOST, control_rate_hz=0.0))
    with pytest.raises(ValueError, match="'width' is required"):
        UR3eConfig(ip=HOST, cameras={"scene": camera(width=None)})


def test_an_arm_without_gripper_has_six_quantities():
    robot = UR3e(UR3eConfig(ip=HOST, gripper="none"))
    assert list(robot.action_features) == list(robot.observation_features) == list(JOINT_POSITIONS)


def test_the_servo_process_has_not_loaded_lerobot(connect):
    robot = connect()
    with open(f"/proc/{robot.driver.arm.servo_pid}/maps") as maps:
        loaded = maps.read()
    assert "rtde_control" in loaded and "torch" not in loaded and "mujoco" not in loaded
