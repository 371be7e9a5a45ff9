"""What a model file says of its policy: the keys of docs/format.md as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PolicyInterface:
    """What goes in and out of a policy; every field is a key of the file."""

    driver: str
    num_steps: int
    cameras: tuple[str, ...]
    optional_cameras: int
    image_height: int
    image_width: int
    image_resize: str
    image_scale: float
    image_offset: float
    tokenizer_json: str
    tokenizer_max_length: int
    tokenizer_pad_id: int
    tokenizer_suffix: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    state_padded_dim: int
    action_padded_dim: int
    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    normalization_eps: float
    chunk_length: int
    steps_per_chunk: int
    control_rate_hz: float | None
    """None while unknown; a file cannot be written without it."""


@dataclass(frozen=True)
class ModelMetadata:
    """All keys of the file but the programs and the tensors' shapes."""

    name: str
    family: str
    parameter_count: int
    interface: PolicyInterface
    provenance: dict[str, Any] = field(default_factory=dict)
    allocation: dict[str, Any] = field(default_factory=dict)
    """Tensor name (of the parameter) -> {"type", "bits", "score", ...}."""
    golden: list[dict[str, Any]] = field(default_factory=list)
    """Items `{seed, prompt, masked_cameras, actions, actions_reference}`."""
    format_version: int = FORMAT_VERSION


INTERFACE_KEYS: dict[str, tuple[str, str]] = {
    "driver": ("actquant.driver", "str"),
    "num_steps": ("actquant.driver.num_steps", "u32"),
    "cameras": ("actquant.cameras", "str[]"),
    "optional_cameras": ("actquant.cameras.optional", "u32"),
    "image_height": ("actquant.image.height", "u32"),
    "image_width": ("actquant.image.width", "u32"),
    "image_resize": ("actquant.image.resize", "str"),
    "image_scale": ("actquant.image.scale", "f32"),
    "image_offset": ("actquant.image.offset", "f32"),
    "tokenizer_json": ("actquant.tokenizer.json", "str"),
    "tokenizer_max_length": ("actquant.tokenizer.max_length", "u32"),
    "tokenizer_pad_id": ("actquant.tokenizer.pad_id", "u32"),
    "tokenizer_suffix": ("actquant.tokenizer.suffix", "str"),
    "state_names": ("actquant.state.names", "str[]"),
    "action_names": ("actquant.action.names", "str[]"),
    "state_padded_dim": ("actquant.state.padded_dim", "u32"),
    "action_padded_dim": ("actquant.action.padded_dim", "u32"),
    "state_mean": ("actquant.state.mean", "f32[]"),
    "state_std": ("actquant.state.std", "f32[]"),
    "action_mean": ("actquant.action.mean", "f32[]"),
    "action_std": ("actquant.action.std", "f32[]"),
    "normalization_eps": ("actquant.normalization.eps", "f32"),
    "chunk_length": ("actquant.action.chunk_length", "u32"),
    "steps_per_chunk": ("actquant.action.steps_per_chunk", "u32"),
    "control_rate_hz": ("actquant.control_rate_hz", "f32"),
}
MODEL_KEYS: dict[str, tuple[str, str]] = {
    "name": ("general.name", "str"),
    "format_version": ("actquant.format_version", "u32"),
    "family": ("actquant.policy.family", "str"),
    "parameter_count": ("actquant.policy.parameter_count", "u64"),
    "provenance": ("actquant.provenance", "json"),
    "allocation": ("actquant.allocation", "json"),
    "golden": ("actquant.golden", "json"),
}
