"""A tiny real multi-task DiT policy with random weights, saved as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
from lerobot.policies.multi_task_dit.modeling_multi_task_dit import MultiTaskDiTPolicy
from tiny_cnn_policies import ACTION_DIM, STATE_DIM, randomise, statistics
from tiny_policies import CAMERAS, policy_features, save_as_published
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

MERGES = [("t", "h"), ("th", "e</w>"), ("p", "u"), ("pu", "t</w>"), ("c", "k</w>")]


def build_clip(folder: Path, *, image: int, max_length: int, legacy_end: bool) -> Path:
    """Configuration, tokenizer and random weights of a tiny CLIP.

    legacy_end: the end of text has the wrong id 2, as in the CLIP models OpenAI published.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*symbols, *(f"{s}</w>" for s in symbols), *(a + b for a, b in MERGES)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=MERGES, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    end = vocab["<|endoftext|>"]
    text = CLIPTextConfig(
        **shared,
        num_attention_heads=4,
        vocab_size=len(vocab),
        max_position_embeddings=max_length,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=2 if legacy_end else end,
        pad_token_id=end,
    )
    vision = CLIPVisionConfig(**shared, num_attention_heads=4, image_size=image, patch_size=16)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def build_tiny_multi_task_dit(
    folder: str | Path,
    *,
    cameras: tuple[str, ...] = CAMERAS,
    image: tuple[int, int] = (48, 64),
    max_length: int = 24,
    legacy_end: bool = False,
    same_statistics: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """`settings` overrides fields of MultiTaskDiTConfig. CLIP's configuration and tokenizer are in
    `folder/clip`, referred to as `clip`."""
    folder = Path(folder)
    torch.manual_seed(seed)
    clip = build_clip(folder / "clip", image=32, max_length=max_length, legacy_end=legacy_end)
    config = MultiTaskDiTConfig(
        **policy_features(cameras, image, STATE_DIM, ACTION_DIM),
        **{
            "n_obs_steps": 2,
            "horizon": 8,
            "n_action_steps": 4,
            "num_train_timesteps": 20,
            "num_inference_steps": 5,
            "num_integration_steps": 5,
            "hidden_dim": 32,
            "num_layers": 2,
            "num_heads": 4,
            "timestep_embed_dim": 16,
            "vision_encoder_name": str(clip),
            "text_encoder_name": str(clip),
            "image_crop_shape": (32, 32),
            "tokenizer_max_length": max_length,
            "device": "cpu",
            **settings,
        },
    )
    policy = MultiTaskDiTPolicy(config).eval()
    with torch.no_grad():  # LeRobot starts with a modulation of zero
        for block in policy.noise_predictor.transformer_blocks:
            block.adaLN_modulation[1].weight.normal_(std=0.1)
    (clip / "model.safetensors").unlink()
    randomise(policy, seed)
    return save_as_published(
        policy,
        folder,
        statistics(cameras, same_statistics, seed),
        "clip",
        ("vision_encoder_name", "text_encoder_name"),
    )
