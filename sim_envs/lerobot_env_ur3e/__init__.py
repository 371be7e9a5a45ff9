"""A UR3e at a table, in MuJoCo: Gymnasium environments, scripted expert, LeRobot plugin.

Importing it registers `ur3e/PickCube-v0` and so on with Gymnasium and, where LeRobot has been
imported before, the environment type `ur3e` with LeRobot. (Not otherwise: importing LeRobot
takes seconds and PyTorch, which this package does without.) `import
lerobot_env_ur3e.lerobot_plugin` registers it at any time.
"""

import os
import sys

if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
    # MuJoCo chooses its OpenGL when it is imported, and would choose one that needs a screen.
    os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium

from .env import Snapshot, UR3eEnv
from .perturbations import KINDS as PERTURBATIONS
from .perturbations import PERTURBATIONS_VERSION
from .simulator import Simulator
from .starts import FIRST_TRAINING_START, STARTS_VERSION
from .tasks import TASK_NAMES

__all__ = [
    "FIRST_TRAINING_START",
    "GYM_IDS",
    "PERTURBATIONS",
    "PERTURBATIONS_VERSION",
    "STARTS_VERSION",
    "TASK_NAMES",
    "Simulator",
    "Snapshot",
    "UR3eEnv",
]

#: Gymnasium's id of each task.
GYM_IDS = {name: f"ur3e/{name.title().replace('_', '')}-v0" for name in TASK_NAMES}

for _name, _id in GYM_IDS.items():
    gymnasium.register(id=_id, entry_point="lerobot_env_ur3e.env:UR3eEnv", kwargs={"task": _name})

if "lerobot" in sys.modules:
    from . import lerobot_plugin as lerobot_plugin
