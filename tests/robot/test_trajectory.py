"""Smooth motion: within limits in every cycle, continuous, on time, to rest without overshoot."""

import dataclasses

import numpy as np
import pytest
from lerobot_robot_ur.errors import Refused
from lerobot_robot_ur.kinematics import Kinematics
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.trajectory import JointTrajectory, _Ramp
from lerobot_robot_ur.velocities import pass_velocities

# Faster than the defaults, so that what a test shows takes little time.
LIMITS = dataclasses.replace(
    limits_for("ur3e"), acceleration_rad_s2=(40.0,) * 6, jerk_rad_s3=(2000.0,) * 6
)
VELOCITY = np.array(LIMITS.velocity_rad_s)
ACCELERATION = np.array(LIMITS.acceleration_rad_s2)
JERK = np.array(LIMITS.jerk_rad_s3)
ROUNDING = 1.0 + 1e-9
PERIODS = {"e-Series": 0.002, "CB3": 0.008}


def trajectory_at(joints, period=0.002, limits=LIMITS, kinematics=None):
    trajectory = JointTrajectory(limits, period, kinematics)
    trajectory.reset(joints)
    return trajectory


def run(trajectory, period, until=60.0, start=0.0):
    """Positions, velocities and accelerations [n, 6] of every cycle until rest."""
    states, cycle = [], 0
    while True:
        states.append(trajectory.step(start + cycle * period))
        if trajectory.is_at_rest:
            return tuple(map(np.array, zip(*states, strict=True)))
        cycle += 1
        assert cycle * period < until


