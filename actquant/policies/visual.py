"""Images of several cameras: their normalisation per channel, and the stage that encodes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import NormalizationMode
from torch import Tensor

from actquant.format.schema import PolicyInterface
from actquant.policies.base import StageModule
from actquant.policies.normalization import Faults, mode, statistics
from actquant.policies.processors import find_step

Encode = Callable[[Any, int, Tensor], Tensor]
"""(policy, index of the camera, normalised images [N, 3, H, W]) -> embeddings [N, T, D]."""


@dataclass(frozen=True)
class VisualNormalization:
    """A camera's pixels in [0, 1] become (x - mean) / std per channel: mean, std [C, 3, 1, 1]."""

    mean: Tensor
    std: Tensor

    @classmethod
    def read(cls, preprocessor: Any, config: Any, folder: Path) -> VisualNormalization:
        """Reads them for all cameras of the policy, in its order. Raises CheckpointError naming
        every statistic that is missing or makes no sense."""
        step = find_step(preprocessor, "norm_map")
        faults = Faults()
        means, stds = [], []
        for key, feature in config.image_features.items():
            mean, std = statistics(step, key, feature, faults)
            eps = step.eps if mode(step, feature) == NormalizationMode.MEAN_STD else 0.0
            means.append(torch.tensor(mean, dtype=torch.float32))
            stds.append(torch.tensor(std, dtype=torch.float32) + eps)
        faults.check(folder)
        shape = (len(means), 3, 1, 1)
        return cls(torch.stack(means).reshape(shape), torch.stack(stds).reshape(shape))

    @property
    def is_shared(self) -> bool:
        """Whether all cameras have the same statistics."""
        return bool((self.mean == self.mean[:1]).all() and (self.std == self.std[:1]).all())


class ImageStage(StageModule):
    """Base of the stages that see images. One stage `vision` serves all cameras; where cameras have
    encoders or statistics of their own (`shared` is false), it hands the pixels on, [1, 3, H·W],
    and the prefix encodes them."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self, policy: Any, encode: Encode, normalization: VisualNormalization, shared: bool
    ) -> None:
        super().__init__(policy)
        self.encode = encode
        self.shared = shared
        self.register_buffer("image_mean", normalization.mean, persistent=False)
        self.register_buffer("image_std", normalization.std, persistent=False)

    def embed(self, camera: int, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1] of one camera -> [N, T, D]."""
        normalised = (images - self.image_mean[camera]) / self.image_std[camera]
        return self.encode(self.policy, camera, normalised)


class Vision(ImageStage):
    """image [1, 3, H, W] in [0, 1] -> embedding [1, T, D]."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.embed(0, image) if self.shared else image.flatten(2)}


class ImagePrefix(ImageStage):
    """Base of a prefix: what `vision` gave, for each camera and observation step."""

    def __init__(
        self,
        policy: Any,
        encode: Encode,
        normalization: VisualNormalization,
        shared: bool,
        interface: PolicyInterface,
    ) -> None:
        super().__init__(policy, encode, normalization, shared)
        self.cameras = len(interface.cameras)
        self.steps = interface.observation_steps
        self.size = (interface.image_height, interface.image_width)

    def image_features(self, images: dict[str, Tensor]) -> list[Tensor]:
        """Returns per camera [steps, T, D], the oldest observation first."""
        features = []
        for camera in range(self.cameras):
            names = [f"image_embedding_{t * self.cameras + camera}" for t in range(self.steps)]
            given = torch.cat([images[name] for name in names])
            features.append(
                given if self.shared else self.embed(camera, given.unflatten(2, self.size))
            )
        return features
