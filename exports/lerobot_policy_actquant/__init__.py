"""Policies compressed by actquant, as LeRobot policies: importing it registers `actquant` and
`actquant_remote`, and lets `--policy.path` name a GGUF.

LeRobot imports every installed distribution named `lerobot_policy_*`, and finds the policy and its
processors by the names of their modules.
"""

from .configuration_actquant import ActquantConfig
from .configuration_actquant_remote import ActquantRemoteConfig
from .folders import find_gguf, find_gguf_of_repository, folder_of
from .lerobot_api import accept_ggufs

__all__ = ["ActquantConfig", "ActquantRemoteConfig"]

accept_ggufs(find_gguf, find_gguf_of_repository, folder_of)