class Watch:
    """Steps a trajectory and asserts what must hold between any two of its states."""

    def __init__(self, trajectory, limits=LIMITS):
        self.trajectory, self.now = trajectory, 0.0
        self.velocity, self.acceleration, self.jerk = (
            np.array(v) * ROUNDING
            for v in (limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
        )
        self.q, self.qd, self.qdd = trajectory.step(0.0)

    def step(self, dt):
        self.now += dt
        q, qd, qdd = self.trajectory.step(self.now)
        assert np.all(np.abs(qd) <= self.velocity)
        assert np.all(np.abs(qdd) <= self.acceleration)
        # Jerk is bounded, so acceleration cannot step; nor then velocity or position.
        assert np.all(np.abs(qdd - self.qdd) <= self.jerk * dt + 1e-9)
        mean = self.qd + self.qdd * dt / 2 - qd + qdd * dt / 2
        assert np.all(np.abs(mean) <= self.jerk * dt**2 / 2 + 1e-9)
        drift = q - self.q - (self.qd + qd) * dt / 2
        assert np.all(np.abs(drift) <= self.jerk * dt**3 / 6 + 1e-9)
        self.q, self.qd, self.qdd = q, qd, qdd


def random_waypoints(rng, start, now):
    """Waypoints and times of any sort: far and near, late and early, close together and not."""
    n, gap = int(rng.integers(1, 12)), rng.choice([0.02, 0.05, 0.1, 0.3])
    scale = rng.choice([0.0, 1e-4, 0.02, 0.1, 0.5])
    origin = start if rng.random() < 0.8 else rng.uniform(-1, 1, 6)
    joints = origin + np.cumsum(rng.normal(0, scale, (n, 6)), axis=0)
    times = now + rng.uniform(-0.2, 0.3) + gap * np.arange(n) + rng.uniform(0, 0.3 * gap, n)
    return joints, np.sort(times) + 1e-9 * np.arange(n)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_limits_and_continuity_hold_in_every_cycle_whatever_is_asked(period, seed):
    rng = np.random.default_rng(seed)
    trajectory = trajectory_at(rng.uniform(-1, 1, 6), period)
    watch, next_target = Watch(trajectory), 0.0
    while watch.now < 2.0:
        if watch.now >= next_target:
            if rng.random() < 0.1:
                trajectory.hold()
            else:
                trajectory.retarget(*random_waypoints(rng, watch.q, watch.now))
            assert trajectory.fault is None
            next_target = watch.now + rng.choice([period, 0.03, 0.1, 0.5])
        watch.step(period)
    while not trajectory.is_at_rest:
        watch.step(period)
        assert watch.now < 60.0


def test_they_hold_in_cycles_of_any_length():
    rng = np.random.default_rng(100)
    trajectory = trajectory_at(np.zeros(6))
    watch = Watch(trajectory)
    for i in range(600):
        if i % 40 == 0:
            trajectory.retarget(*random_waypoints(rng, watch.q, watch.now))
        watch.step(rng.choice([0.0, 1e-5, 0.001, 0.002, 0.0021, 0.01, 0.05]))


@pytest.mark.parametrize("speed", [0.1, 0.5])
def test_scaled_limits_hold(speed):
    limits, rng = LIMITS.scaled(speed), np.random.default_rng(101)
    trajectory = trajectory_at(np.zeros(6), limits=limits)
    watch = Watch(trajectory, limits)
    for i in range(1000):
        if i % 100 == 0:
            trajectory.retarget(*random_waypoints(rng, watch.q, watch.now))
        watch.step(0.002)


def test_time_does_not_run_back():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(1.0)
    trajectory.retarget([[0.1] * 6], [1.2])
    now = trajectory.step(1.1)
    for earlier in (1.05, -np.inf, np.nan):
        np.testing.assert_array_equal(trajectory.step(earlier), now)
    assert trajectory.step(1.101)[0][0] > now[0][0]


def test_a_state_does_not_depend_on_how_often_it_is_asked_for():
    joints, times = random_waypoints(np.random.default_rng(7), np.zeros(6), 0.3)
    often, once = trajectory_at(np.zeros(6)), trajectory_at(np.zeros(6))
    for trajectory in (often, once):
        trajectory.step(0.0)
        trajectory.retarget(joints, times)
    for now in np.linspace(0, 0.7, 800):
        state = often.step(now)
    np.testing.assert_allclose(once.step(0.7), state, atol=1e-9)


@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_waypoints_are_reached_on_time_where_limits_allow(period):
    t = 0.1 * np.arange(1, 31)
    joints = np.stack([0.2 * np.sin((1 + 0.2 * i) * t) for i in range(6)], axis=1)
    trajectory = trajectory_at(np.zeros(6), period)
    trajectory.step(0.0)
    trajectory.retarget(joints, t)
    for q, time in zip(joints, t, strict=True):
        reached, velocity, _ = trajectory.step(time)
        np.testing.assert_allclose(reached, q, atol=1e-6)
        assert trajectory.late_s == 0.0
    np.testing.assert_allclose(velocity, 0.0, atol=1e-6)


def test_a_waypoint_on_the_way_is_passed_without_stopping():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(0.0)
    trajectory.retarget(np.outer([0.1, 0.2, 0.3], np.ones(6)), [0.2, 0.4, 0.6])
    for time in (0.2, 0.4):
        velocity = trajectory.step(time)[1]
        np.testing.assert_allclose(velocity, 0.5, atol=1e-6)  # as before and after
    assert not trajectory.is_at_rest
    np.testing.assert_allclose(trajectory.step(0.6)[1], 0.0, atol=1e-6)
    assert trajectory.is_at_rest


def test_where_limits_do_not_allow_the_time_the_motion_takes_longer():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(0.0)
    trajectory.retarget([[1.0, 0, 0, 0, 0, 0]], [0.1])
    assert trajectory.late_s > 0.2  # 1 rad at 3.14 rad/s alone takes 0.32 s
    late = trajectory.late_s
    q, _, _ = run(trajectory, 0.002)
    assert len(q) * 0.002 == pytest.approx(0.1 + late, abs=0.006)
    np.testing.assert_allclose(q[-1], [1.0, 0, 0, 0, 0, 0], atol=1e-9)


def test_a_late_arm_catches_up_at_the_next_waypoints():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(0.0)
    steps = 0.05 * np.arange(1, 13)
    steps[1:] += 0.2  # the first path is too long for its time
    trajectory.retarget(np.outer(steps, np.ones(6)), 0.1 * np.arange(1, 13))
    late = []
    for cycle in range(620):
        trajectory.step(0.002 * cycle)
        late.append(trajectory.late_s)
    assert max(late) > 0.01 and late[550] == 0.0
    np.testing.assert_allclose(trajectory.step(1.24)[0], steps[-1], atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_last_waypoint_is_where_it_ends_and_no_waypoint_is_overshot(seed):
    rng = np.random.default_rng(seed)
    joints, times = random_waypoints(rng, np.zeros(6), 0.5)
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(0.0)
    trajectory.retarget(joints, times)
    q, qd, qdd = run(trajectory, 0.002)
    np.testing.assert_allclose(q[-1], joints[-1], atol=1e-9)
    assert not qd[-1].any() and not qdd[-1].any()
    corners = np.vstack([np.zeros(6), joints])
    assert np.all(q <= corners.max(axis=0) + 1e-6)
    assert np.all(q >= corners.min(axis=0) - 1e-6)


def test_joints_run_straight_through_between_waypoints_in_one_direction():
    rng = np.random.default_rng(11)
    for _ in range(10):
        joints = np.cumsum(rng.uniform(0, 0.2, (8, 6)), axis=0)
        trajectory = trajectory_at(np.zeros(6))
        trajectory.step(0.0)
        trajectory.retarget(joints, 0.1 * np.arange(1, 9))
        q, _, _ = run(trajectory, 0.002)
        assert np.diff(q, axis=0).min() > -1e-8


def test_motion_begins_in_the_first_cycle():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.retarget([[0.1] * 6], [10.2])
    assert not trajectory.is_at_rest
    assert trajectory.step(10.0)[0].min() > 0.0
    np.testing.assert_allclose(trajectory.step(10.2)[0], 0.1, atol=1e-9)


def test_the_same_waypoints_again_change_little_and_nothing_at_the_waypoints():
    t = 0.1 * np.arange(1, 21)
    joints = np.stack([0.2 * np.sin((1 + 0.2 * i) * t) for i in range(6)], axis=1)
    once, again = trajectory_at(np.zeros(6)), trajectory_at(np.zeros(6))
    for trajectory in (once, again):
        trajectory.step(0.0)
        trajectory.retarget(joints, t)
    for cycle in range(1, 1000):
        now = 0.002 * cycle
        if cycle % 25 == 10:
            again.retarget(joints, t)
        difference = np.abs(once.step(now)[0] - again.step(now)[0]).max()
        assert difference < (1e-6 if cycle % 50 == 0 else 0.015)


def test_waypoints_whose_time_has_passed_are_left_out():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(1.0)
    trajectory.retarget([[-0.3] * 6, [-0.2] * 6, [0.1] * 6, [0.2] * 6], [0.8, 1.0, 1.2, 1.4])
    q, _, _ = run(trajectory, 0.002, start=1.0)
    assert q.min() >= 0.0
    np.testing.assert_allclose(q[-1], 0.2, atol=1e-9)


def test_if_all_have_passed_the_last_one_is_gone_to():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.step(5.0)
    trajectory.retarget([[-0.3] * 6, [0.2] * 6], [1.0, 2.0])
    assert trajectory.late_s > 3.0
    q, _, _ = run(trajectory, 0.002, start=5.0)
    assert q.min() >= 0.0 and q[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("joints", "times", "words"),
    [
        ([[0.1] * 6], [np.nan], "must be finite"),
        ([[0.1] * 5 + [np.inf]], [2.0], "must be finite"),
        ([[0.1] * 5], [2.0], r"shape \[n, 6\] and times \[n\], got \[1, 5\] and \[1\]"),
        ([[0.1] * 6], [2.0, 3.0], r"got \[1, 6\] and \[2\]"),
        (np.zeros((0, 6)), [], r"got \[0, 6\] and \[0\]"),
        ([[0.1] * 6, [0.2] * 6], [2.0, 2.0], "times must rise, got 2 s and 2 s at 0 and 1"),
        ([["left"] * 6], [2.0], "must be numbers"),
        (None, None, "shape"),
    ],
)
def test_what_is_malformed_is_refused_and_the_motion_under_way_goes_on(joints, times, words):
    trajectory, undisturbed = trajectory_at(np.zeros(6)), trajectory_at(np.zeros(6))
    for t in (trajectory, undisturbed):
        t.step(0.0)
        t.retarget([[0.1] * 6, [0.2] * 6], [0.2, 0.4])
        t.step(0.1)
    with pytest.raises(Refused, match=words):
        trajectory.retarget(joints, times)
    for now in (0.15, 0.2, 0.3, 0.5):
        np.testing.assert_array_equal(trajectory.step(now), undisturbed.step(now))
    assert trajectory.is_at_rest


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_a_hold_stops_within_the_limits_and_stays(period, seed):
    rng = np.random.default_rng(seed)
    trajectory = trajectory_at(np.zeros(6), period)
    watch = Watch(trajectory)
    trajectory.retarget(rng.uniform(-1, 1, (3, 6)), [0.2, 0.3, 0.4])
    while watch.now < rng.uniform(0.1, 0.3):
        watch.step(period)
    begin, speed = watch.now, np.abs(watch.qd)
    trajectory.hold()
    while not trajectory.is_at_rest:
        watch.step(period)
    slowest = speed.max() / ACCELERATION[0] + 3 * ACCELERATION[0] / JERK[0]
    assert watch.now - begin < slowest + 2 * period
    rest = watch.q
    for _ in range(5):
        watch.step(period)
        np.testing.assert_array_equal(watch.q, rest)


def test_at_rest_a_hold_changes_nothing():
    trajectory = trajectory_at([0.1] * 6)
    trajectory.hold()
    assert trajectory.is_at_rest
    trajectory.step(0.0)
    trajectory.hold()
    assert trajectory.is_at_rest
    np.testing.assert_array_equal(trajectory.step(0.1)[0], 0.1)


def test_a_hold_before_time_begins_forgets_what_was_ahead():
    trajectory = trajectory_at(np.zeros(6))
    trajectory.retarget([[0.1] * 6], [1.0])
    trajectory.hold()
    assert trajectory.is_at_rest
    assert not trajectory.step(1.0)[0].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [1e6, 1e12, 1e100, 1e300])
def test_where_ruckig_finds_nothing_the_arm_stops_and_says_why(far):
    # 0.19.4 raises RuckigError or ValueError for these, by their size.
    trajectory = trajectory_at(np.zeros(6))
    watch = Watch(trajectory)
    trajectory.retarget(np.outer([0.1, 0.2, 0.3], np.ones(6)), [0.1, 0.2, 0.3])
    while watch.now < 0.16:
        watch.step(0.002)
    assert watch.qd.min() > 0.5
    trajectory.retarget([[far] * 6], [0.5])
    assert "no motion found from [0.1" in trajectory.fault
    assert f"to [{far:.4g}, " in trajectory.fault
    while not trajectory.is_at_rest:
        watch.step(0.002)
    assert watch.now < 0.4
    trajectory.retarget([[0.2] * 6], [1.0])  # and it can go on
    assert trajectory.fault is None
    np.testing.assert_allclose(run(trajectory, 0.002, start=watch.now)[0][-1], 0.2, atol=1e-9)


def test_a_fault_at_a_later_waypoint_stops_there():
    trajectory = trajectory_at(np.zeros(6))
    watch = Watch(trajectory)
    trajectory.retarget([[0.1] * 6, [0.2] * 6, [1e9] * 6], [0.1, 0.2, 0.3])
    assert trajectory.fault is None
    while not trajectory.is_at_rest:
        watch.step(0.002)
    assert "to [1e+09, " in trajectory.fault
    assert 0.2 <= watch.q.min() <= watch.q.max() < 0.5


def test_the_last_resort_brakes_all_joints_together():
    q, qd = np.arange(6.0), np.array([1.0, -2.0, 0.0, 0.5, 3.0, -3.0])
    ramp = _Ramp(q, qd, ACCELERATION)
    assert ramp.duration == pytest.approx(3.0 / ACCELERATION[0])  # that of the fastest
    for got, expected in zip(ramp.at_time(0.0)[:2], (q, qd), strict=True):
        np.testing.assert_array_equal(got, expected)
    times = np.linspace(0, ramp.duration, 200)
    positions, velocities, accelerations = map(
        np.array, zip(*(ramp.at_time(t) for t in times), strict=True)
    )
    assert np.all(np.abs(accelerations) <= ACCELERATION * ROUNDING)
    np.testing.assert_allclose(velocities, np.outer(1 - times / ramp.duration, qd), atol=1e-12)
    np.testing.assert_allclose(positions[-1], q + qd * ramp.duration / 2)
    mean = (velocities[1:] + velocities[:-1]) / 2
    np.testing.assert_allclose(np.diff(positions, axis=0), mean * times[1], atol=2e-5)


@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_a_step_that_was_not_taken_is_braked_from_the_one_before(period):
    trajectory = trajectory_at(np.zeros(6), period)
    trajectory.retarget(np.outer([0.1, 0.2], [1.0, -0.5, 0, 0, 0, 0.3]), [0.1, 0.2])
    taken = [trajectory.step(period * i)[0] for i in range(round(0.04 / period))]
    now = period * len(taken)
    refused = trajectory.step(now)[0]
    trajectory.brake()
    while not trajectory.is_at_rest:
        taken.append(trajectory.step(now)[0])
        now += period
    steps = np.diff(taken, axis=0)
    begin = round(0.04 / period) - 1
    assert np.abs(taken[begin + 1][0]) < np.abs(refused[0])
    speeds = np.abs(steps[begin - 1 :]) / period
    assert speeds[0, 0] > 0.2
    assert np.all(np.diff(speeds, axis=0) <= 1e-9)  # no joint is faster than before
    assert np.all(np.abs(np.diff(speeds, axis=0)) <= ACCELERATION * period * ROUNDING)
    np.testing.assert_array_equal(trajectory.step(now + 1.0)[0], taken[-1])
    trajectory.retarget([[0.2] * 6], [now + 1.5])  # and it can go on
    np.testing.assert_allclose(run(trajectory, period, start=now + 1.0)[0][-1], 0.2, atol=1e-9)


def test_at_rest_there_is_nothing_to_brake():
    trajectory = trajectory_at([0.1] * 6)
    trajectory.brake()
    assert trajectory.is_at_rest
    trajectory.step(0.0)
    trajectory.brake()
    np.testing.assert_array_equal(trajectory.step(0.1)[0], 0.1)
    assert trajectory.is_at_rest


def test_motion_is_slowed_down_for_the_tool():
    limits = dataclasses.replace(LIMITS, tool_speed_m_s=0.2)
    k = Kinematics(MODELS["ur3e"])
    home = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])
    joints = home + np.outer([0.1, 0.2, 0.3, 0.4], [1, 0.3, 0, 0, 0, 0])
    speeds = {}
    for kinematics in (None, k):
        trajectory = trajectory_at(home, 0.002, limits, kinematics)
        trajectory.step(0.0)
        trajectory.retarget(joints, [0.1, 0.2, 0.3, 0.4])
        q, _, _ = run(trajectory, 0.002)
        np.testing.assert_allclose(q[-1], joints[-1], atol=1e-9)
        steps = np.diff(k.points(k.frames(q)), axis=0)
        speeds[kinematics] = np.linalg.norm(steps, axis=-1).max(axis=1) / 0.002
    assert speeds[None].max() > 0.3
    assert speeds[k].max() <= 0.2 * ROUNDING
    assert np.median(speeds[k]) > 0.1  # slowed down, not stopped


