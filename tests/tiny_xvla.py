"""A tiny X-VLA policy with random weights, saved as LeRobot's `save_pretrained` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from tiny_policies import (
    CAMERAS,
    dataset_statistics,
    policy_features,
    randomise,
    save_as_published,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors


def build_bart_tokenizer(folder: Path) -> None:
    """Byte-level BPE between <s> and </s>, as BART's."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: index for index, token in enumerate(special)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[symbol] = len(vocab)
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("p", "u"), ("pu", "t")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                **{f"{name}_token": token for name, token in names.items()},
            }
        )
    )


def build_tiny_xvla(
    folder: str | Path,
    *,
    image: tuple[int, int] = (32, 32),
    state_dim: int = 6,
    action_dim: int = 7,
    chunk: int = 5,
    cameras: tuple[str, ...] = CAMERAS,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a tiny XVLAPolicy with its processors in `folder`; returns the folder.

    image: height and width of the cameras. `config` overrides fields of XVLAConfig. The tokenizer
    is in `folder/tokenizer`.
    """
    folder = Path(folder)
    build_bart_tokenizer(folder / "tokenizer")
    torch.manual_seed(seed)
    width = 32
    florence = {
        "vision_config": {
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, width],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 3,
            "projection_dim": width,
        },
        "text_config": {
            "model_type": "bart",
            "vocab_size": 300,
            "d_model": width,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 128,
        },
    }
    settings: dict[str, Any] = {
        "florence_config": florence,
        "hidden_size": width,
        "depth": 2,
        "num_heads": 4,
        "num_domains": 3,
        "len_soft_prompts": 4,
        "max_len_seq": 96,
        "chunk_size": chunk,
        "n_action_steps": chunk,
        "num_denoising_steps": 4,
        "tokenizer_max_length": 24,
        "max_state_dim": 20,
        "max_action_dim": 8,
        "action_mode": "auto",
        **config,
    }
    policy_config = XVLAConfig(
        tokenizer_name=str(folder / "tokenizer"),
        device="cpu",
        **policy_features(cameras, image, state_dim, action_dim),
        **settings,
    )
    policy = XVLAPolicy(policy_config).eval()
    randomise(policy, seed)
    statistics = dataset_statistics(state_dim, action_dim, seed)
    return save_as_published(policy, folder, statistics, "tokenizer", ("tokenizer_name",))
