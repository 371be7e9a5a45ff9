"""Fake controllers, each on a loopback address of its own, and the real ur-rtde client."""

import itertools
import os
from collections.abc import Iterator

import pytest
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from ur_fake_controller import FakeController

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
