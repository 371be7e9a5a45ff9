"""A policy of real size with random weights, in the layout in which LeRobot saves it:

    python benchmarks/build_policy.py pi05 OUT --dtype bf16

It needs the disk that the checkpoint takes and hardly any memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_tokenizer import gemma_tokenizer
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config
from openvla_oft_checkpoint import PUBLISHED, build_openvla_oft
from random_checkpoint import on_meta, save_processors, spread, write_weights
from smolvlm_folder import write_smolvlm_folder
from transformers import AutoTokenizer

CAMERAS = ("observation.images.base_0_rgb", "observation.images.left_wrist_0_rgb")
LEROBOT_DTYPES = {"bf16": "bfloat16", "f32": "float32"}
TOKENIZER = "tokenizer"
"""Folder of the checkpoint with the tokenizer's files."""
BACKBONE = "vlm"
"""Folder of a SmolVLA with its backbone's configuration and tokenizer."""


def features(image: int, state: int, action: int) -> dict[str, Any]:
    """Fields of a LeRobot configuration: two cameras, a state and an action."""
    return {
        "input_features": {
            **{key: PolicyFeature(FeatureType.VISUAL, (3, image, image)) for key in CAMERAS},
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (action,))},
    }


def save(folder: Path, policy: Any, config: Any, spread: Any = spread) -> None:
    """Writes what `save_pretrained` writes of a policy, for one on the meta device."""
    config.device = "cpu"
    config._save_pretrained(folder)
    write_weights(folder, policy.state_dict(), spread=spread)


def gemma_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Gemma's norms multiply by one plus their weight."""
    mean, deviation = spread(name, shape)
    is_gemma = "language_model" in name or "gemma_expert" in name
    return (0.0 if is_gemma else mean), deviation


def build_pi(policy_type: str, folder: Path, dtype: str) -> None:
    """Builds pi0 or pi0.5: gemma_2b, gemma_300m and SigLIP so400m."""
    policy_class = get_policy_class(policy_type)
    config = make_policy_config(policy_type, dtype=LEROBOT_DTYPES[dtype], **features(224, 8, 7))
    config.device = "meta"
    policy = on_meta(lambda: policy_class(config))
    save(folder, policy, config, gemma_spread)
    tokenizer = gemma_tokenizer(257152)
    tokenizer.save_pretrained(folder / TOKENIZER)
    save_processors(folder, config, tokenizer, TOKENIZER)


def build_smolvla(folder: Path, dtype: str) -> None:
    """Builds smolvla_base: 16 layers of SmolVLM2-500M and an expert 3/4 as wide."""
    backbone = write_smolvlm_folder(folder / BACKBONE)
    policy_class = get_policy_class("smolvla")
    config = make_policy_config("smolvla", load_vlm_weights=False, **features(512, 6, 6))
    config.vlm_model_name = str(backbone)
    config.device = "meta"
    policy = on_meta(lambda: policy_class(config))
    config.vlm_model_name = BACKBONE
    if dtype == "bf16":
        policy = policy.bfloat16()
    save(folder, policy, config)
    save_processors(folder, config, AutoTokenizer.from_pretrained(str(backbone)), BACKBONE)


def build_oft(folder: Path, dtype: str) -> None:
    """Builds DINOv2-L, SigLIP so400m and Llama 2 7B in the published layout, in shards."""
    if dtype != "bf16":
        raise SystemExit("openvla_oft is published in bf16 only")
    build_openvla_oft(folder, PUBLISHED, shard_bytes=5 << 30)


BUILDERS: dict[str, Callable[[Path, str], None]] = {
    "openvla_oft": build_oft,
    "pi0": lambda folder, dtype: build_pi("pi0", folder, dtype),
    "pi05": lambda folder, dtype: build_pi("pi05", folder, dtype),
    "smolvla": build_smolvla,
}
"""Name -> builder of (folder, `bf16` or `f32`)."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A policy of real size, random weights")
    parser.add_argument("policy", choices=sorted(BUILDERS))
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--dtype", choices=sorted(LEROBOT_DTYPES), default="bf16")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    BUILDERS[arguments.policy](arguments.out, arguments.dtype)


if __name__ == "__main__":
    main()
