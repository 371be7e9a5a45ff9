"""What can be set of a compressed policy; all else is in its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lerobot_api import (
    ACTION,
    OBS_STATE,
    FeatureType,
    PolicyFeature,
    PreTrainedConfig,
    RTCConfig,
)

NOT_TRAINABLE = (
    "a policy compressed by actquant cannot be trained; train the LeRobot policy that it was made "
    "from, then compress that again"
)


@dataclass
class CompressedConfig(PreTrainedConfig):
    """Features and `n_action_steps` are filled in from the policy when it is made."""

    device: str | None = "cpu"  # where LeRobot's processors leave their tensors
    n_action_steps: int | None = None  # actions executed of each chunk; the policy's by default
    rtc_config: RTCConfig | None = None  # lerobot-rollout sets it with --inference.type=rtc

    @property
    def source(self) -> str:
        """What the policy is made of, in errors."""
        raise NotImplementedError

    def complete(self, description: Mapping[str, Any]) -> None:
        """Takes over the features and, unless it was set, the number of actions of a chunk."""
        state = PolicyFeature(FeatureType.STATE, (len(description["state"]["names"]),))
        action = PolicyFeature(FeatureType.ACTION, (len(description["action"]["names"]),))
        for key, own, given in (
            (OBS_STATE, state, self.robot_state_feature),
            (ACTION, action, self.action_feature),
        ):
            if own.shape != (0,) and given is not None and tuple(given.shape) != own.shape:
                raise ValueError(
                    f"'{key}' has the shape {own.shape} in {self.source}, "
                    f"but {tuple(given.shape)} in the environment, dataset or config.json"
                )
        image = description["image"]
        visual = PolicyFeature(FeatureType.VISUAL, (3, image["height"], image["width"]))
        self.input_features = {camera: visual for camera in description["cameras"]}
        if state.shape != (0,):
            self.input_features[OBS_STATE] = state
        self.output_features = {ACTION: action}
        self.n_obs_steps = description["observation_steps"]
        length = description["action"]["chunk_length"]
        steps = self.n_action_steps
        if steps is None:
            steps = int(description["action"]["steps_per_chunk"])
        if not 1 <= steps <= length:
            raise ValueError(f"n_action_steps is {steps}; a chunk of {self.source} has {length}")
        self.n_action_steps = steps

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> Any:
        raise NotImplementedError(NOT_TRAINABLE)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Checks nothing: the features are the file's."""


@PreTrainedConfig.register_subclass("actquant")
@dataclass
class ActquantConfig(CompressedConfig):
    """A file that runs in this process."""

    model: str = ""  # the GGUF; relative to the folder that this was loaded from, if any
    threads: int = 0  # 0: as many as a model of this size has work for

    @property
    def source(self) -> str:
        return self.model

    def model_file(self) -> Path:
        """Returns the GGUF's absolute path; it exists."""
        if not self.model:
            raise ValueError("no model is named; set --policy.model=FILE.gguf")
        path = Path(self.model).expanduser()
        if self.pretrained_path is not None:
            path = Path(self.pretrained_path) / path
        if not path.is_file():
            raise FileNotFoundError(f"there is no model file {path.absolute()}")
        return path.absolute()
