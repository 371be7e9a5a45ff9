"""Universal Robots' arms as LeRobot robots; `ur_fake_controller` beside it is what to try them on.

LeRobot imports every installed distribution named `lerobot_robot_*`; the package then registers
the robots `ur3e`, `ur5e` and so on. It does so only where LeRobot has been imported before:
importing LeRobot takes seconds and PyTorch, which driver and servo process do without.
`from lerobot_robot_ur import UR3e` registers them at any time.
"""

import importlib
import sys
from typing import Any

_ARMS = ("UR3e", "UR5e", "UR10e", "UR16e", "UR20", "UR30", "UR3", "UR5", "UR10")
_PLUGIN = {name: "lerobot_plugin" for arm in _ARMS for name in (arm, f"{arm}Config")}
_PLUGIN |= dict.fromkeys(("URFreedrive", "URFreedriveConfig"), "freedrive")


def __getattr__(name: str) -> Any:
    if name in _PLUGIN:
        return getattr(importlib.import_module(f"{__name__}.{_PLUGIN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "lerobot" in sys.modules:
    from . import freedrive as freedrive
    from . import lerobot_plugin as lerobot_plugin
