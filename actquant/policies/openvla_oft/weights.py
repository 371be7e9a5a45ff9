"""The tensors of a published checkpoint folder: safetensors shards and the parts trained beside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actquant.common.errors import CheckpointError
from actquant.policies import checkpoint
from actquant.policies.adapter import how_to_merge
from actquant.policies.openvla_oft.layout import tells_sizes, unused
from actquant.policies.openvla_oft.module import Architecture, OpenVLAOFT
from actquant.policies.stored_weights import open_weights, sha256, unwrapped, weights_sha256
from actquant.weights.parameters import ParameterStore

UNSUPPORTED = {
    "vision_backbone": "a FiLM-conditioned vision backbone",
    "noisy_action_projector": "a diffusion action head",
}


@dataclass(frozen=True)
class Weights:
    """Where every tensor of the checkpoint is; shapes are known, data is read when asked for."""

    folder: Path
    parts: tuple[Path, ...]
    """Files of the action head and, if there is one, of the state's projector."""
    store: ParameterStore

    @classmethod
    def find(cls, folder: Path) -> Weights:
        """Raises CheckpointError for missing, unreadable or unsupported files."""
        for part, meaning in UNSUPPORTED.items():
            if found := _part_files(folder, part):
                raise CheckpointError(f"{found[0]}: {meaning} is not supported")
        if command := how_to_merge(folder):
            raise CheckpointError(f"{folder} has no weights{command}")
        head = _one(folder, "action_head")
        if head is None:
            raise CheckpointError(
                f"{folder} has no action_head--<steps>_checkpoint.pt: it is a base OpenVLA, or one "
                "fine-tuned with discrete actions; only OpenVLA-OFT with the L1 regression head is "
                "supported"
            )
        tensors = _read_part(head, "action_head.")
        if any("noise_predictor" in key for key in tensors):
            raise CheckpointError(f"{head}: {UNSUPPORTED['noisy_action_projector']}")
        state = _one(folder, "proprio_projector")
        if state is not None:
            tensors |= _read_part(state, "proprio_projector.")
        store = open_weights(folder)
        parts = (head,) if state is None else (head, state)
        return cls(folder, parts, store | ParameterStore.of_tensors(tensors))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: stored.shape for key, stored in self.store.items()}

    def sha256(self) -> str:
        """Returns the hash of the hashes of the shards together and of every part."""
        hashes = [weights_sha256(self.folder), *map(sha256, self.parts)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def check(self, shape: Architecture) -> None:
        """Raises CheckpointError listing all missing and unexpected keys and differing shapes.

        What the index of the shards names must be there even where inference does not read it:
        shards that lost tensors could be taken for a smaller policy.
        """
        policy = checkpoint.build(lambda: OpenVLAOFT(shape, 1, 0), self.folder)
        checkpoint.check_keys(
            policy,
            self._read(shape),
            self.folder,
            lost=_index(self.folder) - self.store.keys(),
            sizes_known=tells_sizes(self.shapes),
        )

    def build(self, shape: Architecture, chunk_length: int, stop_token: int) -> OpenVLAOFT:
        """Returns the policy in float32, in evaluation mode, without gradients; see
        `checkpoint.build`."""
        policy = checkpoint.build(lambda: OpenVLAOFT(shape, chunk_length, stop_token), self.folder)
        checkpoint.load_weights(policy, self.folder, store=self._read(shape))
        return policy  # pyright: ignore[reportReturnType]

    def _read(self, shape: Architecture) -> ParameterStore:
        """Without what inference does not read."""
        ignored = unused(shape)
        read = {key: value for key, value in self.store.items() if not ignored.fullmatch(key)}
        return ParameterStore(read)


def _index(folder: Path) -> set[str]:
    """The names that the index of the shards has, if there is one."""
    file = folder / "model.safetensors.index.json"
    keys = json.loads(file.read_text())["weight_map"] if file.is_file() else {}
    return {unwrapped(key) for key in keys}


def _part_files(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{part}--*checkpoint.pt"))


def _one(folder: Path, part: str) -> Path | None:
    found = _part_files(folder, part)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise CheckpointError(f"{folder} has several of one kind, keep one: {names}")
    return found[0] if found else None


def _read_part(file: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a `.pt` file; training on several devices has put `module.` before keys."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return {prefix + key.removeprefix("module."): value for key, value in tensors.items()}
    except Exception as error:  # torch.load raises many kinds
        raise CheckpointError(f"{file} cannot be loaded: {error}") from error
