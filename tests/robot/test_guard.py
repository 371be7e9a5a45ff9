"""Every kind of refusal, and that ordinary motion is none."""

import dataclasses
import re
import time

import numpy as np
import pytest
from lerobot_env_ur3e.env import UR3eEnv
from lerobot_robot_ur.errors import ConfigError, Refused
from lerobot_robot_ur.guard import Guard
from lerobot_robot_ur.kinematics import LINKS, Kinematics
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.trajectory import JointTrajectory
from ur_motion.arms import JOINT_NAMES
from ur_motion.control import Controller

PERIOD = 0.1
HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])  # tool straight down above the table
FAR = {"box_low_m": (-2.0, -2.0, -2.0), "box_high_m": (2.0, 2.0, 2.0)}
SMALL = 1e-3  # s by which nothing is too fast


def guard_for(model="ur3e", gripper="robotiq_2f85", **changes):
    return Guard(MODELS[model], dataclasses.replace(limits_for(model), **changes), gripper=gripper)


@pytest.fixture(scope="module")
def guard():
    return guard_for()


@pytest.fixture(scope="module")
def spacious():
    """No box, no speeds worth speaking of: table and self-collision alone."""
    return guard_for(**FAR, tool_speed_m_s=1e6)


@pytest.fixture(scope="module")
def expert_episodes():
    """Commanded joints [n, 6] of the reference expert on a start of three tasks."""
    episodes = []
    for task, start in (("pick_cube", 0), ("place_tray", 5), ("push_zone", 1), ("stack", 3)):
        env = UR3eEnv(task, render_images=False)
        env.reset(options={"start": start})
        joints, over = [env._command.joints.copy()], False
        while not over:
            _, _, success, truncated, _ = env.step(env.expert_action())
            joints.append(env._command.joints.copy())
            over = success or truncated
        assert success
        episodes.append(np.array(joints))
    return episodes


def reasons(check, *arguments):
    with pytest.raises(Refused) as refused:
        check(*arguments)
    return refused.value.reasons


def attempt(guard, q, before):
    try:
        guard.check_target(q, before, 1.0)
    except Refused as refused:
        return refused.reasons
    return []


def toward(joint, angle, start=HOME):
    q = start.copy()
    q[joint] += angle
    return q


def test_the_experts_motion_passes(guard, expert_episodes):
    for joints in expert_episodes:
        guard.check_waypoints(joints[0], joints[1:], PERIOD)


@pytest.mark.parametrize("speed", [1.0, 0.1])
def test_smooth_motion_through_the_experts_waypoints_passes_in_every_cycle(expert_episodes, speed):
    limits, dt = limits_for("ur3e").scaled(speed), 0.008
    guard = Guard(MODELS["ur3e"], limits)
    joints = expert_episodes[1]
    times = np.arange(1, len(joints)) * PERIOD / speed
    trajectory = JointTrajectory(limits, dt, guard.kinematics)
    trajectory.reset(joints[0])
    before, cycle, late = joints[0], 0, 0.0
    trajectory.retarget(joints[1:], times)
    while not trajectory.is_at_rest:
        q, _, _ = trajectory.step(cycle * dt)
        guard.check_target(q, before, dt)
        before, cycle, late = q, cycle + 1, max(late, trajectory.late_s)
    np.testing.assert_allclose(before, joints[-1], atol=1e-9)
    assert late < 0.15 and cycle * dt == pytest.approx(times[-1], abs=0.1)


def test_standing_still_passes_in_a_cycle_of_any_length(guard):
    for dt in (1e-6, 0.002, 10.0):
        guard.check_target(HOME, HOME, dt)
    guard.check_waypoints(HOME, [HOME, HOME], PERIOD)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_joint(guard, bad):
    q = toward(2, bad)
    assert reasons(guard.check_target, q, HOME, SMALL) == [f"target: elbow is {bad}"]
    assert reasons(guard.check_target, HOME, q, SMALL) == [f"previous target: elbow is {bad}"]
    found = reasons(guard.check_waypoints, HOME, [HOME, q], PERIOD)
    assert found == [f"waypoints 1: elbow is {bad}"]


