"""What policies share that denoise a horizon of actions, given the last few observations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actquant.common.errors import CheckpointError
from actquant.policies.base import LoadedPolicy, Observation
from actquant.policies.given_noise import given_noise
from actquant.policies.lerobot import LeRobotFamily
from actquant.policies.visual import Encode, ImagePrefix, Vision, VisualNormalization


class Prefix(ImagePrefix):
    """States [T, S] and image features -> what the denoiser is conditioned on, [1, D]."""

    def forward(self, state: Tensor, **images: Tensor) -> dict[str, Tensor]:
        return {"cond": self.condition(state, images)}

    def condition(self, state: Tensor, images: dict[str, Tensor], *others: Tensor) -> Tensor:
        """Makes the conditioning; others: features [T, D] of other kinds."""
        features = [camera.flatten(1) for camera in self.image_features(images)]
        return torch.cat([state, *features, *others], dim=1).flatten()[None]


class Decode(nn.Module):
    """The rows that are executed, from the current observation on: x [1, horizon, A] -> actions
    [1, H, A]."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start = start
        self.length = length

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"actions": x[:, self.start : self.start + self.length]}


def image_steps(resize: Sequence[int] | None, crop: Sequence[int] | None) -> dict[str, Any]:
    """Fields of PolicyInterface for torchvision's Resize of float images (antialiased, no
    rounding), then its CenterCrop; each (height, width) or absent."""
    fields: dict[str, Any] = {}
    steps = []
    if resize is not None:
        fields["image_height"], fields["image_width"] = resize
        size = f"height={resize[0]} width={resize[1]}"
        steps.append(f"resize {size} filter=bilinear antialias=1 round=0")
    if crop is not None:
        fields["image_height"], fields["image_width"] = crop
        steps.append(f"center_crop height={crop[0]} width={crop[1]}")
    return {**fields, "image_steps": tuple(steps)}


class ActionDiffusionFamily(LeRobotFamily):
    """`n_obs_steps` observations condition the denoising of `horizon` actions, of which
    `n_action_steps` from the current observation on are the chunk."""

    normalizes_images = True
    prefix: type[Prefix] = Prefix

    def prepare(self, config: Any, folder: Path) -> None:
        most = config.horizon - config.n_obs_steps + 1
        if config.n_action_steps > most:
            raise CheckpointError(
                f"{folder}/config.json: n_action_steps is {config.n_action_steps}, at most "
                f"horizon - n_obs_steps + 1 = {most}"
            )

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {
            "driver": "sampling",
            "noise_rows": config.horizon,
            "noise_dim": config.action_feature.shape[0],
            "observation_steps": config.n_obs_steps,
        }

    def stages_around(
        self, loaded: LoadedPolicy, encode: Encode, denoise: nn.Module, separate: bool
    ) -> dict[str, nn.Module]:
        """Returns all stages. separate: each camera has an encoder of its own."""
        face = loaded.interface
        visual: VisualNormalization = loaded.cache["visual"]
        shared = len(face.cameras) == 1 or (visual.is_shared and not separate)
        arguments = (loaded.policy, encode, visual, shared)
        return {
            "vision": Vision(*arguments),
            "prefix": self.prefix(*arguments, face),
            "denoise": denoise,
            "decode": Decode(face.observation_steps - 1, face.chunk_length),
        }

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        batch = super().batch(loaded, observations)
        if loaded.interface.observation_steps == 1:
            for key in ("observation.state", *loaded.config.image_features):
                batch[key] = batch[key][:, None]
        return batch

    def with_images(self, loaded: LoadedPolicy, batch: dict[str, Any]) -> dict[str, Any]:
        """Stacks the cameras, [B, T, C, 3, H, W], as LeRobot's models take them."""
        images = torch.stack([batch[key] for key in loaded.config.image_features], dim=-4)
        return {**batch, "observation.images": images}

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        policy.reset()
        with given_noise(*(noise.unbind(1) if noise.ndim == 4 else [noise])):
            return self.generate(policy, self.with_images(loaded, batch))

    @abstractmethod
    def generate(self, policy: Any, batch: dict[str, Any]) -> Tensor:
        """Returns the policy's own chunk from a batch with stacked cameras, drawing its noise."""

    def draw_time(self, loaded: LoadedPolicy, rng: np.random.Generator) -> float:
        return 1.0 - rng.random()

    def action_window(self, loaded: LoadedPolicy) -> range:
        start = 1 - loaded.interface.observation_steps
        return range(start, start + loaded.interface.noise_rows)
