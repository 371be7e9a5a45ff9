"""What this package takes from LeRobot and what it adds to it; nothing else here imports LeRobot.

All that depends on LeRobot's version is in this file: where its names are, and that
`--policy.path` asks `PreTrainedConfig.from_pretrained` and nothing else for a configuration, which
`accept_ggufs` relies on.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.lerobot_types import PolicyAction
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.factory import make_policy_processor_pipelines
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from packaging.requirements import Requirement

__all__ = [
    "ACTION",
    "OBS_IMAGE",
    "OBS_STATE",
    "AddBatchDimensionProcessorStep",
    "DeviceProcessorStep",
    "FeatureType",
    "PolicyAction",
    "PolicyFeature",
    "PolicyProcessorPipeline",
    "PreTrainedConfig",
    "PreTrainedPolicy",
    "RTCConfig",
    "RenameObservationsProcessorStep",
    "accept_ggufs",
    "make_policy_processor_pipelines",
]

logger = logging.getLogger(__name__)


def accept_ggufs(
    find: Callable[[str | Path, str | None], Path | None],
    find_afterwards: Callable[[str | Path, str | None], Path | None],
    make_folder: Callable[[Path], Path],
    installed: str | None = None,
) -> bool:
    """Lets `PreTrainedConfig.from_pretrained`, and so `--policy.path`, take a GGUF's name too.

    LeRobot itself takes a folder or a repository with a `config.json`, and offers plugins no place
    to say what else is a policy; so its method is wrapped. `find` and `find_afterwards` return the
    GGUF that a name and a revision stand for, or None; the latter is asked where LeRobot has found
    no `config.json`. `make_folder` returns a folder with one for the GGUF. All else is LeRobot's.

    installed: LeRobot's version, by default the one that is there. Returns whether it was done: a
    version that this package does not ask for is left alone, with a warning.
    """
    wanted = _wanted_version()
    installed = installed or importlib.metadata.version("lerobot")
    if not wanted.contains(installed, prereleases=True):
        logger.warning(
            "actquant was not tried with LeRobot %s (but with %s): --policy.path takes no GGUF; "
            "use --policy.type=actquant --policy.model=FILE.gguf",
            installed,
            wanted,
        )
        return False
    original = PreTrainedConfig.__dict__["from_pretrained"].__func__

    @functools.wraps(original)
    def from_pretrained(
        cls: type[PreTrainedConfig], pretrained_name_or_path: str | Path, **options: Any
    ) -> PreTrainedConfig:
        asked = pretrained_name_or_path, options.get("revision")
        file = find(*asked)
        if file is None:
            try:
                return original(cls, pretrained_name_or_path, **options)
            except FileNotFoundError:
                file = find_afterwards(*asked)
                if file is None:
                    raise
        return original(cls, make_folder(file), **options)

    PreTrainedConfig.from_pretrained = classmethod(from_pretrained)  # pyright: ignore
    return True


def _wanted_version() -> Any:
    """Returns which versions of LeRobot this package asks for in its own metadata."""
    lines = importlib.metadata.requires("lerobot_policy_actquant") or []
    (wanted,) = [found for line in lines if (found := Requirement(line)).name == "lerobot"]
    return wanted.specifier
