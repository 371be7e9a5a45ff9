"""Policies compressed by actquant, as LeRobot policies: importing it registers `actquant`.

LeRobot imports every installed distribution named `lerobot_policy_*`, and finds the policy and its
processors by the names of their modules.
"""

from .configuration_actquant import ActquantConfig

__all__ = ["ActquantConfig"]
