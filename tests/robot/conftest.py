"""Fake controllers, each on a loopback address of its own, and the real ur-rtde client.

`fake` starts one for each test. A module whose tests share one at its HOST has `fake` return
`renewed`.
"""

import itertools
import os
from collections.abc import Iterator

import pytest
from lerobot_robot_ur.arm import Arm
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from streaming import config, speed
from sway import Sway
from ur_fake_controller import FakeController
from waiting import bring_back, wait_until

_numbers = itertools.count(2)


@pytest.fixture
def address() -> str:
    """A loopback address that no other test of any worker uses."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    number = next(_numbers)
    return f"127.{1 + worker}.{number // 250}.{number % 250 + 2}"


@pytest.fixture
def fake(address: str) -> Iterator[FakeController]:
    with FakeController(address, unlock_delay=0.1) as controller:
        yield controller


@pytest.fixture(scope="module")
def controller(request: pytest.FixtureRequest) -> Iterator[FakeController]:
    """One for all tests of a module."""
    with FakeController(request.module.HOST, unlock_delay=0.1) as running:
        yield running


@pytest.fixture
def renewed(controller: FakeController) -> Iterator[FakeController]:
    """The module's controller, as if just started."""
    controller.faults.clear()
    bring_back(controller.host)
    controller.reset()
    yield controller
    controller.faults.clear()


@pytest.fixture
def arm(fake: FakeController) -> Iterator[Arm]:
    with Arm(config(fake.host)) as connected:
        yield connected


@pytest.fixture
def moving(fake: FakeController, arm: Arm) -> Iterator[Sway]:
    """What keeps the arm in motion; it moves already."""
    stream = Sway(arm)
    wait_until(lambda: speed(fake) > 0.1 or stream.error is not None, "motion")
    assert stream.error is None
    yield stream
    stream.end()


@pytest.fixture
def receive(fake: FakeController) -> Iterator[RTDEReceiveInterface]:
    interface = RTDEReceiveInterface(fake.host)
    yield interface
    interface.disconnect()


@pytest.fixture
def control(fake: FakeController) -> Iterator[RTDEControlInterface]:
    interface = RTDEControlInterface(fake.host)
    yield interface
    interface.disconnect()
