"""Calibration data: which frames of a LeRobotDataset the pipeline looks at, and how it reads them.

Episodes are split once into calibration and held-out ones; frames are then spread evenly over the
episodes of each side. A frame gives the raw observation, the ground-truth action chunk that follows
it and the policy's own batch of both.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from actquant.common.errors import CalibrationError, DatasetError
from actquant.compression.artifacts import hash_json, hash_path
from actquant.policies.base import LoadedPolicy, Observation

STATE, ACTION, ACTION_IS_PAD, TASK = "observation.state", "action", "action_is_pad", "task"
CALIBRATION_SHARE = 0.75


class Frame(NamedTuple):
    """A frame of a dataset: its episode, its place in the episode, its row in the dataset."""

    episode: int
    frame: int
    index: int


@dataclass(frozen=True)
class Sample:
    """What was seen at a frame and done after it.

    observation: raw; actions: float32 [W, A] in the robot's units over the policy's
    `action_window`, the first and the last one repeated past the ends of the episode, where is_pad
    [W] is true; now: which of them belongs to the frame.
    """

    frame: Frame
    observation: Observation
    actions: np.ndarray
    is_pad: np.ndarray
    now: int = 0


@dataclass(frozen=True)
class Batch:
    """Frames with the policy's own batch of them.

    tensors: preprocessed observation, `action` [B, W, A] normalised, `action_is_pad` [B, W].
    """

    frames: tuple[Frame, ...]
    tensors: dict[str, Any]


@dataclass(frozen=True)
class DatasetInfo:
    """What a LeRobotDataset folder says of itself, read without its frames."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    total_episodes: int

    @cached_property
    def sha256(self) -> str:
        return hash_path(self.folder)

    @property
    def cameras(self) -> list[str]:
        return [k for k, f in self.features.items() if f.get("dtype") in ("image", "video")]

    def names(self, feature: str) -> list[str] | None:
        """Names of a vector's components, or None where the dataset has none."""
        names = self.features.get(feature, {}).get("names")
        if isinstance(names, dict):
            parts = [v if isinstance(v, list) else [k] for k, v in names.items()]
            names = [name for part in parts for name in part]
        size = int(np.prod(self.features.get(feature, {}).get("shape", [0])))
        return [str(name) for name in names] if names and len(names) == size else None


