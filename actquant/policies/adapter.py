"""PEFT adapters: a checkpoint that holds what was trained beside the weights of a base policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from actquant.common.errors import CheckpointError, brief
from actquant.common.machine import total_memory
from actquant.policies.stored_weights import has_weights, weight_files
from actquant.weights.hub import find_checkpoint
from actquant.weights.parameters import load_now, weights_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


OPENVLA_OFT = "lora_adapter"
"""Folder in which OpenVLA-OFT's training leaves an adapter that it has not merged."""


def how_to_merge(folder: Path) -> str:
    """Returns how the adapter of an OpenVLA-OFT training is merged; empty where there is none."""
    if has_weights(folder) or not (folder / OPENVLA_OFT / CONFIG).is_file():
        return ""
    return (
        f"; its {OPENVLA_OFT} is not merged: in a clone of openvla-oft, python "
        f"vla-scripts/merge_lora_weights_and_save.py --base_checkpoint openvla/openvla-7b "
        f"--lora_finetuned_checkpoint_dir {folder.resolve()}"
    )


def is_adapter(folder: Path) -> bool:
    """Returns whether a folder holds an adapter and no weights of a policy."""
    return (folder / CONFIG).is_file() and not has_weights(folder)


def base_folder(folder: Path) -> Path:
    """Returns the folder of the weights: the folder itself, or an adapter's base policy, here or on
    the hub.

    Raises CheckpointError if an adapter does not say its base, or the base is not to be had.
    """
    if not is_adapter(folder):
        return folder
    file = folder / CONFIG
    try:
        config = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is not a JSON object: {brief(error)}") from error
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise CheckpointError(
            f"{file} does not say its base policy: set base_model_name_or_path to its folder or "
            "its name on the hub"
        )
    beside = folder / base
    try:
        found = find_checkpoint(
            beside if beside.is_dir() else base if revision is None else f"{base}@{revision}"
        )
    except CheckpointError as error:
        raise CheckpointError(f"{file}: the base policy: {error}") from error
    return found.folder


def files_of_weights(folder: Path) -> list[Path]:
    """Returns all files that the policy's weights are made of, the base's first."""
    files = weight_files(base_folder(folder))
    return [*files, folder / WEIGHTS] if is_adapter(folder) else files


def merge_adapter(policy: Any, folder: Path) -> Any:
    """Returns a policy that has its base's weights with the adapter's in them, all in memory.

    Raises CheckpointError if the adapter does not fit the policy.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"{folder} holds a PEFT adapter; to merge it with its base: pip install peft"
        ) from error
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}")
    weights, memory = weights_of(policy), total_memory()
    if weights is not None and weights.bytes > memory:
        raise CheckpointError(
            f"{folder}: to merge the adapter its base policy has to be in memory, as float32 "
            f"{weights.bytes / 1e9:.1f} GB; this machine has {memory / 1e9:.1f} GB"
        )
    load_now(policy)
    try:
        adapted: Any = PeftModel.from_pretrained(policy, str(folder))
        loaded = get_peft_model_state_dict(adapted).keys()
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            stored = set(file.keys())
        if stored != loaded:
            differing = sorted(stored ^ loaded)
            raise ValueError(f"{len(differing)} tensors differ, such as {differing[0]}")
        merged: Any = adapted.merge_and_unload()
    except Exception as error:  # PEFT raises many kinds
        raise CheckpointError(
            f"{folder}: the adapter does not fit its base policy: {brief(error)}"
        ) from error
    return merged.eval().requires_grad_(False)
