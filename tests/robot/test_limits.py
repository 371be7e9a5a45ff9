"""Limits: defaults that fit the table, and everything wrong said at once."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from lerobot_robot_ur.errors import ConfigError, Refused, Stopped
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.models import MODELS
from ur_motion.control import CONTROL_PERIOD, TRANSLATION_STEP, WORKSPACE_HIGH, WORKSPACE_LOW


@pytest.fixture
def limits():
    return limits_for("ur3e")


@pytest.mark.parametrize("name", MODELS)
def test_defaults_fit_the_table_and_the_arm(name):
    limits, model = limits_for(name), MODELS[name]
    assert limits.model == name
    if model.is_small:
        assert np.all(np.array(limits.box_low_m) < WORKSPACE_LOW)
        assert np.all(np.array(limits.box_high_m) > WORKSPACE_HIGH)
    assert limits.tool_speed_m_s > math.sqrt(3) * TRANSLATION_STEP / CONTROL_PERIOD
    assert np.all(np.array(limits.velocity_rad_s) <= model.speed_limits)
    assert np.all(np.array(limits.position_high_rad) < model.position_limits)


def test_no_such_arm():
    with pytest.raises(
        ConfigError,
        match="no arm 'ur7'; there are ur3e, ur5e, ur10e, ur16e, ur20, ur30, ur3, ur5, ur10",
    ):
        limits_for("ur7")
    with pytest.raises(ConfigError, match="no arm 'ur7'"):
        dataclasses.replace(limits_for("ur3e"), model="ur7")


def test_limits_cannot_be_changed(limits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.tool_speed_m_s = 10.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tool_speed_m_s": math.nan}, "tool_speed_m_s must be finite"),
        ({"tool_speed_m_s": -0.1}, "tool_speed_m_s must be above 0"),
        ({"tool_speed_m_s": "fast"}, "tool_speed_m_s must be finite numbers, got 'fast'"),
        ({"velocity_rad_s": (1.0,) * 5}, "velocity_rad_s must be a tuple of 6 numbers"),
        ({"velocity_rad_s": [1.0] * 6}, "velocity_rad_s must be a tuple of 6 numbers"),
        ({"velocity_rad_s": (1, 1, math.inf, 1, 1, 1)}, "velocity_rad_s must be finite"),
        ({"velocity_rad_s": (1, 1, 1, 1, 0, 1)}, "velocity_rad_s must be above 0"),
        ({"velocity_rad_s": (1, 1, 3.2, 1, 1, 1)}, "elbow: velocity_rad_s 3.2 is above the arm's"),
        ({"acceleration_rad_s2": (0.0,) * 6}, "acceleration_rad_s2 must be above 0"),
        ({"jerk_rad_s3": (math.nan,) * 6}, "jerk_rad_s3 must be finite"),
        ({"position_low_rad": (-7, 0, 0, 0, 0, 0)}, "shoulder_pan: positions -7 to 6.2 rad go bey"),
        ({"position_high_rad": (1, 1, 1, 1, 1, -6.2)}, "wrist_3: position_low_rad -6.2 must be be"),
        (
            {"box_low_m": (-0.1, -0.25, 0.015)},
            "box_low_m -0.1 must be below box_high_m -0.13 along",
        ),
        ({"box_low_m": (-0.1, -0.25)}, "box_low_m must be a tuple of 3 numbers"),
        ({"table_height_m": 0.3}, "box_high_m 0.24 along z must be above the table, at 0.3"),
        ({"table_height_m": math.inf}, "table_height_m must be finite"),
        ({"clearance_m": -0.001}, "clearance_m must not be negative"),
        ({"max_joint_step_rad": 0.0}, "max_joint_step_rad must be above 0"),
        ({"max_state_age_s": 0.0}, "max_state_age_s must be above 0"),
        ({"hold_after_s": 3.0}, "hold_after_s 3 must be below stop_after_s 2"),
    ],
)
def test_what_cannot_be_right_is_refused(limits, change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(limits, **change)


def test_all_problems_are_listed_at_once(limits):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(
            limits,
            velocity_rad_s=(9.0, 1.0, 9.0, 1.0, 1.0, 1.0),
            position_high_rad=(7.0, 1.0, 1.0, 1.0, 1.0, -7.0),
            box_high_m=(-0.5, 0.25, 0.24),
            hold_after_s=5.0,
        )
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 6
    for words in ("shoulder_pan: vel", "elbow: vel", "shoulder_pan: pos", "wrist_3: position_low",
                  "along x", "hold_after_s"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_scaled_limits(limits, speed):
    slow = limits.scaled(speed)
    names = ("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3")
    for name in (*names, "tool_speed_m_s", "reduced_speed_m_s"):
        expected = speed * np.array(getattr(limits, name))
        np.testing.assert_allclose(getattr(slow, name), expected, rtol=1e-12)
    unscaled = {f.name for f in dataclasses.fields(limits)} - {
        *names, "tool_speed_m_s", "reduced_speed_m_s"}  # fmt: skip
    assert all(getattr(slow, name) == getattr(limits, name) for name in unscaled)


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.1, math.nan])
def test_no_such_speed(limits, speed):
    with pytest.raises(ConfigError, match="speed must be above 0 and at most 1"):
        limits.scaled(speed)


@pytest.mark.parametrize(
    "error", [Refused(["a", "b"]), ConfigError(["a", "b"]), Stopped("protective_stop", "why")]
)
def test_errors_cross_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and copy.__dict__ == error.__dict__
    assert str(copy) == str(error)
