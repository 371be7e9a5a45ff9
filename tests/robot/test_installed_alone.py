"""What is installed on a robot's computer works there, without anything of the simulation."""

import ast
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import lerobot_robot_ur
import pytest
from packaging.requirements import Requirement

SIMULATION = ["mujoco", "mink", "gymnasium", "lerobot_env_ur3e", "ur_fake_controller"]

PROBE = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] in {without}:
            raise ModuleNotFoundError("No module named " + repr(name))

sys.meta_path.insert(0, Absent)
{code}
"""


def run_without(without: list[str], code: str) -> subprocess.CompletedProcess[str]:
    program = PROBE.format(without=without, code=code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module, without",
    [
        ("lerobot_robot_ur.servo_process", ["torch", "lerobot", *SIMULATION]),
        ("lerobot_robot_ur.robot", ["torch", "lerobot", "rtde_control", *SIMULATION]),
        ("lerobot_robot_ur.cameras.zmq_camera", ["torch", "lerobot", "cv2", *SIMULATION]),
        ("lerobot_robot_ur.cameras.opencv_camera", ["torch", "lerobot", "zmq", *SIMULATION]),
        ("lerobot_robot_ur.tool_motion", ["torch", "lerobot", "rtde_control", *SIMULATION]),
        ("ur_fake_controller", ["torch", "lerobot", "rtde_control"]),
        ("ur_motion.control", ["torch", "lerobot", "lerobot_robot_ur", *SIMULATION]),
    ],
)
def test_each_part_needs_no_more_than_it_says(module: str, without: list[str]) -> None:
    result = run_without(without, f"import {module}")
    assert result.returncode == 0, result.stderr


MOVE = """
import numpy as np
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.robot import ArmWithCameras
from ur_motion.control import Controller

START = Controller().start_at(np.array([-0.28, 0.0, 0.13])).joints
robot = ArmWithCameras(Arm(ArmConfig("192.0.2.1")), layout="{layout}")
action = dict.fromkeys(robot.layout.action, 0.0)
if "{layout}" == "joints":
    action |= zip(robot.layout.action, map(float, START))
else:
    action["move_z.vel"] = 1.0
joints = robot.check_actions(np.array([list(action.values())]), start=START)
assert joints.shape == (6,) and np.isfinite(joints).all()
assert np.array_equal(joints, START) == ("{layout}" == "joints")
"""


@pytest.mark.parametrize("layout", ["joints", "tool_motion"])
def test_a_real_arm_is_commanded_without_the_simulation(layout: str) -> None:
    result = run_without(["torch", "lerobot", *SIMULATION], MOVE.format(layout=layout))
    assert result.returncode == 0, result.stderr


def test_the_lerobot_robot_is_made_without_the_simulation() -> None:
    code = """
from lerobot_robot_ur import UR3e, UR3eConfig
assert len(UR3e(UR3eConfig(ip="192.0.2.1", layout="tool_motion")).action_features) == 7
"""
    # LeRobot itself asks whether MuJoCo's environments are there.
    result = run_without(["lerobot_env_ur3e", "ur_fake_controller"], code)
    assert result.returncode == 0, result.stderr


def test_the_driver_never_imports_the_fake_controller() -> None:
    folder = Path(lerobot_robot_ur.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {name.partition(".")[0] for name in names}
            assert not roots & set(SIMULATION), f"{file.name}, line {getattr(node, 'lineno', 0)}"


def test_what_the_driver_requires_brings_no_simulator() -> None:
    required = [Requirement(text) for text in requires("lerobot_robot_ur") or ()]
    driver = {r.name for r in required if not r.marker or r.marker.evaluate({"extra": "lerobot"})}
    assert "ur_motion" in {name.replace("-", "_") for name in driver}
    assert not {name.replace("-", "_") for name in driver} & set(SIMULATION)
