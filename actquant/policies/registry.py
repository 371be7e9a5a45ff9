"""Which families there are, by name; a family's module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from actquant.policies.base import PolicyFamily

FAMILIES = {
    "act": "act:ACT",
    "diffusion": "diffusion:Diffusion",
    "evo1": "evo1:Evo1",
    "multi_task_dit": "multi_task_dit:MultiTaskDiT",
    "openvla_oft": "openvla_oft.family:OpenVLAOFTFamily",
    "pi0": "pi0:Pi0",
    "pi05": "pi05:Pi05",
    "smolvla": "smolvla:SmolVLA",
    "xvla": "xvla:XVLA",
}
"""`policy_type` -> module beneath this package and class."""
MODEL_TYPES = {"openvla": "openvla_oft"}
"""`model_type` of a published config.json that is not LeRobot's (it has no `type`) ->
`policy_type`."""


def supported_policies() -> list[str]:
    """Returns the policy types that can be loaded."""
    return sorted(FAMILIES)


def policy_type(config: Mapping[str, Any]) -> str | None:
    """Returns what a folder with this `config.json` holds; None if it is not supported."""
    if "type" in config:
        return config["type"] if config["type"] in FAMILIES else None
    return MODEL_TYPES.get(config.get("model_type", ""))


def find_family(name: str) -> type[PolicyFamily]:
    """Returns the family of a policy type; imports its module. Raises KeyError for an unknown
    name."""
    module, _, family = FAMILIES[name].partition(":")
    return getattr(import_module(f"actquant.policies.{module}"), family)
