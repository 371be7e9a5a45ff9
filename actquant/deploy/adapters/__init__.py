"""Adapters between `port.RobotPort` and drivers: the only place where a robot's name stands.

An adapter is a module with `make_port(settings, policy, cameras) -> RobotPort`.
"""

import importlib
from collections.abc import Mapping

from actquant.common.errors import DeployError
from actquant.deploy.cameras import CameraSpec
from actquant.deploy.policy import TimedPolicy
from actquant.deploy.port import RobotPort
from actquant.deploy.settings import DeploySettings

_UR = ("ur3e", "ur5e", "ur10e", "ur16e", "ur20", "ur30", "ur3", "ur5", "ur10")
ROBOTS = dict.fromkeys(_UR, "ur")
"""The module in this folder that drives each robot."""


def make_port(
    settings: DeploySettings, policy: TimedPolicy, cameras: Mapping[str, CameraSpec]
) -> RobotPort:
    """Makes the port to the robot of `settings`, not connected.

    `cameras`: by the policy's names.

    Raises DeployError listing everything that policy and robot lack of each other, that there is no
    such robot, or that its driver is not installed.
    """
    if settings.robot not in ROBOTS:
        raise DeployError(f"--robot {settings.robot}; there are {', '.join(ROBOTS)}")
    adapter = importlib.import_module(f"{__name__}.{ROBOTS[settings.robot]}")
    return adapter.make_port(settings, policy, cameras)
