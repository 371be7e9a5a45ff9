"""The tensors of a published checkpoint folder: safetensors shards and the parts trained beside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from actquant.errors import CheckpointError
from actquant.policies.checkpoint import sha256
from actquant.policies.openvla_oft.layout import unused
from actquant.policies.openvla_oft.module import Architecture, OpenVLAOFT

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
UNSUPPORTED = {
    "vision_backbone": "a FiLM-conditioned vision backbone",
    "noisy_action_projector": "a diffusion action head",
}


@dataclass(frozen=True)
class Weights:
    """Where every tensor of the checkpoint is; shapes are known, data is read when asked for."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    shards: dict[str, Path]
    parts: dict[str, Tensor]
    """Tensors of `action_head` and `proprio_projector`, mapped from their files."""
    promised: frozenset[str]
    """Keys that the index lists."""

    @classmethod
    def find(cls, folder: Path) -> Weights:
        """Raises CheckpointError for missing, unreadable or unsupported files."""
        for part, meaning in UNSUPPORTED.items():
            if found := _part_files(folder, part):
                raise CheckpointError(f"{found[0]}: {meaning} is not supported")
        head = _one(folder, "action_head")
        if head is None:
            raise CheckpointError(
                f"{folder} has no action_head--<steps>_checkpoint.pt: it is a base OpenVLA, or one "
                "fine-tuned with discrete actions; only OpenVLA-OFT with the L1 regression head is "
                "supported"
            )
        state = _one(folder, "proprio_projector")
        parts = _read_part(head, "action_head.")
        if state is not None:
            parts |= _read_part(state, "proprio_projector.")
        if any("noise_predictor" in key for key in parts):
            raise CheckpointError(f"{head}: {UNSUPPORTED['noisy_action_projector']}")
        files, promised = _shard_files(folder)
        shapes = {key: tuple(tensor.shape) for key, tensor in parts.items()}
        shards: dict[str, Path] = {}
        for file in files:
            with _open(file) as shard:
                for key in shard.keys():  # noqa: SIM118  no dict
                    shards[key] = file
                    shapes[key] = tuple(shard.get_slice(key).get_shape())
        every = (*files, head, *((state,) if state else ()))
        return cls(every, shapes, shards, parts, promised)

    def sha256(self) -> str:
        """Of the files' hashes, in the order of their names."""
        digests = (sha256(file) for file in sorted(self.files))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def build(self, shape: Architecture, chunk_length: int, stop_token: int) -> OpenVLAOFT:
        """The policy in float32, in evaluation mode, without gradients.

        Raises CheckpointError listing all missing and unexpected keys and differing shapes.
        """
        with torch.device("meta"):
            policy = OpenVLAOFT(shape, chunk_length, stop_token)
        self._check(policy, shape)
        for file in dict.fromkeys(self.shards.values()):
            with _open(file) as shard:
                for key in shard.keys():  # noqa: SIM118
                    _assign(policy, key, shard.get_tensor(key))
        for key, tensor in self.parts.items():
            _assign(policy, key, tensor)
        policy.language_model.model.rotary_emb = LlamaRotaryEmbedding(shape.language)
        return policy.eval().requires_grad_(False)

    def _check(self, policy: OpenVLAOFT, shape: Architecture) -> None:
        wanted = {key: tuple(tensor.shape) for key, tensor in policy.state_dict().items()}
        ignored = unused(shape)
        missing = sorted((wanted.keys() | self.promised) - self.shapes.keys())
        extra = self.shapes.keys() - wanted.keys()
        unexpected = sorted(key for key in extra if not ignored.fullmatch(key))
        wrong = [
            f"{key} {list(self.shapes[key])} instead of {list(size)}"
            for key, size in wanted.items()
            if key in self.shapes and self.shapes[key] != size
        ]
        if missing or unexpected or wrong:
            raise CheckpointError(
                f"the weights in {self.files[0].parent} do not fit the architecture\n"
                f"  missing ({len(missing)}): {', '.join(missing) or 'none'}\n"
                f"  unexpected ({len(unexpected)}): {', '.join(unexpected) or 'none'}\n"
                f"  of another shape ({len(wrong)}): {', '.join(wrong) or 'none'}"
            )


def _assign(policy: nn.Module, key: str, tensor: Tensor) -> None:
    """Replace a parameter by the checkpoint's, as float32; keys that are not read are skipped."""
    path, _, name = key.rpartition(".")
    try:
        module = policy.get_submodule(path)
    except AttributeError:
        return
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor.float(), requires_grad=False)


def _shard_files(folder: Path) -> tuple[tuple[Path, ...], frozenset[str]]:
    """The shards, and the keys that should be in them."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return (folder / SINGLE,), frozenset()
        raise CheckpointError(f"{folder} has neither {INDEX} nor {SINGLE}")
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} cannot be read: {error!r}") from error
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} has no {', '.join(missing)}, which {INDEX} names")
    return tuple(folder / name for name in names), frozenset(weight_map)


def _open(file: Path):  # noqa: ANN202  the library's class has no public type
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be loaded: {error}") from error


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