def test_every_joint_that_is_not_finite_is_named(guard):
    found = reasons(guard.check_target, np.full(6, np.nan), HOME, SMALL)
    assert found == [f"target: {name} is nan" for name in JOINT_NAMES]


@pytest.mark.parametrize(
    ("q", "words"),
    [
        (HOME[:5], r"target: shape \[5\] instead of \[6\]"),
        (np.zeros(7), r"target: shape \[7\] instead of \[6\]"),
        (np.zeros((1, 6)), r"target: shape \[1, 6\] instead of \[6\]"),
        ([], r"target: shape \[0\]"),
        (None, "target: object instead of numbers"),
        (["0", "1", "2", "3", "4", "5"], "target: <U1 instead of numbers"),
        ([True] * 6, "target: bool instead of numbers"),
        ([1j] * 6, "target: complex128 instead of numbers"),
        ([[0.0] * 6, [0.0]], "target: rows of different lengths"),
    ],
)
def test_what_is_no_joint_vector_is_refused(guard, q, words):
    assert re.search(words, reasons(guard.check_target, q, HOME, SMALL)[0])


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (HOME, r"waypoints: shape \[6\] instead of \[n, 6\], n at least 1"),
        (np.zeros((0, 6)), r"waypoints: shape \[0, 6\]"),
        (np.zeros((3, 7)), r"waypoints: shape \[3, 7\]"),
        (np.full((2, 6), "x"), "waypoints: <U1 instead of numbers"),
    ],
)
def test_what_are_no_waypoints_is_refused(guard, points, words):
    assert re.search(words, reasons(guard.check_waypoints, HOME, points, PERIOD)[0])


@pytest.mark.parametrize("dt", [0.0, -0.1, np.nan, "soon", [0.1, 0.1]])
def test_what_is_no_time_is_refused(guard, dt):
    assert "period: " in reasons(guard.check_target, HOME, HOME, dt)[0]
    assert "period: " in reasons(guard.check_waypoints, HOME, [HOME], dt)[0]


def test_limits_of_another_arm_are_refused():
    with pytest.raises(ConfigError, match="the arm is 'ur3', the limits are for 'ur3e'"):
        Guard(MODELS["ur3"], limits_for("ur3e"))


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_joint_out_of_range_is_refused(spacious, joint, sign):
    limit = spacious.limits.position_high_rad[joint]
    before, q = HOME.copy(), HOME.copy()
    before[joint], q[joint] = sign * (limit - 0.01), sign * (limit + 0.0002)
    found = reasons(spacious.check_target, q, before, 1.0)
    expected = f"{JOINT_NAMES[joint]} at {q[joint]:.4f} rad, range {-limit:.4f} to {limit:.4f}"
    assert expected in found


@pytest.mark.parametrize("joint", range(6))
def test_a_joint_that_is_too_fast_is_refused(spacious, joint):
    limit = spacious.limits.velocity_rad_s[joint]
    spacious.check_target(toward(joint, 0.002 * limit), HOME, 0.002)
    found = reasons(spacious.check_target, toward(joint, -0.00201 * limit), HOME, 0.002)
    assert found == [f"{JOINT_NAMES[joint]} moves at {1.005 * limit:.4f} rad/s, limit {limit:.4f}"]
    found = reasons(spacious.check_waypoints, HOME, [HOME, toward(joint, 0.00201 * limit)], 0.002)
    assert found[0].startswith(f"waypoint 1: {JOINT_NAMES[joint]} moves at")


def test_a_jump_is_refused_however_much_time_it_has(spacious):
    q = toward(5, 0.36)
    assert reasons(spacious.check_waypoints, HOME, [HOME, q], 60.0) == [
        "waypoint 1: wrist_3 jumps by 0.360 rad, limit 0.350"
    ]
    spacious.check_waypoints(HOME, [toward(5, 0.34), toward(5, 0.68)], 60.0)


def test_a_time_for_each_waypoint(spacious):
    points = [toward(5, 0.1), toward(5, 0.2)]
    spacious.check_waypoints(HOME, points, [0.1, 0.1])
    found = reasons(spacious.check_waypoints, HOME, points, [0.1, 0.01])
    assert found == ["waypoint 1: wrist_3 moves at 10.0000 rad/s, limit 4.0000"]


