"""Tiny real pi0 and pi0.5 policies with random weights, as LeRobot's `save_pretrained` has them."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gemma_tokenizer import gemma_tokenizer
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pi_gemma import (
    PaliGemmaForConditionalGenerationWithPiGemma,
    PiGemmaForCausalLM,
)
from random_checkpoint import save_processors
from tiny_policies import CAMERAS, randomise

VOCABULARY = 512
HUB_TOKENIZER = "google/paligemma-3b-pt-224"
WIDTHS = {"gemma_2b": 64, "gemma_300m": 32}


@contextlib.contextmanager
def tiny_backbone(policy_type: str, layers: int = 2, image: int = 28) -> Iterator[Any]:
    """Within it, LeRobot's policies of this type are built tiny; its configurations know real sizes
    only. Yields the module."""
    module = importlib.import_module(f"lerobot.policies.{policy_type}.modeling_{policy_type}")

    def gemma_config(variant: str) -> Any:
        width = WIDTHS[variant]
        return module.GemmaConfig(
            width=width, depth=layers, mlp_dim=2 * width, num_heads=8, num_kv_heads=1, head_dim=16
        )

    def paligemma(config: Any) -> Any:
        config.text_config.vocab_size = VOCABULARY
        vision = config.vision_config
        vision.hidden_size, vision.intermediate_size = 48, 96
        vision.num_hidden_layers, vision.num_attention_heads = layers, 2
        vision.patch_size, vision.image_size = 14, image
        vision.projection_dim = config.projection_dim = config.text_config.hidden_size
        return PaliGemmaForConditionalGenerationWithPiGemma(config)

    def gemma(config: Any) -> Any:
        config.vocab_size = VOCABULARY
        return PiGemmaForCausalLM(config)

    with mock.patch.multiple(
        module,
        get_gemma_config=gemma_config,
        PaliGemmaForConditionalGenerationWithPiGemma=paligemma,
        PiGemmaForCausalLM=gemma,
    ):
        yield module


def build_tiny_pi(
    folder: str | Path,
    policy_type: str,
    *,
    image: int = 28,
    camera_shape: tuple[int, int, int] = (3, 28, 28),
    cameras: tuple[str, ...] = CAMERAS,
    state_dim: int = 6,
    action_dim: int = 7,
    max_length: int = 72,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Save a tiny policy with its processors, as it is published: they name the hub's tokenizer.
    The tokenizer's files are in the folder itself.

    `settings` override fields of the configuration (e.g. `dtype`, `empty_cameras`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    features = {key: PolicyFeature(FeatureType.VISUAL, camera_shape) for key in cameras}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (state_dim,))
    torch.manual_seed(seed)
    with tiny_backbone(policy_type, image=image) as module:
        name = policy_type.upper()
        policy_class = getattr(module, f"{name}Policy")
        config = policy_class.config_class(
            device="cpu",
            image_resolution=(image, image),
            input_features=features,
            output_features={"action": PolicyFeature(FeatureType.ACTION, (action_dim,))},
            **{
                "chunk_size": 6,
                "n_action_steps": 4,
                "num_inference_steps": 4,
                "max_state_dim": 8,
                "max_action_dim": 8,
                "tokenizer_max_length": max_length,
                **settings,
            },
        )
        with contextlib.redirect_stdout(io.StringIO()):
            policy = policy_class(config).eval()
    randomise(policy, seed)
    randomise_conditions(policy, seed)
    policy.save_pretrained(folder)
    tokenizer = gemma_tokenizer(VOCABULARY)
    tokenizer.save_pretrained(folder)
    save_processors(folder, config, tokenizer, HUB_TOKENIZER)
    return folder


def build_tiny_pi0(folder: str | Path, **settings: Any) -> Path:
    return build_tiny_pi(folder, "pi0", **settings)


def build_tiny_pi05(folder: str | Path, **settings: Any) -> Path:
    return build_tiny_pi(folder, "pi05", **settings)


def randomise_conditions(policy: Any, seed: int) -> None:
    """What LeRobot initialises with zeros: the adaptive norms' weights; Gemma's norms add one."""
    generator = torch.Generator().manual_seed(seed + 3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            is_norm = name.endswith("norm.weight") and "vision_tower" not in name
            if name.endswith("norm.dense.weight") or (is_norm and parameter.ndim == 1):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.1 * noise)
