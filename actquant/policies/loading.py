"""From a folder or a name on the hub to a loaded policy of any family."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actquant.common.errors import CheckpointError
from actquant.common.files import lfs_pointers
from actquant.common.machine import total_memory
from actquant.policies.adapter import how_to_merge, is_adapter
from actquant.policies.base import LoadedPolicy, PolicyFamily
from actquant.policies.registry import find_family, policy_type, supported_policies
from actquant.weights.hub import checkpoint_files, declared_license, find_checkpoint


def load_policy(
    folder: str | Path,
    *,
    control_rate_hz: float | None = None,
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    streamed: bool | None = None,
) -> LoadedPolicy:
    """Loads any supported checkpoint in float32: a folder, or a repository of the hub
    (`organisation/name`, `organisation/name@revision`).

    control_rate_hz, state_names and action_names come from the dataset the policy was trained on;
    the rate defaults to the one in the checkpoint's `train_config.json` or stays unknown, the names
    to `state_0`, … and `action_0`, …. options: what the family's `options` name, e.g. which of
    several datasets' statistics apply. No parameter requires a gradient.

    streamed: leave the weights on disk (see `LoadedPolicy`); None does so where they would take
    more than half of the machine's memory.

    Raises CheckpointError if the folder is incomplete, its policy type is not supported, or its
    weights are to be in memory and do not fit.
    """
    source = find_checkpoint(folder)
    try:
        loaded = _load(
            source.folder,
            options or {},
            control_rate_hz=control_rate_hz,
            state_names=state_names,
            action_names=action_names,
        )
    except CheckpointError as error:
        raise _explained(error, source.folder) from error
    loaded.name, loaded.revision = source.name, source.revision
    loaded.license = declared_license(source.folder)
    for remark in loaded.remarks:
        logging.getLogger(__name__).warning("%s: %s", source.name, remark)
    _place_weights(loaded, streamed)
    return loaded


def _load(folder: Path, options: Mapping[str, Any], **facts: Any) -> LoadedPolicy:
    family = _family(folder)
    if unknown := sorted(options.keys() - set(family.options)):
        raise CheckpointError(
            f"{family.policy_type} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(family.options) or 'none'}"
        )
    return family.load(folder, **facts, **options)


def _explained(error: CheckpointError, folder: Path) -> CheckpointError:
    """Returns the error, or what it comes of: a clone whose large files were not fetched."""
    pointers = lfs_pointers(checkpoint_files(folder))
    if not pointers:
        return error
    names = ", ".join(file.relative_to(folder).as_posix() for file in pointers)
    return CheckpointError(
        f"{folder}: Git LFS has not fetched {names}, pointers are in their place: "
        f"git -C {folder} lfs pull"
    )


def _family(folder: Path) -> PolicyFamily:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} is no LeRobot checkpoint: it has no config.json{_elsewhere(folder)}"
        )
    try:
        config = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is not a JSON object: {error}") from error
    name = policy_type(config)
    if name is None:
        found = config.get("type", config.get("model_type"))
        supported = f"supported: {', '.join(supported_policies())}"
        if found is None:
            raise CheckpointError(
                f"{file} names no policy type: it is not as LeRobot saves it, with the policy's "
                f"type, features and processors; {supported}"
            )
        raise CheckpointError(f"{file}: policy type {found!r} is not supported; {supported}")
    return find_family(name)()


def _elsewhere(folder: Path) -> str:
    """Returns where the policy of a folder without config.json is, as far as that can be seen."""
    for below in ("pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model"):
        if (folder / below / "config.json").is_file():
            return f"; its policy is in {folder / below}"
    if is_adapter(folder):
        return "; it is a PEFT adapter alone, to which its base policy's config.json belongs"
    return how_to_merge(folder)


def _place_weights(loaded: LoadedPolicy, streamed: bool | None) -> None:
    """Read streamed weights into memory, unless they are to stay on disk."""
    if loaded.streamed is None:
        return
    size, memory = loaded.streamed.bytes, total_memory()
    if streamed is False and size > memory:
        raise CheckpointError(
            f"{loaded.folder}: as float32 the weights take {size / 1e9:.1f} GB, this machine has "
            f"{memory / 1e9:.1f} GB; leave them on disk, as `compress` does by any recipe"
        )
    if streamed is False or (streamed is None and size <= memory / 2):
        loaded.streamed.load()