def test_a_tool_that_is_too_fast_is_refused():
    guard = guard_for(gripper="none")  # whose edges are farther from the axis
    # The shoulder pan alone: 0.29 m from its axis.
    radius = float(np.hypot(*guard.kinematics.tool(HOME)[0][:2]))
    fast = guard.limits.tool_speed_m_s / radius
    guard.check_target(toward(0, 0.002 * 0.999 * fast), HOME, 0.002)
    found = reasons(guard.check_target, toward(0, 0.002 * 1.01 * fast), HOME, 0.002)
    assert found == ["tool moves at 0.6060 m/s, limit 0.6000"]
    found = reasons(guard.check_waypoints, HOME, [toward(0, 0.1 * 1.01 * fast)], 0.1)
    assert len(found) == 1 and found[0].startswith("waypoint 0: tool moves at 0.60")


def test_links_that_are_faster_than_the_tool_are_refused():
    """The joints turn about a tool that stays: what swings is the wrist."""
    guard = guard_for(**FAR, velocity_rad_s=MODELS["ur3e"].speed_limits)
    still = np.linalg.svd(guard.kinematics.jacobian(HOME)[:3])[2][3:]  # [3, 6]
    ways = np.random.default_rng(8).standard_normal((100, 3)) @ still
    ways /= np.abs(ways / MODELS["ur3e"].speed_limits).max(axis=1)[:, None]  # as fast as can be
    points = [np.diff(guard.kinematics.points(guard.kinematics.frames([HOME, HOME + 1e-4 * w])),
                      axis=0) for w in ways]  # fmt: skip
    turn = 0.001 * ways[np.argmax([np.linalg.norm(p, axis=-1).max() for p in points])]
    move = guard.kinematics.tool(HOME + turn)[0] - guard.kinematics.tool(HOME)[0]
    assert np.linalg.norm(move) / 0.001 < 0.05
    (reason,) = reasons(guard.check_target, HOME + turn, HOME, 0.001001)
    found = re.fullmatch(r"(.*) moves at (.*) m/s, limit 0.6000", reason)
    assert found and found[1] in LINKS and float(found[2]) > 0.6
    relaxed = guard_for(**FAR, velocity_rad_s=MODELS["ur3e"].speed_limits, tool_speed_m_s=9.0)
    relaxed.check_target(HOME + turn, HOME, 0.001001)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_tool_that_leaves_the_box_is_refused_with_the_side(axis, side):
    middle = Kinematics(MODELS["ur3e"]).tool(HOME)[0]
    guard = guard_for(box_low_m=tuple(middle - 0.02), box_high_m=tuple(middle + 0.02))
    q, step = HOME, side * 0.001 * np.eye(3)[axis]
    for _ in range(19):
        further = q + np.linalg.lstsq(guard.kinematics.jacobian(q)[:3], step, rcond=None)[0]
        guard.check_target(further, q, PERIOD)
        q = further
    outside = q + np.linalg.lstsq(guard.kinematics.jacobian(q)[:3], 2 * step, rcond=None)[0]
    (reason,) = reasons(guard.check_target, outside, q, PERIOD)
    name, value, low, high = re.fullmatch(
        r"tool at ([xyz]) (\S+) m, box (\S+) to (\S+)", reason
    ).groups()
    assert name == "xyz"[axis]
    assert float(value) - middle[axis] == pytest.approx(side * 0.021, abs=2e-4)
    assert float(high) - float(low) == pytest.approx(0.04, abs=2e-4)


def descend(guard, q, joint, sign):
    """Reasons of the first refusal while one joint turns, and the configuration before."""
    for _ in range(1000):
        step = toward(joint, 0.01 * sign, q)
        try:
            guard.check_target(step, q, 1.0)
        except Refused as refused:
            return refused.reasons, q, step
        q = step
    raise AssertionError("never refused")


def test_a_gripper_tip_below_the_table_is_refused(spacious):
    found, before, q = descend(spacious, HOME, 1, 1)
    assert len(found) == 1
    match = re.fullmatch(
        r"gripper at height (\S+) m, at least 0.0010 \(table 0.0000, clearance 0.0010\)", found[0]
    )
    assert match and -0.006 < float(match[1]) < 0.001
    assert spacious.kinematics.tool(q)[0][2] > 0.0  # the tool point itself is above
    spacious.check_target(before, q, 1.0)


