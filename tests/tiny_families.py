"""A tiny checkpoint of every family, for what is tested and measured of all of them.

A family's modules are imported when it is asked for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

BUILDERS = {
    "act": "tiny_cnn_policies:build_tiny_act",
    "diffusion": "tiny_cnn_policies:build_tiny_diffusion",
    "evo1": "tiny_evo1:build_tiny_evo1",
    "multi_task_dit": "tiny_multi_task_dit:build_tiny_multi_task_dit",
    "openvla_oft": "openvla_oft_checkpoint:build_openvla_oft",
    "pi0": "tiny_pi:build_tiny_pi0",
    "pi05": "tiny_pi:build_tiny_pi05",
    "smolvla": "tiny_policies:build_tiny_smolvla",
    "xvla": "tiny_xvla:build_tiny_xvla",
}
"""`policy_type` -> module in tests/ or benchmarks/, and function that writes a folder."""
SMALL_BACKBONES = {"pi0", "pi05"}
"""Families whose library has no setting for the size of the backbone."""


def build_tiny(family: str, folder: Path) -> Path:
    module, _, name = BUILDERS[family].partition(":")
    return getattr(import_module(module), name)(folder)


def loading(family: str) -> AbstractContextManager[Any]:
    """What must be entered to load the family's tiny checkpoint."""
    if family not in SMALL_BACKBONES:
        return nullcontext()
    return import_module("tiny_pi").tiny_backbone(family)
