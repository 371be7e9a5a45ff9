"""Sizes of the policy, read from the shapes of a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig

from actquant.common.errors import CheckpointError
from actquant.policies.openvla_oft.module import Architecture, TowerShape

Shapes = Mapping[str, tuple[int, ...]]

TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": 16,
    "vit_so400m_patch14_siglip_224": 16,
}
"""timm's name of each vision tower -> its number of attention heads, which no shape tells."""
LLAMA_2 = {"num_attention_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
"""What config.json leaves to the defaults of `LlamaConfig`, with which the policy was trained."""
FIRST, SECOND = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
LANGUAGE = "language_model.model."
HEAD = "action_head.model."
STATE = "proprio_projector."
PUBLISHED = {
    f"{FIRST}patch_embed.proj.weight": (1024, 3, 14, 14),
    f"{FIRST}pos_embed": (1, 256, 1024),
    f"{FIRST}blocks.0.mlp.fc1.weight": (4096, 1024),
    f"{SECOND}patch_embed.proj.weight": (1152, 3, 14, 14),
    f"{SECOND}pos_embed": (1, 256, 1152),
    f"{SECOND}blocks.0.mlp.fc1.weight": (4304, 1152),
    "projector.fc1.weight": (8704, 2176),
    f"{LANGUAGE}embed_tokens.weight": (32064, 4096),
    f"{LANGUAGE}layers.0.mlp.gate_proj.weight": (11008, 4096),
    f"{LANGUAGE}layers.0.self_attn.k_proj.weight": (4096, 4096),
    f"{HEAD}fc1.weight": (4096, 7 * 4096),
    f"{HEAD}fc2.weight": (7, 4096),
}
"""Tensors whose shapes tell the sizes, as published."""


def check_config(config: Mapping[str, Any], file: str) -> None:
    """Raises CheckpointError listing every setting of config.json that is not supported."""
    towers = config.get("timm_model_ids", list(TOWERS))
    wrong = []
    if list(towers) != list(TOWERS):
        wrong.append(f"timm_model_ids {towers} (only {list(TOWERS)})")
    if not config.get("use_fused_vision_backbone", True):
        wrong.append("use_fused_vision_backbone = false")
    if any(config.get("timm_override_act_layers") or ()):
        wrong.append(f"timm_override_act_layers {config['timm_override_act_layers']}")
    if (text := config.get("text_config", {}).get("model_type", "llama")) != "llama":
        wrong.append(f"a language model of type {text!r}")
    if len(set(config.get("image_sizes", [0]))) != 1:
        wrong.append(f"image_sizes {config['image_sizes']} that differ")
    if wrong:
        raise CheckpointError(f"{file}: not supported: {'; '.join(wrong)}")


def tells_sizes(shapes: Shapes) -> bool:
    return all(key in shapes for key in PUBLISHED)


def read_architecture(shapes: Shapes, config: Mapping[str, Any]) -> Architecture:
    """Reads sizes off the tensors; where those are missing, the published policies': then names
    alone can be compared."""
    if not tells_sizes(shapes):
        shapes = {**shapes, **PUBLISHED}
    width = shapes[f"{LANGUAGE}embed_tokens.weight"][1]
    head = shapes[f"{HEAD}fc1.weight"]
    proprio = shapes.get(f"{STATE}fc1.weight")
    heads = iter(TOWERS.values())
    return Architecture(
        towers=(_tower(shapes, FIRST, next(heads)), _tower(shapes, SECOND, next(heads))),
        projector_hidden=shapes["projector.fc1.weight"][0],
        language=_language(shapes, config.get("text_config", {})),
        action_dim=head[1] // width,
        head_hidden=head[0],
        head_blocks=_count(shapes, f"{HEAD}mlp_resnet_blocks."),
        proprio_dim=proprio[1] if proprio else None,
    )


def unused(shape: Architecture) -> re.Pattern[str]:
    """Keys of the published layout that inference reads nothing of."""
    first, second = (rf"blocks\.{tower.blocks}\." for tower in shape.towers)
    return re.compile(
        r"language_model\.lm_head\.weight|.*\.rotary_emb\.inv_freq"
        rf"|vision_backbone\.featurizer\.({first}|norm\.).*"
        rf"|vision_backbone\.fused_featurizer\.({second}|norm\.|attn_pool\.).*"
    )


def _count(shapes: Shapes, prefix: str) -> int:
    """One more than the highest number that follows the prefix."""
    numbers = (re.match(r"\d+", key[len(prefix) :]) for key in shapes if key.startswith(prefix))
    return max((int(number[0]) + 1 for number in numbers if number), default=0)


def _tower(shapes: Shapes, prefix: str, heads: int) -> TowerShape:
    width, _, patch, _ = shapes[f"{prefix}patch_embed.proj.weight"]
    tokens = tuple(name for name in ("cls_token", "reg_token") if f"{prefix}{name}" in shapes)
    return TowerShape(
        width=width,
        hidden=shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0],
        heads=heads,
        blocks=_count(shapes, f"{prefix}blocks.") - 1,
        patch=patch,
        positions=shapes[f"{prefix}pos_embed"][1],
        prefix_tokens=tokens,
        registers=shapes.get(f"{prefix}reg_token", (1, 0))[1],
        layer_scale=f"{prefix}blocks.0.ls1.scale_factor" in shapes,
    )


def _language(shapes: Shapes, text_config: Mapping[str, Any]) -> LlamaConfig:
    vocabulary, width = shapes[f"{LANGUAGE}embed_tokens.weight"]
    settings = {**LLAMA_2, **text_config}
    head_dim = settings.get("head_dim") or width // settings["num_attention_heads"]
    kept = ("num_attention_heads", "rms_norm_eps", "rope_theta", "rope_scaling")
    sizes: dict[str, Any] = {
        **{key: settings[key] for key in kept if key in settings},
        "vocab_size": vocabulary,
        "hidden_size": width,
        "head_dim": head_dim,
        "intermediate_size": shapes[f"{LANGUAGE}layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": _count(shapes, f"{LANGUAGE}layers."),
        "num_key_value_heads": shapes[f"{LANGUAGE}layers.0.self_attn.k_proj.weight"][0] // head_dim,
        "pad_token_id": None,
        "attn_implementation": "sdpa",
    }
    return LlamaConfig(**sizes)