def test_an_elbow_below_the_table_is_refused_while_the_tool_is_above(spacious):
    q = np.radians([0, -20, -130, -40, -90, 0.0])  # the upper arm goes down, the forearm up
    found, _, q = descend(spacious, q, 1, 1)
    assert len(found) == 1 and found[0].startswith("upper arm at height")
    assert spacious.kinematics.tool(q)[0][2] > 0.2


def test_a_wrist_below_the_table_is_refused_without_a_gripper():
    bare = guard_for(gripper="none", **FAR, tool_speed_m_s=1e6)
    found, _, _ = descend(bare, HOME, 1, 1)
    assert found[0].startswith("wrist 3 at height")


def test_the_table_can_be_elsewhere():
    high = guard_for(**FAR, table_height_m=0.03, clearance_m=0.01)
    below = Kinematics(MODELS["ur3e"]).tool(HOME)[0][2] - 0.04 - 0.01875
    assert below > 0  # so that HOME is above it
    found, _, _ = descend(high, HOME, 1, 1)
    assert "at least 0.0400 (table 0.0300, clearance 0.0100)" in found[0]


@pytest.mark.parametrize(
    ("lift", "joint", "sign", "words"),
    [
        (-120, 2, 1, "gripper .* mm inside upper arm"),
        (-90, 3, 1, "gripper .* mm inside upper arm"),
        (-90, 4, 1, "gripper .* mm inside forearm"),
    ],
)
def test_an_arm_that_folds_into_itself_is_refused(spacious, lift, joint, sign, words):
    found, before, q = descend(spacious, np.radians([0, lift, 90, -90, -90, 0.0]), joint, sign)
    assert len(found) == 1 and re.fullmatch(f"{words}, limit 0", found[0])
    assert 0.0 < float(found[0].split()[1]) < 3.0  # at the first step into it
    spacious.check_target(before, q, 1.0)


def test_the_way_between_waypoints_is_checked_too():
    # Swinging by wrist_1, the fingers come through their lowest point on the way.
    k = Kinematics(MODELS["ur3e"])
    own = k.link == LINKS.index("gripper")

    def height(q):
        return (k.capsule_ends(k.frames(q))[own, 2].min(axis=1) - k.radius[own]).min()

    lowest = min((toward(3, angle) for angle in np.linspace(-1, 1, 201)), key=height)
    over, beyond = toward(3, -0.17, lowest), toward(3, 0.17, lowest)
    between = (height(lowest) + min(height(over), height(beyond))) / 2
    assert height(lowest) < between - 2e-4
    guard = guard_for(**FAR, tool_speed_m_s=1e6, table_height_m=between, clearance_m=0.0)
    for end in (over, beyond):
        guard.check_waypoints(end, [end], PERIOD)
    found = reasons(guard.check_waypoints, over, [beyond], PERIOD)
    assert len(found) == 1 and found[0].startswith("waypoint 0: gripper at height")


def test_a_path_between_two_safe_waypoints_that_dips_below_the_table_is_refused(guard):
    """With the default limits: the fingers swing through the height of the clearance."""
    k, controller = guard.kinematics, Controller()
    own = k.link == LINKS.index("gripper")

    def height(q):
        return (k.capsule_ends(k.frames(q))[own, 2].min(axis=1) - k.radius[own]).min()

    tool = np.array([-0.3, 0.0, 0.02])
    for _ in range(3):
        here = controller.start_at(tool).joints
        lowest = min((toward(3, angle, here) for angle in np.linspace(-0.5, 0.5, 201)), key=height)
        tool[2] -= height(lowest) - 0.0  # on the table itself: 1 mm less than what has to be kept
    over, beyond = toward(3, -0.17, lowest), toward(3, 0.17, lowest)
    assert abs(height(lowest)) < 1e-4 and min(height(over), height(beyond)) > 0.0015
    for end in (over, beyond):
        guard.check_waypoints(end, [end], PERIOD)
    (reason,) = reasons(guard.check_waypoints, over, [beyond], 1.0)
    assert reason.startswith("waypoint 0: gripper at height 0.000")


