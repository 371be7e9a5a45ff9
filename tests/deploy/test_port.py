"""The port: names are matched once, errors are ours, and only adapters know a driver."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_robot_ur import errors as driver_errors
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.layout import MEASURED, TOOL_MOTION
from lerobot_robot_ur.robot import ArmWithCameras
from ur_motion.control import Controller

import actquant.deploy
from actquant.common.errors import (
    ActquantError,
    DeployError,
    RefusedError,
    RobotError,
    StaleStateError,
    StoppedError,
)
from actquant.deploy.adapters import ROBOTS, make_port
from actquant.deploy.adapters.ur import URPort

NAMES = re.compile(r"\bur[35]?e?\b|lerobot_robot_ur|ur_fake|ur_motion|polyscope|universal", re.I)
# The adapters, and the command that starts the fake controller of one of them.
KNOWING = ("adapters", "robot_sim.py")


class Policy:
    """The names of a policy that has everything in another order than the driver."""

    rate_hz = 10.0
    state_names = list(reversed(MEASURED))
    action_names = [*TOOL_MOTION[3:], *TOOL_MOTION[:3]]


@pytest.fixture
def port() -> URPort:
    policy: Any = Policy()
    return URPort(ArmWithCameras(Arm(ArmConfig("192.0.2.1")), layout="tool_motion"), policy)


def test_only_adapters_name_a_robot() -> None:
    folder = Path(actquant.deploy.__file__).parent
    files = [f for f in folder.rglob("*.py") if f.relative_to(folder).parts[0] not in KNOWING]
    assert len(files) > 15
    named = {
        f"{file.name}: {found.group()}"
        for file in files
        for found in NAMES.finditer(file.read_text("utf-8"))
    }
    assert named == set()


def test_the_search_finds_what_it_looks_for() -> None:
    adapter = Path(actquant.deploy.__file__).parent / "adapters" / "ur.py"
    assert NAMES.search(adapter.read_text("utf-8"))


def test_actions_are_permuted_there_and_back(port: URPort, monkeypatch: Any) -> None:
    seen = []

    def take(actions: np.ndarray) -> np.ndarray:
        seen.append(actions)
        return actions[0]

    monkeypatch.setattr(port.driver, "send_actions", take)
    actions = np.arange(14.0).reshape(2, 7)
    np.testing.assert_array_equal(port.send(actions), actions[0])
    by_name = dict(zip(Policy.action_names, actions[1], strict=True))
    np.testing.assert_array_equal(seen[0][1], [by_name[name] for name in TOOL_MOTION])


def test_an_action_is_checked_under_the_policys_names(port: URPort) -> None:
    start = Controller().start_at(np.array([-0.28, 0.0, 0.13])).joints
    up = np.zeros((1, 7))
    up[0, Policy.action_names.index("move_z.vel")] = 1.0
    joints = port.check(up, start)
    tool, _ = port.arm.guard.kinematics.tool(joints)
    assert tool[2] > 0.14
    up[0, Policy.action_names.index("turn_y.vel")] = np.nan
    with pytest.raises(RefusedError) as refused:
        port.check(up, start)
    assert refused.value.reasons == ["turn_y.vel is nan"]


def test_states_are_in_the_policys_order(port: URPort, monkeypatch: Any) -> None:
    monkeypatch.setattr(port.driver, "measure_all", lambda: np.arange(13.0))
    np.testing.assert_array_equal(port.measure(), np.arange(13.0)[::-1])


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (driver_errors.Stopped("lost", "why"), StoppedError, "lost: why"),
        (driver_errors.StaleState("old"), StaleStateError, "old"),
        (driver_errors.Refused(["a", "b"]), RefusedError, "a; b"),
        (driver_errors.ConfigError(["c"]), RobotError, "ConfigError: c"),
        (driver_errors.ConnectionFailed("d"), RobotError, "ConnectionFailed: d"),
    ],
)
def test_the_drivers_errors_become_ours(
    port: URPort, monkeypatch: Any, raised: Exception, kind: type[Exception], text: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(port.driver, "connect", fail)
    with pytest.raises(RobotError) as caught:
        port.connect()
    assert type(caught.value) is kind and str(caught.value) == text
    assert isinstance(caught.value, ActquantError)


def test_an_unknown_robot_is_told_which_there_are() -> None:
    settings: Any = type("Settings", (), {"robot": "ur9"})
    policy: Any = Policy()
    with pytest.raises(DeployError, match=f"--robot ur9; there are {', '.join(ROBOTS)}"):
        make_port(settings, policy, {})
