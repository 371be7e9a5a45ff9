"""What every policy family provides, and what a loaded policy is.

A family is one file that declares, mostly as data, how a LeRobot policy type is loaded, which pure
tensor functions (stages) its inference consists of, what its training loss is and to which group a
weight belongs. Nothing outside `actquant.policies` knows the name of a model.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from actquant.common.errors import CheckpointError
from actquant.common.files import hash_json, hash_path
from actquant.format.schema import PolicyInterface
from actquant.weights.parameters import StreamedWeights, example_outputs, weights_of

Group = Literal["vision", "language", "expert", "projection"]
MatrixKind = Literal["linear", "convolution", "embedding"]
"""What a weight matrix [rows, columns] belongs to: `nn.Linear`; `nn.Conv1d` or `nn.Conv2d` without
groups, [out, in x kernel]; `nn.Embedding`, [tokens, dimension]."""

Observation = Mapping[str, Any]
"""One raw observation: camera keys -> uint8 [H, W, 3], `observation.state` -> float32 [S], `task`
-> str (may be absent for a policy without language). A camera that is absent from the mapping is
masked out. For a policy with T > 1 observation steps, cameras are uint8 [T, H, W, 3] and the state
is float32 [T, S], oldest first, at the control rate; before the first observation of an episode the
first one is repeated."""


@dataclass(frozen=True)
class Stage:
    """One pure tensor function of the policy's inference.

    `module.forward` takes the keys of `example_inputs` as keyword arguments and returns a dict of
    tensors. The module holds the policy as its attribute `policy`, so that parameter names are
    those of the policy. `step_inputs` are the inputs that change within one chunk; what depends on
    none of them is computed once, in the stage before. What depends on `step_time` (one of them,
    [1], in the units of `Sampler.timesteps`) and on no other input becomes a table with a row a
    step.
    """

    name: str
    module: nn.Module
    example_inputs: dict[str, Tensor]
    step_inputs: tuple[str, ...] = ()
    step_time: str | None = None


class StageModule(nn.Module):
    """Base of a stage's module: holds the policy, under whose names the parameters are found."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy


@dataclass(frozen=True)
class QuantizableTensor:
    """A weight that may be quantized: the matrix `[rows, columns]` of one module."""

    name: str
    """Name of the parameter, e.g. `model.state_proj.weight`."""
    module: str
    """Path of the module, e.g. `model.state_proj`."""
    layer: str
    """Key of the block it belongs to, e.g. `vision.3`, `language.2`, `expert.1`, `projection`."""
    group: Group
    shape: tuple[int, int]
    kind: MatrixKind = "linear"


