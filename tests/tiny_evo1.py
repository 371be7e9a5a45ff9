"""A tiny EVO1 policy with random weights, saved as LeRobot's `save_pretrained` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.policies.evo1.configuration_evo1 import Evo1Config
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from tiny_policies import (
    CAMERAS,
    policy_features,
    randomise,
    save_as_published,
)
from tokenizers import pre_tokenizers
from transformers import InternVLConfig, InternVLModel, Qwen2Tokenizer

SPECIAL = ("<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>")
MERGES = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("p", "u"), ("pu", "t"), ("I", "m")]


def build_internvl(
    folder: Path, *, hidden: int, image: int, layers: int, text_type: str, **tower: Any
) -> Path:
    """Configuration, tokenizer and random weights of a tiny InternVL3: a vision tower of 4 x 4
    patches and a language model of Qwen's, with rotary embeddings as published. tower: other
    settings of InternVLVisionConfig."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES), *SPECIAL]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=MERGES, additional_special_tokens=list(SPECIAL[1:])
    )
    tokenizer.save_pretrained(folder)
    patch = image // 4
    text = {
        "model_type": text_type,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "vocab_size": len(vocab) + 4,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "attention_bias": True,
        "image_size": [image, image],
        "patch_size": [patch, patch],
        **tower,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=vocab["<IMG_CONTEXT>"],
        image_seq_length=4,
    )
    InternVLModel(config).save_pretrained(folder)
    return folder


def statistics(state_dim: int, action_dim: int, seed: int) -> dict[str, dict[str, Any]]:
    """Statistics of state and action, as a LeRobot dataset has them."""
    generator = torch.Generator().manual_seed(seed + 2)

    def feature(size: int) -> dict[str, torch.Tensor]:
        low = torch.randn(size, generator=generator) - 1
        width = 0.5 + torch.rand(size, generator=generator)
        return {"min": low, "max": low + width, "mean": low + width / 3, "std": width / 4}

    return {"observation.state": feature(state_dim), "action": feature(action_dim)}


def build_tiny_evo1(
    folder: str | Path,
    *,
    image: tuple[int, int] = (40, 56),
    resolution: int = 28,
    state_dim: int = 6,
    action_dim: int = 7,
    chunk: int = 5,
    cameras: tuple[str, ...] = CAMERAS,
    with_backbone: bool = False,
    text_type: str = "qwen2",
    tower: dict[str, Any] | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a tiny Evo1Policy with its processors in `folder`; returns the folder.

    image: height and width of the cameras. `config` overrides fields of Evo1Config. InternVL's
    configuration and tokenizer are in `folder/vlm`, referred to as `vlm`; with_backbone: weights
    too, without which LeRobot does not load a policy. text_type, tower: see `build_internvl`.
    """
    folder = Path(folder)
    torch.manual_seed(seed)
    hidden = 64
    vlm = build_internvl(
        folder / "vlm",
        hidden=hidden,
        image=resolution,
        layers=3,
        text_type=text_type,
        **(tower or {}),
    )
    settings: dict[str, Any] = {
        "vlm_num_layers": 2,
        "vlm_dtype": "float32",
        "use_flash_attn": False,
        "max_views": 3,
        "max_text_length": 128,
        "image_resolution": (resolution, resolution),
        "embed_dim": hidden,
        "hidden_dim": 48,
        "state_hidden_dim": 40,
        "num_heads": 4,
        "num_layers": 2,
        "num_inference_timesteps": 4,
        "max_state_dim": 8,
        "max_action_dim": 9,
        "chunk_size": chunk,
        "n_action_steps": chunk,
        **config,
    }
    policy_config = Evo1Config(
        vlm_model_name=str(vlm),
        device="cpu",
        **policy_features(cameras, image, state_dim, action_dim),
        **settings,
    )
    policy = Evo1Policy(policy_config).eval()
    if not with_backbone:
        (vlm / "model.safetensors").unlink()
    randomise(policy, seed)
    stats = statistics(state_dim, action_dim, seed)
    return save_as_published(policy, folder, stats, "vlm", ("vlm_model_name",))
