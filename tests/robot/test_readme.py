"""What the README says of limits and settings is what there is, and its first motion works."""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import lerobot_robot_ur
import numpy as np
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.errors import StaleState, Stopped
from lerobot_robot_ur.limits import Limits
from ur_fake_controller import FakeController

HOST = "127.0.0.72"
README = (Path(__file__).parents[2] / "robot" / "README.md").read_text()


def rows(title: str) -> list[list[str]]:
    """Cells of the first table after a line."""
    lines = README[README.index(title) :].splitlines()
    table = [line for line in lines if line.startswith("|") or not line]
    first = next(i for i, line in enumerate(table) if line.startswith("|"))
    end = next((i for i, line in enumerate(table[first:], first) if not line), len(table))
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[first + 2 : end]
    ]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_limits():
    told = {name for first, _ in rows("Limits, in the base frame") for name in names_in(first)}
    assert told == {field.name for field in dataclasses.fields(Limits)} - {"model"}


def test_settings():
    told = [name for cell, *_ in rows("| `--robot.` |") for name in names_in(cell)]
    told += ["gripper_ip"]  # in the gripper's row
    fields = {field.name for field in dataclasses.fields(lerobot_robot_ur.UR3eConfig)}
    assert set(told) == fields - {"id", "calibration_dir"}


def _run(code: str, prepare: Callable[[], object], attempts: int = 5) -> None:
    """A busy machine can be later than the default limits of an arm allow."""
    for attempt in range(attempts):
        prepare()
        try:
            exec(code, {})
            return
        except (StaleState, Stopped):
            if attempt + 1 == attempts:
                raise


@pytest.fixture(scope="module")
def fake():
    with FakeController(HOST, unlock_delay=0.1) as controller:
        yield controller


def snippets() -> list[str]:
    """The README's code for the driver, for this module's address."""
    found = re.findall(r"```python\n(from lerobot_robot_ur.arm .*?)```", README, re.DOTALL)
    return [code.replace("192.168.0.10", HOST) for code in found]


def test_first_motion(fake, capsys):
    fake.reset()
    before = fake.state()["joints"]
    _run(snippets()[0], fake.reset)
    np.testing.assert_allclose(fake.state()["joints"], before, atol=2e-3)
    written = capsys.readouterr().out
    assert "version=(5, 17, 3, 0)" in written and "connected" in written and "p99_ms" in written


def test_recovery(fake):
    def stop() -> None:
        fake.faults.protective_stop()
        time.sleep(0.2)

    stop()
    with pytest.raises(Stopped, match="PROTECTIVE_STOP"):
        Arm(ArmConfig(ip=HOST)).connect()
    _run(snippets()[1], stop)
    assert fake.state()["safety_mode"] == "NORMAL"
