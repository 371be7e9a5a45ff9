"""What all LeRobot policy types share: a recipe says only what is its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from torch import nn

from actquant.common.errors import CheckpointError
from actquant.format.schema import PolicyInterface
from actquant.policies import checkpoint
from actquant.policies.adapter import base_folder, files_of_weights, is_adapter, merge_adapter
from actquant.policies.base import (
    LoadedPolicy,
    Observation,
    PolicyFamily,
    Stage,
    example_stages,
)
from actquant.policies.declared import EMPTY_CAMERA
from actquant.policies.normalization import ACTION, STATE, Normalization
from actquant.policies.processors import Tokenizer, load_processors, raw_keys
from actquant.policies.steps import AFTER, BEFORE, TOKENIZER, Step
from actquant.policies.stored_weights import hash_files, open_weights, split_statistics
from actquant.policies.visual import VisualNormalization
from actquant.weights.parameters import ParameterStore, load_now


class LeRobotFamily(PolicyFamily):
    """A policy type of LeRobot, loaded from a folder as `save_pretrained` writes it."""

    policy_class: ClassVar[type[Any]]
    """The `PreTrainedPolicy`."""
    unsupported: ClassVar[Mapping[str, Any]] = {}
    """Settings of config.json that cannot be captured unless they have this value."""
    normalizes_images: ClassVar[bool] = False
    """Whether the stages apply `loaded.cache["visual"]`, a VisualNormalization; if not, a
    checkpoint whose preprocessor normalises images is refused."""

    preprocessor: ClassVar[tuple[Step, ...]] = (*BEFORE, TOKENIZER)
    postprocessor: ClassVar[tuple[Step, ...]] = AFTER
    """The steps of LeRobot's own processors for this policy, in their order; a checkpoint with
    others is refused."""

    def prepare(self, config: Any, folder: Path) -> None:
        """Adapts and checks config.json before the policy is built."""

    def remarks(self, config: Any) -> list[str]:
        """Returns what a user should know of these settings, one sentence each."""
        return []

    def finish(self, policy: Any) -> None:
        """Adapts the policy after its weights are loaded."""

    def make(self, config: Any) -> nn.Module:
        """Returns the policy, with weights of any value."""
        return self.policy_class(config)

    def load_weights(self, policy: nn.Module, folder: Path, store: ParameterStore) -> None:
        checkpoint.load_weights(policy, folder, store=store)

    def tokenizer(self, config: Any, folder: Path) -> str | None:
        """Returns the tokenizer's folder as the checkpoint names it, or its name on the hub; None
        without language."""
        return getattr(config, "tokenizer_name", None)

    def pads_prompts(self, config: Any) -> bool:
        """Returns whether padding changes the answer, so that every prompt is padded to the full
        length."""
        return False

    def processors(self, config: Any, pre: Any, post: Any) -> tuple[Any, Any]:
        """Returns the pre- and postprocessor as LeRobot changes them after it has loaded them."""
        return pre, post

    def normalization(self, pre: Any, post: Any, config: Any, folder: Path) -> Normalization:
        """Reads the statistics of the robot's state and actions."""
        return Normalization.read(pre, post, config, folder, visual=self.normalizes_images)

    @abstractmethod
    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        """Returns the fields of PolicyInterface that are this family's own (see `load`)."""

    @abstractmethod
    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        """Returns the stages by name, in order (docs/format.md, "Stages")."""

    def load(
        self,
        folder: Path,
        *,
        control_rate_hz: float | None,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
    ) -> LoadedPolicy:
        config = checkpoint.read_config(folder)
        wrong = [
            f"{key} = {getattr(config, key)!r}"
            for key, value in self.unsupported.items()
            if getattr(config, key, value) != value
        ]
        if wrong:
            raise CheckpointError(f"{folder}/config.json: not supported: {', '.join(wrong)}")
        if not cameras(config):
            raise CheckpointError(f"{folder}/config.json: the policy has no camera")
        self.prepare(config, folder)
        base = base_folder(folder)
        policy = checkpoint.build(lambda: self.make(config), base)
        store, statistics = split_statistics(open_weights(base), config)
        self.load_weights(policy, base, store)
        if is_adapter(folder):
            policy = merge_adapter(policy, folder)
        if type(self).finish is not LeRobotFamily.finish:
            load_now(policy)
            self.finish(policy)
        tokenizer = self.tokenizer(config, folder)
        if tokenizer is not None:
            tokenizer = checkpoint.find_model(folder, tokenizer, what="tokenizer")
        steps = (self.preprocessor, self.postprocessor)
        processors = load_processors(folder, config, tokenizer, steps, statistics)
        pre, post = self.processors(config, processors.pre, processors.post)
        visual = VisualNormalization.read(pre, config, folder) if self.normalizes_images else None
        fields = _shared_fields(config, pre, self.normalization(pre, post, config, folder))
        if tokenizer is not None:
            fields |= _tokenizer_fields(config, pre, self.pads_prompts(config))
        fields |= self.interface(policy, config)
        sizes = {tuple(config.image_features[key].shape[1:]) for key in cameras(config)}
        if len(sizes) > 1 and not fields["image_steps"]:
            raise CheckpointError(f"{folder}/config.json: cameras differ in size: {sorted(sizes)}")
        _check_sizes(fields, folder)
        fields["control_rate_hz"] = checkpoint.control_rate(folder, control_rate_hz)
        for kind, given in (("state", state_names), ("action", action_names)):
            size = fields.pop(f"{kind}_dim")
            fields[f"{kind}_names"] = checkpoint.names(kind, size, given)
        return LoadedPolicy(
            family=self,
            policy=policy,
            config=config,
            preprocessor=pre,
            postprocessor=post,
            folder=folder,
            checkpoint_sha256=hash_files(files_of_weights(folder)),
            interface=PolicyInterface(**fields),
            cache={} if visual is None else {"visual": visual},
            renamed_vectors={
                old: new for new, old in raw_keys(pre).items() if new in (STATE, ACTION)
            },
            remarks=(*self.remarks(config), *processors.remarks),
        )

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        face = loaded.interface
        for observation in observations:
            absent = [camera for camera in face.cameras if observation.get(camera) is None]
            if len(absent) > face.optional_cameras:
                raise CheckpointError(
                    f"an observation lacks {', '.join(absent)}; "
                    f"{face.optional_cameras} of the policy's cameras may be absent"
                )
        return checkpoint.batch(loaded.preprocessor, face.cameras, observations)

    def stages(self, loaded: LoadedPolicy, prompt_length: int) -> list[Stage]:
        return example_stages(self.modules(loaded), loaded.interface, prompt_length)


