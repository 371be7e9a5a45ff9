"""Tiny real ACT and diffusion policies with random weights, saved as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from tiny_policies import CAMERAS, policy_features, save_as_published
from torch import nn

STATE_DIM, ACTION_DIM = 5, 4


def randomise(module: nn.Module, seed: int) -> None:
    """Norms, biases and running statistics that are not trivial, so that agreement means
    something."""
    generator = torch.Generator().manual_seed(seed + 1)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if tensor.ndim == 1:
                positive = name.endswith(("running_var", "weight"))
                tensor.copy_(float(positive) + 0.1 * torch.randn(tensor.shape, generator=generator))


def feature_statistics(size: int, seed: int, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(size, generator=generator)
    width = 1 + torch.rand(size, generator=generator)
    values = {"mean": low + width / 2, "std": width / 3, "min": low, "max": low + width}
    return {name: value.reshape(shape) for name, value in values.items()}


def image_statistics(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "mean": 0.4 + 0.1 * torch.rand(3, generator=generator),
        "std": 0.2 + 0.1 * torch.rand(3, generator=generator),
        "min": torch.zeros(3),
        "max": 0.8 + 0.2 * torch.rand(3, generator=generator),
    }
    return {name: value.reshape(3, 1, 1) for name, value in values.items()}


def build(
    policy_class: Any,
    defaults: dict[str, Any],
    folder: str | Path,
    *,
    cameras: tuple[str, ...] = CAMERAS,
    image: tuple[int, int] = (48, 64),
    sizes: tuple[int, int] = (STATE_DIM, ACTION_DIM),
    same_statistics: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Save a tiny policy. settings: fields of its configuration, beside and before `defaults`;
    sizes: of state and action; same_statistics: all cameras have the same, as with ImageNet's."""
    torch.manual_seed(seed)
    config = policy_class.config_class(
        **policy_features(cameras, image, *sizes),
        **{**defaults, "device": "cpu", **settings},
    )
    policy = policy_class(config).eval()
    randomise(policy, seed)
    return save_as_published(
        policy, Path(folder), statistics(cameras, same_statistics, seed, sizes)
    )


def statistics(
    cameras: tuple[str, ...],
    same: bool,
    seed: int,
    sizes: tuple[int, int] = (STATE_DIM, ACTION_DIM),
) -> dict[str, dict[str, Any]]:
    """As of a dataset of these cameras; see `build`."""
    return {
        **{key: image_statistics(seed + (0 if same else i)) for i, key in enumerate(cameras)},
        "observation.state": feature_statistics(sizes[0], seed + 10, (sizes[0],)),
        "action": feature_statistics(sizes[1], seed + 20, (sizes[1],)),
    }


def build_tiny_act(folder: str | Path, **settings: Any) -> Path:
    """settings: of `build`, and fields of ACTConfig."""
    defaults = {
        "chunk_size": 6,
        "n_action_steps": 4,
        "pretrained_backbone_weights": None,
        "dim_model": 32,
        "n_heads": 4,
        "dim_feedforward": 48,
        "n_encoder_layers": 2,
        "n_vae_encoder_layers": 1,
    }
    return build(ACTPolicy, defaults, folder, **settings)


def build_tiny_diffusion(folder: str | Path, **settings: Any) -> Path:
    """settings: of `build`, and fields of DiffusionConfig."""
    defaults = {
        "n_obs_steps": 2,
        "horizon": 8,
        "n_action_steps": 4,
        "pretrained_backbone_weights": None,
        "crop_shape": (40, 48),
        "spatial_softmax_num_keypoints": 4,
        "use_separate_rgb_encoder_per_camera": False,
        "down_dims": (16, 32),
        "n_groups": 4,
        "diffusion_step_embed_dim": 16,
        "num_train_timesteps": 20,
        "num_inference_steps": 5,
    }
    return build(DiffusionPolicy, defaults, folder, **settings)