def velocities_of(positions, times, velocity=0.0):
    joints = np.outer(positions, np.ones(6))
    slopes = np.diff(joints, axis=0) / np.diff(times)[:, None]
    result = pass_velocities(joints, slopes, np.full(6, velocity), VELOCITY, ACCELERATION, JERK)
    assert result.shape == (len(positions) - 1, 6)
    return result[:, 0]


def test_velocities_are_harmonic_means():
    np.testing.assert_allclose(
        velocities_of([0.0, 0.1, 0.4, 0.5], [0, 1, 2, 3], 0.1), [2 * 0.1 * 0.3 / 0.4, 0.15, 0.0]
    )


def test_velocity_is_zero_where_a_joint_turns_round_and_at_the_last():
    velocities = velocities_of([0.0, 0.1, 0.05, 0.05, 0.2], [0, 1, 2, 3, 4], 0.1)
    np.testing.assert_array_equal(velocities, [0.0, 0.0, 0.0, 0.0])


def test_velocities_stay_below_the_limit():
    velocities = velocities_of([0, 1, 2, 3, 4, 5, 6], np.arange(7) * 0.1, 3.0)
    assert np.all(velocities < VELOCITY[0]) and velocities.max() > 0.95 * VELOCITY[0]


def test_velocities_leave_way_enough_to_stop():
    # 1 rad/s cannot be lost within 5 mrad.
    velocities = velocities_of([0.0, 0.1, 0.2, 0.205], [0, 0.1, 0.2, 0.205], 1.0)
    assert velocities[1] ** 2 / (2 * ACCELERATION[0]) < 0.005
    assert 0.1 < velocities[1] < velocities[0] <= 1.0
