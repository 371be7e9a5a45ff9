"""What the README says of limits and settings is what there is, and its first motion works."""

import dataclasses
import re
import time
from functools import partial
from pathlib import Path

import lerobot_robot_ur
import numpy as np
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.errors import Stopped
from lerobot_robot_ur.limits import Limits
from streaming import config as patient_config
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


@pytest.fixture(scope="module")
def fake():
    with FakeController(HOST, unlock_delay=0.1) as controller:
        yield controller


def snippets() -> list[str]:
    """The README's code for the driver."""
    return re.findall(r"```python\n(from lerobot_robot_ur.arm .*?)```", README, re.DOTALL)


def run(code: str) -> None:
    """Runs a snippet with the patience of `streaming.config`: a busy machine can be later than the
    default limits of an arm allow."""
    code = code.replace("192.168.0.10", HOST).replace("ArmConfig(ip=", "patient_config(host=")
    exec(code, {"patient_config": partial(patient_config, gripper="robotiq_2f85")})


def test_first_motion(fake, capsys):
    fake.reset()
    before = fake.state()["joints"]
    run(snippets()[0])
    np.testing.assert_allclose(fake.state()["joints"], before, atol=2e-3)
    written = capsys.readouterr().out
    assert "version=(5, 17, 3, 0)" in written and "connected" in written and "p99_ms" in written


def test_recovery(fake):
    fake.faults.protective_stop()
    time.sleep(0.2)
    with pytest.raises(Stopped, match="PROTECTIVE_STOP"):
        Arm(patient_config(HOST)).connect()
    run(snippets()[1])
    assert fake.state()["safety_mode"] == "NORMAL"
