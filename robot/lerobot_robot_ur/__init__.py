"""UR3e and UR3 as LeRobot robots; `ur_fake_controller` beside it is what to try them on.

LeRobot imports every installed distribution named `lerobot_robot_*`; the package then registers
the robots `ur3e` and `ur3`. It does so only where LeRobot has been imported before: importing
LeRobot takes seconds and PyTorch, which driver and servo process do without.
`from lerobot_robot_ur import UR3e` registers them at any time.
"""

import importlib
import sys
from typing import Any

_PLUGIN = ("UR3", "UR3Config", "UR3e", "UR3eConfig")


def __getattr__(name: str) -> Any:
    if name in _PLUGIN:
        return getattr(importlib.import_module(f"{__name__}.lerobot_plugin"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "lerobot" in sys.modules:
    from . import lerobot_plugin as lerobot_plugin
