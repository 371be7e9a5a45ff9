"""Tiny real ACT and diffusion policies with random weights, saved as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import make_pre_post_processors
from tiny_policies import CAMERAS
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


def features(cameras: tuple[str, ...], image: tuple[int, int]) -> dict[str, Any]:
    visual = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *image)) for key in cameras}
    state = PolicyFeature(type=FeatureType.STATE, shape=(STATE_DIM,))
    action = PolicyFeature(type=FeatureType.ACTION, shape=(ACTION_DIM,))
    return {
        "input_features": {**visual, "observation.state": state},
        "output_features": {"action": action},
    }


def save(
    policy: Any,
    folder: Path,
    cameras: tuple[str, ...],
    same: bool,
    seed: int,
    backbone: str | None = None,
) -> Path:
    """same: all cameras have the same statistics, as with ImageNet's; backbone: folder of the
    checkpoint with the towers' configuration and tokenizer."""
    randomise(policy, seed)
    statistics = {
        key: image_statistics(seed + (0 if same else index)) for index, key in enumerate(cameras)
    }
    statistics["observation.state"] = feature_statistics(STATE_DIM, seed + 10, (STATE_DIM,))
    statistics["action"] = feature_statistics(ACTION_DIM, seed + 20, (ACTION_DIM,))
    pre, post = make_pre_post_processors(policy.config, dataset_stats=statistics)
    if backbone is not None:
        policy.config.vision_encoder_name = policy.config.text_encoder_name = backbone
        for step in pre.steps:
            if hasattr(step, "tokenizer_name"):
                step.tokenizer_name = backbone
    policy.save_pretrained(folder)
    pre.save_pretrained(folder, config_filename="policy_preprocessor.json")
    post.save_pretrained(folder, config_filename="policy_postprocessor.json")
    return folder


def build_tiny_act(
    folder: str | Path,
    *,
    cameras: tuple[str, ...] = CAMERAS,
    image: tuple[int, int] = (48, 64),
    same_statistics: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """`settings` overrides fields of ACTConfig."""
    torch.manual_seed(seed)
    config = ACTConfig(
        **features(cameras, image),
        **{
            "chunk_size": 6,
            "n_action_steps": 4,
            "pretrained_backbone_weights": None,
            "dim_model": 32,
            "n_heads": 4,
            "dim_feedforward": 48,
            "n_encoder_layers": 2,
            "n_vae_encoder_layers": 1,
            "device": "cpu",
            **settings,
        },
    )
    return save(ACTPolicy(config).eval(), Path(folder), cameras, same_statistics, seed)


def build_tiny_diffusion(
    folder: str | Path,
    *,
    cameras: tuple[str, ...] = CAMERAS,
    image: tuple[int, int] = (48, 64),
    same_statistics: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """`settings` overrides fields of DiffusionConfig."""
    torch.manual_seed(seed)
    config = DiffusionConfig(
        **features(cameras, image),
        **{
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
            "device": "cpu",
            **settings,
        },
    )
    return save(DiffusionPolicy(config).eval(), Path(folder), cameras, same_statistics, seed)