def read_dataset_info(folder: str | Path) -> DatasetInfo:
    """Read `meta/info.json` of a local LeRobotDataset (format v3).

    Raises DatasetError if the folder is none.
    """
    folder = Path(folder)
    path = folder / "meta" / "info.json"
    if not path.is_file():
        raise DatasetError(f"{folder} is no LeRobotDataset: it has no meta/info.json")
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        result = DatasetInfo(
            folder, float(info["fps"]), dict(info["features"]), int(info["total_episodes"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {type(error).__name__} {error}") from error
    if not version.startswith("v3"):
        raise DatasetError(f"{folder} has dataset format {version}; LeRobot's v3.0 is needed")
    return result


def check_features(info: DatasetInfo, loaded: LoadedPolicy) -> None:
    """Compare a dataset's features with what the policy takes and gives.

    Raises DatasetError with all differences: name, expected and found shape.
    """
    interface, problems = loaded.interface, []
    required = len(interface.cameras) - interface.optional_cameras
    present = [camera for camera in interface.cameras if camera in info.cameras]
    if len(present) < max(required, 1):
        problems.append(
            f"cameras: expected {list(interface.cameras)} "
            f"({interface.optional_cameras} of them optional), found {info.cameras}"
        )
    size = (interface.image_height, interface.image_width)
    for camera in present:
        found = _image_size(info.features[camera])
        if not interface.image_steps and found != size:
            problems.append(f"{camera}: expected height x width {size}, found {found}")
    for key, names in ((STATE, interface.state_names), (ACTION, interface.action_names)):
        feature = info.features.get(key)
        found = None if feature is None else tuple(feature["shape"])
        if names and found != (len(names),):
            problems.append(f"{key}: expected shape {(len(names),)}, found {found or 'nothing'}")
    if problems:
        raise DatasetError(
            f"dataset {info.folder} does not fit the policy:\n  "
            + "\n  ".join(problems)
            + f"\nthe dataset has: {', '.join(info.features)}"
        )


def _image_size(feature: dict[str, Any]) -> tuple[int, int]:
    shape = tuple(int(side) for side in feature["shape"])
    channels_first = list(feature.get("names") or [])[:1] in (["channels"], ["channel"])
    return shape[1:] if channels_first else shape[:2]  # pyright: ignore[reportReturnType]


class Frames(Sequence[Sample]):
    """Frames of some episodes, read from the dataset when asked for; any number of times.

    Raises CalibrationError, naming episode and frame, where a value is NaN or infinite.
    """

    def __init__(self, loaded: LoadedPolicy, dataset: Any, frames: Sequence[Frame]) -> None:
        self.loaded = loaded
        self.frames = tuple(frames)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: int) -> Sample:  # pyright: ignore[reportIncompatibleMethodOverride]
        frame = self.frames[position]
        item = self._dataset[frame.index]
        actions = _finite(item[ACTION], ACTION, frame)
        cameras = [c for c in self.loaded.interface.cameras if c in item]
        observation: dict[str, Any] = {c: _to_pixels(item[c], c, frame) for c in cameras}
        observation[TASK] = str(item[TASK])
        if self.loaded.interface.state_names:
            observation[STATE] = _finite(item[STATE], STATE, frame)
        is_pad = item[ACTION_IS_PAD].numpy().astype(bool)
        window = self.loaded.family.action_window(self.loaded)
        return Sample(frame, observation, actions, is_pad, window.index(0))

    @property
    def fingerprint(self) -> str:
        """Hash of which frames these are (their content is hashed with the dataset)."""
        return hash_json([list(frame) for frame in self.frames])

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The instruction of each frame."""
        column = self._dataset.hf_dataset["task_index"]
        tasks = self._dataset.meta.tasks
        return tuple(str(tasks.iloc[int(column[f.index])].name) for f in self.frames)

    def batches(self, size: int) -> Iterator[Batch]:
        """All frames in batches of one instruction each, so that no prompt needs padding and a
        frame's result does not depend on its company. The order is always the same."""
        by_task: dict[str, list[int]] = {}
        for position, task in enumerate(self.tasks):
            by_task.setdefault(task, []).append(position)
        for positions in by_task.values():
            for begin in range(0, len(positions), size):
                yield self.batch([self[p] for p in positions[begin : begin + size]])

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The policy's batch of samples, with normalised ground-truth actions."""
        tensors = dict(self.loaded.batch([sample.observation for sample in samples]))
        actions = np.stack([sample.actions for sample in samples])
        tensors[ACTION] = normalize_actions(self.loaded, torch.from_numpy(actions))
        tensors[ACTION_IS_PAD] = torch.from_numpy(np.stack([s.is_pad for s in samples]))
        return Batch(tuple(sample.frame for sample in samples), tensors)


def normalize_actions(loaded: LoadedPolicy, actions: Tensor) -> Tensor:
    """Actions [..., A] in the robot's units to the policy's: (a - mean) / (std + eps)."""
    interface = loaded.interface
    mean, std = torch.tensor(interface.action_mean), torch.tensor(interface.action_std)
    return (actions - mean) / (std + interface.normalization_eps)


def _finite(value: Tensor, key: str, frame: Frame) -> np.ndarray:
    array = value.numpy().astype(np.float32)
    if not np.isfinite(array).all():
        raise CalibrationError(
            f"episode {frame.episode}, frame {frame.frame}: {key} holds NaN or infinity"
            + (" within the chunk that follows" if array.ndim > 1 else "")
        )
    return array


def _to_pixels(image: Tensor, camera: str, frame: Frame) -> np.ndarray:
    """LeRobot's [..., C, H, W], uint8 or float in [0, 1], to uint8 [..., H, W, C]."""
    pixels = image.movedim(-3, -1)
    if pixels.dtype != torch.uint8:
        pixels = torch.from_numpy(_finite(pixels, camera, frame)).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.numpy())


@dataclass(frozen=True)
class CalibrationData:
    """The two disjoint sets of frames; `held_out` never enters a decision about the weights."""

    calibration: Frames
    held_out: Frames
    calibration_episodes: tuple[int, ...]
    held_out_episodes: tuple[int, ...]
    info: DatasetInfo


def calibrate(
    loaded: LoadedPolicy,
    dataset: str | Path,
    *,
    n_frames: int = 128,
    n_held_out: int = 64,
    seed: int = 0,
) -> CalibrationData:
    """Open a local LeRobotDataset, check it against the policy, choose the frames.

    n_frames, n_held_out: how many frames of the calibration and of the held-out episodes at most.

    Raises DatasetError if the features do not match the policy, CalibrationError if there are too
    few episodes to keep some of them apart.
    """
    info = read_dataset_info(dataset)
    check_features(info, loaded)
    reader = _open(info, loaded)
    chosen, kept = split_episodes(info.total_episodes, seed)
    lengths = _episode_rows(reader)
    return CalibrationData(
        Frames(loaded, reader, sample_frames(chosen, lengths, n_frames, seed)),
        Frames(loaded, reader, sample_frames(kept, lengths, n_held_out, seed)),
        tuple(chosen),
        tuple(kept),
        info,
    )


def _open(info: DatasetInfo, loaded: LoadedPolicy) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    windows = {ACTION: loaded.family.action_window(loaded)}
    if loaded.interface.observation_steps > 1:
        cameras = [camera for camera in loaded.interface.cameras if camera in info.features]
        past = range(1 - loaded.interface.observation_steps, 1)
        windows |= dict.fromkeys((STATE, *cameras), past)
    with _as_dataset_error(info.folder):
        return LeRobotDataset(
            repo_id="local/" + info.folder.resolve().name,
            root=info.folder,
            delta_timestamps={
                key: [step / info.fps for step in window] for key, window in windows.items()
            },
            video_backend="pyav",  # LeRobot's default logs a page of tracebacks without FFmpeg
        )


@contextlib.contextmanager
def _as_dataset_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise DatasetError(
            f"LeRobot cannot open the dataset {folder}: {type(error).__name__}: {error}"
        ) from error


def _episode_rows(reader: Any) -> dict[int, tuple[int, int]]:
    """Episode -> (first row, one past its last row)."""
    table = reader.meta.episodes
    columns = zip(
        table["episode_index"], table["dataset_from_index"], table["dataset_to_index"], strict=True
    )
    return {int(episode): (int(first), int(last)) for episode, first, last in columns}


def split_episodes(
    total: int, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[list[int], list[int]]:
    """Calibration and held-out episodes, each sorted; the same for the same seed.

    Raises CalibrationError for fewer than two episodes.
    """
    if total < 2:
        raise CalibrationError(
            f"the dataset has {total} episode; at least 2 are needed to keep one held out"
        )
    order = np.random.default_rng([seed, total]).permutation(total)
    cut = min(max(round(share * total), 1), total - 1)
    return sorted(map(int, order[:cut])), sorted(map(int, order[cut:]))


def sample_frames(
    episodes: Sequence[int], rows: dict[int, tuple[int, int]], count: int, seed: int
) -> list[Frame]:
    """At most `count` frames, as evenly as possible over the episodes and within each of them.

    With more episodes than frames, a random choice of episodes gives one frame each.
    """
    rng = np.random.default_rng([seed, count])
    if count < len(episodes):
        episodes = sorted(map(int, rng.choice(episodes, count, replace=False)))
    frames: list[Frame] = []
    for position, episode in enumerate(episodes):
        first, last = rows[episode]
        quota = count // len(episodes) + (position < count % len(episodes))
        quota = min(quota, last - first)
        step = (last - first) / max(quota, 1)
        places = np.floor((np.arange(quota) + rng.random()) * step).astype(int)
        frames += [Frame(episode, int(p), first + int(p)) for p in places]
    return frames


def draw_noise(
    loaded: LoadedPolicy, frames: Sequence[Frame], seed: int, draw: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise [B, *noise_shape] and time [B], fixed per frame.

    Noise is N(0, 1), time as in training (`PolicyFamily.draw_time`), both from a generator seeded
    by (seed, row of the frame, draw): no batching changes them.
    """
    noise, times = [], []
    shape = loaded.interface.noise_shape
    for frame in frames:
        rng = np.random.default_rng([seed, frame.index, draw])
        noise.append(rng.standard_normal(shape, dtype=np.float32))
        times.append(loaded.family.draw_time(loaded, rng))
    return torch.from_numpy(np.stack(noise)), torch.tensor(times, dtype=torch.float32)


def action_losses(loaded: LoadedPolicy, batch: Batch, seed: int, draw: int = 0) -> Tensor:
    """The policy's action loss [B] of a batch, with this draw's noise and time.

    Raises CalibrationError, naming episode and frame, if a loss is NaN or infinite.
    """
    noise, time = draw_noise(loaded, batch.frames, seed, draw)
    losses = loaded.family.action_loss(loaded, dict(batch.tensors), noise, time)
    for frame, loss in zip(batch.frames, losses.detach().tolist(), strict=True):
        if not np.isfinite(loss):
            raise CalibrationError(
                f"episode {frame.episode}, frame {frame.frame}: the action loss is {loss}"
            )
    return losses
