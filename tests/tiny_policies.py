"""Tiny real policies with random weights, saved as LeRobot's `save_pretrained` does."""

from __future__ import annotations

import contextlib
import io
import json
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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

torch.set_num_threads(1)

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
    "<video>",
]
CAMERAS = ("observation.images.scene", "observation.images.wrist")


def build_tokenizer(folder: Path) -> dict[str, int]:
    """A byte-level tokenizer with a few merges; returns the ids of the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("p", "u"), ("pu", "t"), ("c", "k")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    return {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}


def build_vlm_folder(
    folder: Path, *, hidden: int = 64, image: int = 48, layers: int = 2, vision_layers: int = 2
) -> Path:
    """The configuration and tokenizer of a tiny vision-language model (no weights)."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = build_tokenizer(folder)
    patch, scale = 12, 2
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": ids["<image>"],
        "scale_factor": scale,
        "tie_word_embeddings": False,
        "pad_token_id": ids["<|im_end|>"],
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "vocab_size": 320,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "pad_token_id": ids["<|im_end|>"],
        },
        "vision_config": {
            "model_type": "smolvlm_vision",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": image,
            "patch_size": patch,
            "hidden_act": "gelu_pytorch_tanh",
        },
    }
    special = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    edge = {"longest_edge": image}
    files: dict[str, dict[str, Any]] = {
        "config.json": config,
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "size": edge,
            "max_image_size": edge,
            "do_image_splitting": False,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": edge},
        },
        "processor_config.json": {
            "processor_class": "SmolVLMProcessor",
            "image_seq_len": (image // patch // scale) ** 2,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 8192,
            "extra_special_tokens": special,
            **special,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder


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
