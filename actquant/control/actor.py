"""A model as something that acts: a GGUF through the runtime, a checkpoint through PyTorch."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from actquant.common.errors import ModelFileError
from actquant.environments.simulation import Actor


class RuntimeActor:
    """A GGUF in the native runtime; no torch."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        from actquant_runtime import Runtime

        self._runtime = Runtime(str(path), threads=threads)
        about = self._runtime.describe()
        self.noise_shape = tuple(about["noise_shape"])
        self.observation_steps: int = about["observation_steps"]
        self.steps_per_chunk: int = about["action"]["steps_per_chunk"]

    def act(self, observation: dict[str, Any], noise: np.ndarray) -> np.ndarray:
        """noise: of `noise_shape` -> actions [H, A]."""
        return self._runtime.act(observation, noise=noise)


class CheckpointActor:
    """A checkpoint folder in PyTorch, f32."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        import torch

        from actquant.policies import load_policy

        if threads:
            torch.set_num_threads(threads)
        self._loaded = load_policy(folder)
        self.noise_shape = self._loaded.family.noise_shape(self._loaded)
        self.observation_steps: int = self._loaded.interface.observation_steps
        self.steps_per_chunk: int = self._loaded.family.steps_per_chunk(self._loaded)

    def act(self, observation: dict[str, Any], noise: np.ndarray) -> np.ndarray:
        """noise: of `noise_shape` -> actions [H, A]."""
        return self._loaded.family.act(self._loaded, observation, noise)


def load_actor(model: Path, threads: int = 0) -> Actor:
    """A GGUF file or a checkpoint folder. Raises ModelFileError if there is neither."""
    model = Path(model)
    if model.is_dir():
        return CheckpointActor(model, threads)
    if model.is_file():
        return RuntimeActor(model, threads)
    raise ModelFileError(f"there is no model at {model}; give a .gguf file or a checkpoint folder")


def model_sha256(model: Path) -> str:
    """SHA-256 of a GGUF, or of a checkpoint folder's weights."""
    model = Path(model)
    path = model / "model.safetensors" if model.is_dir() else model
    if not path.is_file():
        raise ModelFileError(f"there is no model at {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