@dataclass
class LoadedPolicy:
    """A policy in float32 on the CPU, its own processors, and what a model file says of it.

    Its weights are in memory or `streamed`: read from the checkpoint when they are needed.
    """

    family: PolicyFamily
    policy: nn.Module
    """The lerobot `PreTrainedPolicy`, in evaluation mode."""
    config: Any
    preprocessor: Any
    postprocessor: Any
    folder: Path
    checkpoint_sha256: str
    interface: PolicyInterface
    """Cameras, tokenizer, normalisation, layout, rates: what becomes the keys of the file."""
    cache: dict[str, Any] = field(default_factory=dict, repr=False)
    name: str = ""
    """Of the folder, or `organisation/name` on the hub."""
    revision: str | None = None
    """The hub's commit."""
    license: str | None = None
    """As the checkpoint's model card declares it."""
    renamed_vectors: Mapping[str, str] = field(default_factory=dict)
    """Name of a state or an action in the observation -> the policy's, as its own preprocessor
    renames them (cameras are named in `interface` as they are observed)."""
    remarks: Sequence[str] = ()
    """What a user should know of how the checkpoint was read, one sentence each."""

    @property
    def title(self) -> str:
        """The name without the organisation, or that of the folder."""
        return (self.name or self.folder.resolve().name).split("/")[-1]

    @cached_property
    def settings_sha256(self) -> str:
        """Of all that is not the weights: configurations, processors with their statistics, and the
        policy's configuration as it was loaded."""
        paths = {*self.folder.rglob("*.json"), *self.folder.rglob("policy_*.safetensors")}
        files = {path.relative_to(self.folder).as_posix(): hash_path(path) for path in paths}
        config = repr(self.config).replace(str(self.folder), "")  # wherever the folder is
        return hash_json({"files": files, "config": config})

    @property
    def streamed(self) -> StreamedWeights | None:
        """The weights that are not in memory; None if all are."""
        weights = weights_of(self.policy)
        return weights if weights is not None and weights.bytes else None

    def computing(self) -> AbstractContextManager[Any]:
        """Returns where PyTorch runs the policy: streamed weights are there, one at a time. They
        themselves have no gradients."""
        weights = self.streamed
        return nullcontext() if weights is None else weights.computing()

    @property
    def control_rate_hz(self) -> float | None:
        return self.interface.control_rate_hz

    @property
    def tokenizer_json(self) -> str | None:
        return self.interface.tokenizer_json

    def batch(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """Returns the policy's own batch for raw observations (see `PolicyFamily.batch`)."""
        return self.family.batch(self, observations)


class PolicyFamily(ABC):
    """One policy type; `actquant.policies.registry` names them all."""

    policy_type: ClassVar[str] = ""
    short_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Replacements, in order, that turn a parameter name into the name of a tensor of the file."""
    layer_groups: ClassVar[tuple[tuple[str, Group, str], ...]] = ()
    """(pattern of parameter names, group, layer key with the pattern's groups as `{}`)."""
    single_precision: ClassVar[tuple[str, ...]] = ()
    """Patterns of parameter names that the policy's own bfloat16 keeps in float32, as a file with
    BF16 matrices then does."""
    options: ClassVar[tuple[str, ...]] = ()
    """Further keyword arguments of `load`, for what a checkpoint leaves open."""

    @abstractmethod
    def load(
        self,
        folder: Path,
        *,
        control_rate_hz: float | None,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
    ) -> LoadedPolicy:
        """Loads a checkpoint folder as `save_pretrained` writes it.

        Raises CheckpointError for missing files, missing or unexpected keys (all are listed),
        missing normalisation statistics (by name) and settings that cannot be captured.
        """

    @abstractmethod
    def stages(self, loaded: LoadedPolicy, prompt_length: int) -> list[Stage]:
        """Returns the stages in the order in which the driver runs them: `vision`, `prefix`, then
        for the driver `sampling` `denoise` and, if the sample is not yet the chunk, `decode`.

        prompt_length: the number of tokens of the example inputs (0 for a policy without language).
        It is asked for twice, and the sizes in between follow: a size may be `a + b * length`.
        """

    @abstractmethod
    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """Returns the policy's own training loss per sample, differentiable.

        batch: preprocessed, with `action` [B, H, A] (see `action_window`) and optionally
        `action_is_pad` [B, H]; noise: [B, *noise_shape]; time: [B] in (0, 1], 1 where the sample is
        noise.
        Returns [B].
        """

    @abstractmethod
    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        """Turns raw observations into the policy's batch, through its own LeRobot preprocessor."""

    def group_of(self, parameter: str) -> tuple[Group, str]:
        """Returns (group, layer key) of a linear weight, e.g. `("vision", "vision.3")`.

        Raises CheckpointError for a parameter that no pattern of `layer_groups` fits.
        """
        for pattern, group, layer in self.layer_groups:
            if match := re.match(pattern, parameter):
                return group, layer.format(*match.groups())
        raise CheckpointError(f"{parameter} belongs to no group of a {self.policy_type} policy")

    def noise_shape(self, loaded: LoadedPolicy) -> tuple[int, ...]:
        """Returns `PolicyInterface.noise_shape`."""
        return loaded.interface.noise_shape

    def action_window(self, loaded: LoadedPolicy) -> range:
        """Returns which actions `action_loss` takes, relative to the current observation's step."""
        return range(loaded.interface.chunk_length)

    def draw_time(self, loaded: LoadedPolicy, rng: np.random.Generator) -> float:
        """Draws a time for `action_loss` as training does: 0.999 Beta(1.5, 1) + 0.001, as openpi
        and LeRobot train flows."""
        return 0.999 * rng.beta(1.5, 1.0) + 0.001

    def steps_per_chunk(self, loaded: LoadedPolicy) -> int:
        """Returns how many actions of a chunk are executed before the next."""
        return loaded.interface.steps_per_chunk

    def predict(
        self, loaded: LoadedPolicy, observations: Sequence[Observation], noise: Tensor
    ) -> np.ndarray:
        """PyTorch's answer in robot units: noise [B, *noise_shape] -> float32 [B, H, A]."""
        with torch.no_grad(), loaded.computing():
            chunk = self.predict_chunk(loaded, self.batch(loaded, observations), noise)
            return loaded.postprocessor(chunk).float().numpy()

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Returns the policy's own answer, still normalised: batch as `batch` gives it -> [B, H,
        A]. What it remembers of earlier ones has no say."""
        policy: Any = loaded.policy
        policy.reset()
        return policy.predict_action_chunk(batch, noise=noise)

    def act(self, loaded: LoadedPolicy, observation: Observation, noise: np.ndarray) -> np.ndarray:
        """Returns the same for one observation: noise float32 [*noise_shape] -> float32 [H, A]."""
        batched = torch.from_numpy(np.ascontiguousarray(noise, np.float32))[None]
        with loaded.computing():
            return self.predict(loaded, [observation], batched)[0]


def example_stages(
    modules: Mapping[str, nn.Module], interface: PolicyInterface, prompt_length: int
) -> list[Stage]:
    """Stages with example inputs, found by running them in order.

    modules: by stage name, in order. What `prefix` takes is read off its signature: any of
    `tokens`, `token_mask`, `state`, and as keyword arguments `image_embedding_<i>` and
    `image_mask_<i>`. `denoise` takes `x_t`, `timestep` and every output of `prefix`.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    image = random(1, 3, interface.image_height, interface.image_width)
    inputs: dict[str, dict[str, Tensor]] = {"vision": {"image": image}}
    embedding = example_outputs(modules["vision"], inputs["vision"])["embedding"]
    given: dict[str, Tensor] = {
        "tokens": torch.ones(1, prompt_length, dtype=torch.long),
        "token_mask": torch.arange(prompt_length)[None] < max(1, prompt_length - 2),
    }
    if interface.state_names:
        given["state"] = random(interface.observation_steps, interface.state_padded_dim)
    named = inspect.signature(modules["prefix"].forward).parameters
    inputs["prefix"] = {name: value for name, value in given.items() if name in named}
    for index in range(interface.observation_steps * len(interface.cameras)):
        inputs["prefix"][f"image_embedding_{index}"] = random(*embedding.shape)
        inputs["prefix"][f"image_mask_{index}"] = torch.ones(1, dtype=torch.bool)
    outputs = example_outputs(modules["prefix"], inputs["prefix"])
    x = random(1, interface.noise_rows, interface.noise_dim)
    cached = {name: value.clone() for name, value in outputs.items()}
    inputs["denoise"] = {"x_t": x, "timestep": torch.full((1,), 0.7), **cached}
    inputs["decode"] = {"x": x}
    return [
        Stage(name, module, inputs[name], ("x_t", "timestep"), "timestep")
        if name == "denoise"
        else Stage(name, module, inputs[name])
        for name, module in modules.items()
    ]
