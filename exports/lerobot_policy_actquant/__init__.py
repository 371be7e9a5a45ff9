"""Policies compressed by actquant, as LeRobot policies: importing it registers `actquant` and
`actquant_remote`.

LeRobot imports every installed distribution named `lerobot_policy_*`, and finds the policy and its
processors by the names of their modules.
"""

from .configuration_actquant import ActquantConfig
from .configuration_actquant_remote import ActquantRemoteConfig

__all__ = ["ActquantConfig", "ActquantRemoteConfig"]
