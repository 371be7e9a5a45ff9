"""Captured programs, kept so that the same policy is captured once."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path

import actquant
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import is_captured, policy_stages, use_stages
from actquant.common.files import hash_json, hash_path
from actquant.policies import LoadedPolicy
from actquant.program.ir import Graph
from actquant.program.stored import dump_graphs, load_graphs

STAGE, ITEM = "programs", "stages"
ROOMS = ("weights", "program", "policies", "capture")
LIBRARIES = ("torch", "lerobot", "transformers", "diffusers")
"""Rooms and libraries whose code decides what is captured."""


def capture_into(work: WorkFolder, loaded: LoadedPolicy) -> bool:
    """Captures a policy, or takes its programs from the work folder; returns whether they were
    there. Those of a policy whose weights are not in memory are not kept."""
    if is_captured(loaded) or loaded.streamed is not None:
        return False
    stages, kept = kept_stages(work, loaded)
    use_stages(loaded, stages)
    return kept


def kept_stages(work: WorkFolder, loaded: LoadedPolicy) -> tuple[dict[str, Graph], bool]:
    """Returns all stages of a policy with its weights in memory, and whether they were there."""
    parameters = dict(loaded.policy.named_parameters())
    made_from = sources_of_programs(loaded)
    stored = work.load(STAGE, ITEM, made_from)
    if stored is not None:
        return load_graphs(stored.arrays, stored.info, parameters), True
    stages = policy_stages(loaded)
    work.save(STAGE, ITEM, made_from, dump_graphs(stages, parameters))
    return stages, False


def sources_of_programs(loaded: LoadedPolicy) -> dict[str, str]:
    """Returns hashes of everything that a policy's programs depend on."""
    return {
        "checkpoint": loaded.checkpoint_sha256,
        "settings": loaded.settings_sha256,
        "interface": hash_json(asdict(loaded.interface)),
        "code": _code(),
    }


@cache
def _code() -> str:
    """Returns a hash of all code that has a say."""
    root = Path(actquant.__file__).parent
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    found = {path.relative_to(root).as_posix(): hash_path(path) for path in files}
    return hash_json({**found, **{name: _version(name) for name in LIBRARIES}})


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