def test_outside_its_range_a_joint_may_stand_and_return_but_not_go_on(spacious):
    q = HOME.copy()
    q[5] = 6.25
    spacious.check_target(q, q, SMALL)
    spacious.check_target(toward(5, -0.001, q), q, SMALL)
    spacious.check_waypoints(q, [toward(5, -0.2, q), toward(5, -0.4, q)], PERIOD)
    assert reasons(spacious.check_target, toward(5, 0.001, q), q, SMALL) == [
        "wrist_3 at 6.2510 rad, range -6.2000 to 6.2000"
    ]
    found = reasons(spacious.check_waypoints, q, [toward(5, -0.03, q), toward(5, -0.01, q)], PERIOD)
    assert found == ["waypoint 1: wrist_3 at 6.2400 rad, range -6.2000 to 6.2000"]


@pytest.mark.parametrize("turned", [0.0, 0.7])
def test_below_the_table_the_arm_may_stand_and_rise_but_not_sink(spacious, turned):
    _, _, q = descend(spacious, toward(5, turned), 1, 1)
    low = toward(1, 0.05, q)  # put there by hand
    spacious.check_target(low, low, SMALL)
    spacious.check_target(toward(1, -0.001, low), low, SMALL)
    assert reasons(spacious.check_target, toward(1, 0.001, low), low, SMALL)[0].startswith(
        "gripper at"
    )
    out = [toward(1, -0.01 * i, low) for i in range(1, 12)]
    spacious.check_waypoints(low, out, PERIOD)


def test_outside_the_box_the_tool_may_return_on_every_side(guard):
    rng = np.random.default_rng(0)
    low, high = np.array(guard.limits.box_low_m), np.array(guard.limits.box_high_m)
    k, tried = guard.kinematics, 0
    while tried < 30:
        q = HOME + rng.uniform(-0.8, 0.8, 6)
        tool = k.tool(q)[0]
        outward = np.where(tool > high, 1.0, np.where(tool < low, -1.0, 0.0))
        if not outward.any():
            continue
        back = np.linalg.lstsq(k.jacobian(q)[:3], -1e-4 * outward, rcond=None)[0]
        away = np.linalg.lstsq(k.jacobian(q)[:3], 1e-4 * outward, rcond=None)[0]
        words = [r for r in attempt(guard, q + back, q) if r.startswith("tool at")]
        assert words == []
        words = [r for r in attempt(guard, q + away, q) if r.startswith("tool at")]
        assert len(words) == np.count_nonzero(outward)
        tried += 1


def test_outside_on_one_side_is_no_leave_to_go_outside_on_another(spacious):
    q = HOME.copy()
    q[5] = 6.25
    q[4] = -6.195
    found = reasons(spacious.check_target, toward(4, -0.01, q), q, 1.0)
    assert found == ["wrist_2 at -6.2050 rad, range -6.2000 to 6.2000"]


def test_an_arm_outside_cannot_creep_farther_out(spacious):
    q = HOME.copy()
    q[5] = 6.25
    for _ in range(1000):
        try:
            step = toward(5, 1e-7, q)
            spacious.check_target(step, q, 0.002)
        except Refused:
            break
        q = step
    assert q[5] == 6.25


def test_every_reason_is_named_at_once(guard):
    found = reasons(guard.check_target, toward(0, 3.0, toward(1, 1.2)), HOME, 0.1)
    text = "\n".join(found)
    for words in ("shoulder_pan moves at 30.0000 rad/s", "shoulder_lift moves at", "tool moves at",
                  "tool at x", "gripper at height"):  # fmt: skip
        assert words in text


def test_waypoints_name_the_worst_once(guard):
    points = [toward(1, 0.3 * i) for i in range(1, 6)]
    found = reasons(guard.check_waypoints, HOME, points, 1.0)
    gripper = [r for r in found if "gripper at height" in r]
    assert len(gripper) == 1 and gripper[0].startswith("waypoint 4: ")


def test_a_check_is_far_shorter_than_a_servo_cycle(guard):
    times = []
    for _ in range(200):
        begin = time.process_time()
        guard.check_target(HOME, HOME, 0.002)
        times.append(time.process_time() - begin)
    assert np.median(times) < 0.001
