"""Tiny real policies with random weights, saved as LeRobot's `save_pretrained` does."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from smolvlm_folder import TEXT, VISION, write_smolvlm_folder
from torch import nn

torch.set_num_threads(1)

CAMERAS = ("observation.images.scene", "observation.images.wrist")


def build_vlm_folder(
    folder: Path, *, hidden: int = 64, image: int = 48, layers: int = 2, vision_layers: int = 2
) -> Path:
    """The configuration and tokenizer of a tiny vision-language model (no weights)."""
    text = {
        **TEXT,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "vocab_size": 320,
    }
    vision = {
        **VISION,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 4,
        "image_size": image,
        "patch_size": 12,
    }
    return write_smolvlm_folder(folder, text, vision, scale_factor=2, dtype="float32")


def randomise(module: nn.Module, seed: int) -> None:
    """Norms and biases that are not trivial, so that agreement means something."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(base + 0.1 * noise)


def dataset_statistics(state_dim: int, action_dim: int, seed: int) -> dict[str, dict[str, Any]]:
    """Means and standard deviations of state and action, as a LeRobot dataset has them."""
    generator = torch.Generator().manual_seed(seed + 2)

    def feature(size: int) -> dict[str, torch.Tensor]:
        return {
            "mean": torch.randn(size, generator=generator),
            "std": 0.5 + torch.rand(size, generator=generator),
        }

    return {"observation.state": feature(state_dim), "action": feature(action_dim)}


def policy_features(
    cameras: tuple[str, ...], image: tuple[int, int], state_dim: int, action_dim: int
) -> dict[str, Any]:
    """The fields of a LeRobot configuration that say what goes in and out."""
    visual = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *image)) for key in cameras}
    state = PolicyFeature(type=FeatureType.STATE, shape=(state_dim,))
    action = PolicyFeature(type=FeatureType.ACTION, shape=(action_dim,))
    return {
        "input_features": {**visual, "observation.state": state},
        "output_features": {"action": action},
    }


def save_as_published(
    policy: Any,
    folder: Path,
    statistics: dict[str, dict[str, Any]],
    subfolder: str | None = None,
    fields: tuple[str, ...] = (),
) -> Path:
    """The policy and its processors. Those `fields` of its configuration, and the tokenizer, refer
    to `subfolder` of the checkpoint."""
    processors = make_pre_post_processors(policy.config, dataset_stats=statistics)
    for field in fields:
        setattr(policy.config, field, subfolder)
    policy.save_pretrained(folder)
    for kind, pipeline in zip(("pre", "post"), processors, strict=True):
        for step in pipeline.steps:
            if subfolder is not None and hasattr(step, "tokenizer_name"):
                step.tokenizer_name = subfolder
        pipeline.save_pretrained(folder, config_filename=f"policy_{kind}processor.json")
    return folder


def build_tiny_smolvla(
    folder: str | Path,
    *,
    hidden: int = 64,
    image: int = 48,
    layers: int = 2,
    vision_layers: int = 2,
    state_dim: int = 6,
    action_dim: int = 7,
    chunk: int = 6,
    num_steps: int = 4,
    cameras: tuple[str, ...] = CAMERAS,
    max_length: int = 24,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a tiny SmolVLAPolicy with its processors in `folder`; returns the folder.

    `config` overrides fields of SmolVLAConfig (e.g. `attention_mode`, `num_expert_layers`). The
    vision-language model's configuration and tokenizer are in `folder/vlm`, referred to as `vlm`.
    """
    folder = Path(folder)
    vlm = build_vlm_folder(
        folder / "vlm", hidden=hidden, image=image, layers=layers, vision_layers=vision_layers
    )
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "resize_imgs_with_padding": (image, image),
        "chunk_size": chunk,
        "n_action_steps": chunk,
        "num_steps": num_steps,
        "tokenizer_max_length": max_length,
        "num_vlm_layers": layers,
        "max_state_dim": 8,
        "max_action_dim": 8,
        **config,
    }
    policy_config = SmolVLAConfig(
        vlm_model_name=str(vlm),
        load_vlm_weights=False,
        device="cpu",
        **policy_features(cameras, (image, image), state_dim, action_dim),
        **settings,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        policy = SmolVLAPolicy(policy_config).eval()
    randomise(policy, seed)
    statistics = dataset_statistics(state_dim, action_dim, seed)
    return save_as_published(policy, folder, statistics, "vlm", ("vlm_model_name",))
