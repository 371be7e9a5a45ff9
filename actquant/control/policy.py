"""A policy that acts: what simulation, evaluation, deployment and a server take it for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from actquant_runtime import PreviousChunk, Runtime
from numpy.typing import NDArray

from actquant.common.errors import ModelFileError

Actions = NDArray[np.float32]
"""[H, A], in the robot's units."""


@dataclass(frozen=True)
class PolicyDescription:
    """What goes in and out of a policy.

    optional_cameras: how many cameras may be absent; image_size: height and width (px) of the
    training data's pictures; control_rate_hz: None where a checkpoint does not say; noise_shape:
    of the noise of one chunk; supports_guidance: whether `act` takes a previous chunk.
    """

    name: str
    cameras: tuple[str, ...]
    optional_cameras: int
    image_size: tuple[int, int]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    control_rate_hz: float | None
    chunk_length: int
    steps_per_chunk: int
    observation_steps: int
    noise_shape: tuple[int, ...]
    supports_guidance: bool

    @classmethod
    def told(cls, name: str, image_size: tuple[int, int], about: Mapping[str, Any]) -> Self:
        """Returns what the runtime, or a server, says of a policy (`Runtime.describe`)."""
        action = about["action"]
        return cls(
            name=name,
            cameras=tuple(about["cameras"]),
            optional_cameras=about["optional_cameras"],
            image_size=image_size,
            state_names=tuple(about["state"]["names"]),
            action_names=tuple(action["names"]),
            control_rate_hz=about["control_rate_hz"],
            chunk_length=action["chunk_length"],
            steps_per_chunk=action["steps_per_chunk"],
            observation_steps=about["observation_steps"],
            noise_shape=tuple(about["noise_shape"]),
            supports_guidance=about["supports_guidance"],
        )


class Policy(Protocol):
    """Anything that answers an observation with a chunk of actions."""

    def describe(self) -> PolicyDescription:
        """Returns what the policy takes and gives."""
        ...

    def act(
        self,
        observation: Mapping[str, Any],
        *,
        noise: NDArray[np.float32] | None = None,
        previous: PreviousChunk | None = None,
    ) -> Actions:
        """Answers an observation (see `control.window`) with a chunk of actions.

        noise: of `noise_shape`, drawn if left out; previous: what is left of the chunk before, for
        a policy that supports guidance.
        """
        ...


class RuntimePolicy:
    """A GGUF in the native runtime. Raises actquant_runtime.ModelFileError if it is none."""

    def __init__(self, path: Path, threads: int = 0, device: str = "cpu") -> None:
        self.runtime = Runtime(str(path), threads=threads, device=device)

    def describe(self) -> PolicyDescription:
        """Returns what the file says."""
        about = self.runtime.describe()
        image = about["image"]
        size = image["source_height"], image["source_width"]
        return PolicyDescription.told(about["name"], size, about)

    def act(
        self,
        observation: Mapping[str, Any],
        *,
        noise: NDArray[np.float32] | None = None,
        previous: PreviousChunk | None = None,
    ) -> Actions:
        """Answers as `Runtime.act` does."""
        return self.runtime.act(observation, noise=noise, previous=previous)


class CheckpointPolicy:
    """A checkpoint folder in PyTorch, in float32."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        import torch

        from actquant.policies import load_policy

        if threads:
            torch.set_num_threads(threads)
        self._loaded = load_policy(folder)

    def describe(self) -> PolicyDescription:
        """Returns what the checkpoint says."""
        face = self._loaded.interface
        return PolicyDescription(
            name=self._loaded.name,
            cameras=face.cameras,
            optional_cameras=face.optional_cameras,
            image_size=(face.image_source_height, face.image_source_width),
            state_names=face.state_names,
            action_names=face.action_names,
            control_rate_hz=face.control_rate_hz,
            chunk_length=face.chunk_length,
            steps_per_chunk=face.steps_per_chunk,
            observation_steps=face.observation_steps,
            noise_shape=face.noise_shape,
            supports_guidance=False,
        )

    def act(
        self,
        observation: Mapping[str, Any],
        *,
        noise: NDArray[np.float32] | None = None,
        previous: PreviousChunk | None = None,
    ) -> Actions:
        """Answers as the policy's own code does; noise: drawn if left out. Takes no guidance."""
        if previous is not None:
            raise ModelFileError(f"{self._loaded.folder}: a checkpoint in PyTorch is not guided")
        if noise is None:
            shape = self._loaded.interface.noise_shape
            noise = np.random.default_rng().standard_normal(shape, dtype=np.float32)
        return self._loaded.family.act(self._loaded, observation, noise)


def open_policy(model: Path, threads: int = 0, device: str = "cpu") -> Policy:
    """Opens a GGUF file or a checkpoint folder; device: as `Runtime` takes it, of a GGUF alone.

    Raises ModelFileError if there is neither, or for a checkpoint on another device than the cpu.
    """
    model = Path(model)
    if model.is_dir():
        if device != "cpu":
            raise ModelFileError(f"{model} is a checkpoint, which runs on the cpu, not on {device}")
        return CheckpointPolicy(model, threads)
    if model.is_file():
        return RuntimePolicy(model, threads, device)
    raise ModelFileError(f"there is no model at {model}; give a .gguf file or a checkpoint folder")


def model_sha256(model: Path) -> str:
    """Returns the SHA-256 of a GGUF, or of a checkpoint folder's weights.

    Raises ModelFileError if there is neither, CheckpointError for a folder without weights.
    """
    path = Path(model)
    if path.is_dir():
        from actquant.policies.adapter import files_of_weights
        from actquant.policies.stored_weights import hash_files

        return hash_files(files_of_weights(path))
    if not path.is_file():
        raise ModelFileError(f"there is no model at {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
