"""The tensors of a checkpoint folder under the names that the policy has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from actquant.common.errors import CheckpointError
from actquant.weights.parameters import ParameterStore

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WRAPPERS = re.compile(
    r"^((module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
    r"|(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What training puts into names: DistributedDataParallel before them, torch.compile, FSDP and
activation checkpointing anywhere."""
OLD_STATISTICS = re.compile(
    r"(?:un)?normalize(?:_inputs|_targets|_outputs)\.(?P<place>.+)\.(?P<name>mean|std|min|max)"
)
"""Keys by which LeRobot before 0.4 kept statistics among the weights: `place` is
`buffer_<feature>`, with `_` for every dot of the feature, or `<dataset>_buffer_<feature>`."""


def has_weights(folder: Path) -> bool:
    """Returns whether a folder has `model.safetensors`, or an index of shards."""
    return any((folder / name).exists() for name in (SINGLE, INDEX))


def weight_files(folder: Path) -> list[Path]:
    """Returns `model.safetensors`, or the shards that its index names, in order.

    Raises CheckpointError for files that are not there.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors")
    try:
        names_of_files = json.loads(index.read_text())["weight_map"].values()
        files = [folder / name for name in sorted(set(names_of_files))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {', '.join(absent)}")
    return files


def weights_sha256(folder: Path) -> str:
    """Returns hash of the weights' only file, or of the hashes of its shards in order."""
    return hash_files(weight_files(folder))


def hash_files(files: Iterable[Path]) -> str:
    """Returns hash of the only file, or of the hashes of several in order."""
    hashes = [sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unwrapped(key: str) -> str:
    """Returns a tensor's name without what training put into it."""
    return WRAPPERS.sub("", key)


def open_weights(folder: Path) -> ParameterStore:
    """Opens the tensors of `weight_files` without what training put into their names.

    Raises CheckpointError for files that are missing or damaged, and for two tensors of one name.
    """
    store = ParameterStore.open(weight_files(folder))
    names = {key: unwrapped(key) for key in store}
    if len(set(names.values())) < len(names):
        twice = sorted(key for key, name in names.items() if name != key and name in store)
        raise CheckpointError(
            f"{folder}: tensors are there twice, keep one of each: {', '.join(twice)}"
        )
    return ParameterStore({name: store[key] for key, name in names.items()})


def split_statistics(
    store: ParameterStore, config: Any
) -> tuple[ParameterStore, dict[str, dict[str, Tensor]]]:
    """Takes the statistics that LeRobot before 0.4 kept among the weights out of them.

    Returns the weights alone, and feature -> name -> values; features are those of the
    configuration, and `<dataset>.buffer.<feature>` where there is one for each of several datasets.
    """
    features = {
        key.replace(".", "_"): key for key in (*config.input_features, *config.output_features)
    }
    weights, statistics = {}, {}
    for key in store:
        if match := OLD_STATISTICS.fullmatch(key):
            dataset, _, flat = match["place"].rpartition("buffer_")
            feature = features.get(flat, flat)
            place = f"{dataset.rstrip('_')}.buffer.{feature}" if dataset else feature
            statistics.setdefault(place, {})[match["name"]] = store[key].read()
        else:
            weights[key] = store[key]
    return ParameterStore(weights), statistics
