"""The policy: LeRobot's batches to the runtime's observations, its chunks to LeRobot's actions."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from actquant_runtime import ObservationWindow, PreviousChunk, Runtime
from huggingface_hub import hf_hub_download
from torch import Tensor

from .configuration_actquant import NOT_TRAINABLE, ActquantConfig, CompressedConfig
from .folders import CONFIG, save, temporary_folder
from .lerobot_api import OBS_IMAGE, OBS_STATE, PreTrainedConfig, PreTrainedPolicy, RTCConfig

TASK = "task"


class CompressedPolicy(PreTrainedPolicy):
    """Turns LeRobot's batches into observations for a compressed policy; has no torch parameters.

    LeRobot also passes a dataset's statistics and metadata, which are not used.
    """

    # LeRobot asks every class for both.
    config_class = CompressedConfig  # pyright: ignore[reportAssignmentType]
    name = "compressed"  # pyright: ignore[reportAssignmentType]
    config: CompressedConfig

    def __init__(self, config: CompressedConfig, **_: Any):
        super().__init__(config)
        self._runtime = self._open()
        self._description = self._runtime.describe()
        self._steps: int = self._description["observation_steps"]
        config.complete(self._description)
        self.reset()
        self.eval()

    def _open(self) -> Any:
        """Returns what has the `describe` and `act` of actquant_runtime.Runtime."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path | None,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **hub_options: Any,
    ) -> Self:
        """Loads a folder or Hub repository with a `config.json`, and what that names; or a GGUF
        (see `find_gguf`); or, without a path, what `config` names, as lerobot-rollout asks for it
        with `--policy.type`.

        LeRobot then reads the processors from `config.pretrained_path`.
        """
        for unused in ("strict", "dataset_stats", "dataset_meta"):
            hub_options.pop(unused, None)
        if config is None:
            if pretrained_name_or_path is None:
                raise ValueError("neither a path nor a configuration is given")
            config = PreTrainedConfig.from_pretrained(
                pretrained_name_or_path, revision=revision, **hub_options
            )
        wanted: type[CompressedConfig] = cls.config_class  # pyright: ignore[reportAssignmentType]
        if not isinstance(config, wanted):
            raise ValueError(f"{pretrained_name_or_path} holds a policy of type '{config.type}'")
        path = pretrained_name_or_path
        config.pretrained_path = None if path is None else Path(path)
        if not cls._is_saved(config, revision=revision, **hub_options):
            config.pretrained_path = temporary_folder(config)
        return cls(config)

    @classmethod
    def _is_saved(cls, config: Any, **hub_options: Any) -> bool:
        """Returns whether there is a `config.json` at its path; gets what it names from the hub."""
        return config.pretrained_path is not None

    def reset(self) -> None:
        self._queue: deque[Tensor] = deque()
        self._window = ObservationWindow(self._steps)

    def get_optim_params(self) -> dict:
        return {}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        raise NotImplementedError(NOT_TRAINABLE)

    def supports_rtc(self) -> bool:
        """Returns whether it is a flow; LeRobot's engine keeps no window of observations."""
        return bool(self._description["supports_guidance"]) and self._steps == 1

    def select_action(
        self, batch: Mapping[str, Any], noise: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Returns the next action [B, A] in the robot's units, from the observation of this step.

        A policy with several observation steps is given the last ones, the first repeated at the
        start of an episode.
        """
        self._window.append(batch)
        if not self._queue:
            chunk = self.predict_action_chunk(self._windowed(batch), noise)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()

    def predict_action_chunk(
        self,
        batch: Mapping[str, Any],
        noise: Tensor | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Actions [B, H, A] in the robot's units.

        For a policy with T > 1 observation steps, images are [B, T, 3, H, W] and the state is
        [B, T, S], oldest first. `noise` [B, *noise_shape] is where sampling starts; without it,
        torch's generator draws it, so that LeRobot's `--seed` repeats a run.

        For real-time chunking, `prev_chunk_left_over` [T, A] or [B, T, A] is what is left of an
        earlier answer of this method, in the robot's units as that was; `inference_delay` is how
        many of these actions will have been executed when the new chunk is there. The rest is in
        `config.rtc_config`.
        """
        observations = self._observations(batch)
        shape = (len(observations), *self._description["noise_shape"])
        if noise is None:
            noise = torch.randn(shape)
        elif tuple(noise.shape) != shape:
            raise ValueError(f"the noise has the shape {tuple(noise.shape)}, expected {shape}")
        starts = noise.detach().float().cpu().numpy()
        previous = self._previous(
            prev_chunk_left_over, len(observations), inference_delay or 0, execution_horizon
        )
        chunks = [
            torch.from_numpy(self._runtime.act(observation, noise=start, previous=before))
            for observation, start, before in zip(observations, starts, previous, strict=True)
        ]
        return torch.stack(chunks)

    def _previous(
        self, left_over: Tensor | None, count: int, delay: int, horizon: int | None
    ) -> list[PreviousChunk | None]:
        """Returns what is left of the chunk before, for each element of the batch."""
        config = self.config.rtc_config or RTCConfig()
        if left_over is None or not config.enabled:
            return [None] * count
        rows = left_over.detach().float().cpu()
        rows = rows.expand(count, *rows.shape[-2:]) if rows.ndim == 2 else rows
        return [
            PreviousChunk(
                actions.numpy(),
                delay,
                config.execution_horizon if horizon is None else horizon,
                config.max_guidance_weight,
                config.prefix_attention_schedule.value.lower(),
            )
            if len(actions)
            else None
            for actions in map(_without_padding, rows)
        ]

    def _windowed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the batch with the time axis that the policy takes, if it takes one."""
        if self._steps == 1:
            return batch
        steps = self._window.last
        keys = [key for key in (*self._description["cameras"], OBS_STATE) if key in batch]
        return {**batch, **{key: torch.stack([step[key] for step in steps], 1) for key in keys}}

    def _observations(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns what the runtime takes, for each element of the batch."""
        time = (self._steps,) if self._steps > 1 else ()
        columns: dict[str, Any] = {
            camera: _pictures(batch, camera, time) for camera in self._cameras_of(batch)
        }
        if size := len(self._description["state"]["names"]):
            states = batch[OBS_STATE].detach().float().cpu()
            if states.shape[1:] != (*time, size):
                expected = ", ".join(map(str, ("batch", *time, size)))
                raise ValueError(f"{OBS_STATE} is {list(states.shape)}, expected [{expected}]")
            columns[OBS_STATE] = states.numpy()
        count = len(next(iter(columns.values())))
        if self._description["prompt"] is not None:
            task = batch[TASK]
            columns[TASK] = [task] * count if isinstance(task, str) else list(task)
        lengths = {key: len(column) for key, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the batch holds different numbers of observations: {lengths}")
        return [{key: column[i] for key, column in columns.items()} for i in range(count)]

    def _cameras_of(self, batch: Mapping[str, Any]) -> list[str]:
        """Returns the file's cameras in the batch; others may be there too, unless one is missing:
        a misspelt camera must not pass for one that was left out on purpose."""
        cameras, optional = self._description["cameras"], self._description["optional_cameras"]
        present = [camera for camera in cameras if camera in batch]
        wanted = list(cameras)
        wanted += [OBS_STATE] if self._description["state"]["names"] else []
        wanted += [TASK] if self._description["prompt"] is not None else []
        missing = [key for key in wanted if key not in batch]
        absent = len(cameras) - len(present)
        strange = [k for k in batch if k.startswith(OBS_IMAGE) and k not in cameras]
        if len(missing) > absent or absent > optional or (absent and strange):
            raise ValueError(
                f"the observation lacks {', '.join(missing)}; it has {', '.join(batch)}; expected "
                f"{', '.join(wanted)}, of which {optional} cameras may be "
                "absent"
            )
        return present


class ActquantPolicy(CompressedPolicy):
    """Runs a compressed policy on the CPU.

    Opens the file and runs its self-test. Raises actquant_runtime.ModelFileError for a damaged
    file, RuntimeError if the self-test fails.
    """

    config_class = ActquantConfig  # pyright: ignore[reportAssignmentType]
    name = "actquant"  # pyright: ignore[reportAssignmentType]
    config: ActquantConfig

    def _open(self) -> Runtime:
        self._file = self.config.model_file()
        runtime = Runtime(self._file, self.config.threads)
        if runtime.describe()["golden"]:
            self._check_self_test(runtime)
        return runtime

    def _check_self_test(self, runtime: Runtime) -> None:
        """Raises RuntimeError if the file does not answer as it did where it was made."""
        found = runtime.self_test()
        if not found["passed"]:
            raise RuntimeError(
                f"{self._file} fails its self-test: its golden actions are {found['worst']:.2g} "
                f"standard deviations off, {found['limit']:g} is allowed. Compress it again, or "
                "report this machine's processor"
            )

    @classmethod
    def _is_saved(cls, config: ActquantConfig, **hub_options: Any) -> bool:
        path = config.pretrained_path
        if path is not None and (path / CONFIG).is_file():
            return True
        if path is None or path.is_dir() or Path(config.model).is_absolute():
            config.model = str(config.model_file())
            return False
        if config.model:
            config.model = hf_hub_download(str(path), config.model, **hub_options)
        return True

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Writes `config.json`, the GGUF and the processors; LeRobot loads them from there."""
        target = save_directory / self._file.name
        if not (target.exists() and target.samefile(self._file)):
            shutil.copyfile(self._file, target)
        save(self.config, save_directory, model=target.name)


def _without_padding(actions: Tensor) -> Tensor:
    """LeRobot's engine fills what is left over, [T, A], up to the execution horizon with zeros,
    which would guide towards standing at zero; no policy answers exactly that."""
    used = actions.ne(0).any(-1).nonzero()
    return actions[: int(used.max()) + 1 if len(used) else 0]


def _pictures(batch: Mapping[str, Any], camera: str, time: tuple[int, ...]) -> Any:
    """Returns uint8 [B, *time, H, W, 3] from LeRobot's float [B, *time, 3, H, W] in [0, 1]."""
    images = batch[camera]
    fits = images.ndim == 4 + len(time) and images.shape[1:-2] == (*time, 3)
    if not fits or not images.is_floating_point():
        expected = ", ".join(map(str, ("batch", *time, 3, "height", "width")))
        raise ValueError(
            f"{camera} is {images.dtype} {list(images.shape)}, "
            f"expected floats in [0, 1], [{expected}]"
        )
    pixels = (images.detach().float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.movedim(-3, -1).numpy()
