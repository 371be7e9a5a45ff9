"""What a model file says of its policy: the keys of docs/format.md as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 3


COEFFICIENTS = 8
"""Columns of a sampler's table, see `Sampler`."""


@dataclass(frozen=True)
class Sampler:
    """How a chunk comes from noise, one row of `coefficients` a step.

    With o the output of the stage `denoise`, x the current sample, e fresh noise of this step (only
    where `fresh` is not 0) and n the initial noise:

        x0 = from_x * x + from_output * o, clamped to [-clip, clip] unless clip is 0
        x <- next_from_x0 * x0 + next_from_x * x + next_from_output * o + fresh * e + initial * n

    Euler steps of a flow, DDIM, DDPM and prediction of the sample itself are all of this form.
    """

    timesteps: tuple[float, ...]
    """What the policy calls the time of each step; for people and for guidance."""
    coefficients: tuple[tuple[float, ...], ...]
    """Rows (from_x, from_output, clip, next_from_x0, next_from_x, next_from_output, fresh,
    initial)."""

    @classmethod
    def euler(cls, steps: int, start: float = 1.0, end: float = 0.0) -> Sampler:
        """Returns equal steps of dx/dt = o from t = start to t = end."""
        width = (end - start) / steps
        row = (0.0, 0.0, 0.0, 0.0, 1.0, width, 0.0, 0.0)
        return cls(tuple(start + width * k for k in range(steps)), (row,) * steps)

    @property
    def fresh_count(self) -> int:
        """How many steps draw noise of their own."""
        return sum(row[6] != 0 for row in self.coefficients)


@dataclass(frozen=True)
class PolicyInterface:
    """What goes in and out of a policy; every field is a key of the file (docs/format.md).

    A field that is None is absent from the file.
    """

    driver: str
    """`one_shot` or `sampling`."""
    sampler: Sampler | None
    """Of the driver `sampling`."""
    cameras: tuple[str, ...]
    optional_cameras: int
    """How many cameras may be absent from an observation."""
    image_height: int
    image_width: int
    """What the stage `vision` takes."""
    image_source_height: int
    image_source_width: int
    """What the robot's cameras gave in training; golden images have this size."""
    image_steps: tuple[str, ...]
    """From the camera's image to `image_height` x `image_width`, in order (docs/format.md)."""
    image_scale: float
    image_offset: float
    """After the steps: input = pixel / 255 * scale + offset."""
    state_names: tuple[str, ...]
    """Empty for a policy that reads no state."""
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
    noise_rows: int = 0
    noise_dim: int = 0
    """Shape of the sample x of the driver `sampling`; 0 for `one_shot`."""
    observation_steps: int = 1
    """How many consecutive observations, at the control rate, one call takes."""
    state_clip: float | None = None
    """The normalised state is clamped to [-clip, clip]."""
    prompt_template: str = "{task}"
    """`{task}` and `{state}` are replaced, the latter by bin numbers of the normalised state."""
    prompt_task_steps: tuple[str, ...] = ()
    """Applied to the task first, in order: `strip`, `lower`, `underscores_to_spaces`,
    `newlines_to_spaces`."""
    prompt_state_bins: int = 0
    """Number of equal bins of [-1, 1]; a value x gives the number of left edges <= x, minus 1."""
    tokenizer_json: str | None = None
    """None for a policy without language."""
    tokenizer_min_length: int = 0
    """Prompts are padded to this; equal to max_length where padding changes the answer."""
    tokenizer_max_length: int = 0
    tokenizer_pad_id: int = 0
    tokenizer_suffix: str = ""
    """Appended to the prompt if it does not end with it."""
    tokenizer_suffix_ids: tuple[int, ...] = ()
    """Appended to the tokens if they do not end with them."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the noise of one chunk: [rows, dim], [1 + fresh, rows, dim] where steps draw noise of
        their own, (0,) for a policy without noise."""
        if self.sampler is None:
            return (0,)
        fresh = self.sampler.fresh_count
        return (*((1 + fresh,) if fresh else ()), self.noise_rows, self.noise_dim)


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
    "cameras": ("actquant.cameras", "str[]"),
    "optional_cameras": ("actquant.cameras.optional", "u32"),
    "image_height": ("actquant.image.height", "u32"),
    "image_width": ("actquant.image.width", "u32"),
    "image_source_height": ("actquant.image.source_height", "u32"),
    "image_source_width": ("actquant.image.source_width", "u32"),
    "image_steps": ("actquant.image.steps", "str[]"),
    "image_scale": ("actquant.image.scale", "f32"),
    "image_offset": ("actquant.image.offset", "f32"),
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
    "noise_rows": ("actquant.noise.rows", "u32"),
    "noise_dim": ("actquant.noise.dim", "u32"),
    "observation_steps": ("actquant.observation.steps", "u32"),
    "state_clip": ("actquant.state.clip", "f32"),
    "prompt_template": ("actquant.prompt.template", "str"),
    "prompt_task_steps": ("actquant.prompt.task_steps", "str[]"),
    "prompt_state_bins": ("actquant.prompt.state_bins", "u32"),
    "tokenizer_json": ("actquant.tokenizer.json", "str"),
    "tokenizer_min_length": ("actquant.tokenizer.min_length", "u32"),
    "tokenizer_max_length": ("actquant.tokenizer.max_length", "u32"),
    "tokenizer_pad_id": ("actquant.tokenizer.pad_id", "u32"),
    "tokenizer_suffix": ("actquant.tokenizer.suffix", "str"),
    "tokenizer_suffix_ids": ("actquant.tokenizer.suffix_ids", "u32[]"),
}
OPTIONAL_FIELDS = frozenset(("state_clip", "tokenizer_json"))
"""Fields whose key may be absent. `sampler` is two keys: SAMPLER_KEYS."""
SAMPLER_KEYS = {
    "timesteps": ("actquant.sampler.timesteps", "f32[]"),
    "coefficients": ("actquant.sampler.coefficients", "f32[]"),
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