@contextmanager
def replaced(module: ModuleType, **attributes: Any) -> Iterator[None]:
    """Gives a module of LeRobot other attributes inside: where it computes or reads what a
    checkpoint is built without."""
    originals = {name: getattr(module, name) for name in attributes}
    vars(module).update(attributes)
    try:
        yield
    finally:
        vars(module).update(originals)


def cameras(config: Any) -> list[str]:
    """Returns the policy's keys of the cameras that exist."""
    return [key for key in config.image_features if not key.startswith(EMPTY_CAMERA)]


def _shared_fields(config: Any, pre: Any, normalization: Normalization) -> dict[str, Any]:
    """Fields of PolicyInterface that follow from config.json and the processors alone.

    `state_dim` and `action_dim` stand for the names.
    """
    keys, renamed = cameras(config), raw_keys(pre)
    height, width = config.image_features[keys[0]].shape[1:]
    state, action = len(normalization.state_mean), len(normalization.action_mean)
    return {
        "cameras": tuple(renamed.get(key, key) for key in keys),
        "optional_cameras": 0,
        "image_height": height,
        "image_width": width,
        "image_source_height": height,
        "image_source_width": width,
        "image_steps": (),
        "image_scale": 1.0,
        "image_offset": 0.0,
        "state_dim": state,
        "action_dim": action,
        "state_padded_dim": state,
        "action_padded_dim": action,
        "state_mean": normalization.state_mean,
        "state_std": normalization.state_std,
        "action_mean": normalization.action_mean,
        "action_std": normalization.action_std,
        "normalization_eps": normalization.eps,
        "chunk_length": getattr(config, "chunk_size", config.n_action_steps),
        "steps_per_chunk": config.n_action_steps,
    }


def _check_sizes(fields: Mapping[str, Any], folder: Path) -> None:
    """Raises CheckpointError for a state or an action that the policy has no place for."""
    wrong = [
        f"{article} {kind} of {fields[f'{kind}_dim']} numbers, at most {most} (max_{kind}_dim)"
        for article, kind in (("a", "state"), ("an", "action"))
        if (most := fields[f"{kind}_padded_dim"]) < fields[f"{kind}_dim"]
    ]
    if wrong:
        raise CheckpointError(f"{folder}/config.json: {'; '.join(wrong)}")


def _tokenizer_fields(config: Any, pre: Any, padded: bool) -> dict[str, Any]:
    found = Tokenizer.read(pre, config.tokenizer_max_length)
    return {
        "tokenizer_json": found.json,
        "tokenizer_min_length": found.max_length if padded else 1,
        "tokenizer_max_length": found.max_length,
        "tokenizer_pad_id": found.pad_id,
    }
