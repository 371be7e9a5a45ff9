"""Calibration data: which frames of a LeRobotDataset the pipeline looks at, and how it reads them.

Episodes are split once into calibration and held-out ones; frames are then spread evenly over the
episodes of each side. A frame gives the raw observation, the ground-truth action chunk that follows
it and the policy's own batch of both.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from actquant.calibration.dataset import (
    ACTION,
    STATE,
    TASK,
    DatasetInfo,
    check_features,
    read_dataset_info,
)
from actquant.common.errors import CalibrationError, DatasetError, brief
from actquant.common.files import hash_json
from actquant.common.renames import Renames
from actquant.policies.base import LoadedPolicy, Observation

CALIBRATION_SHARE = 0.75
IS_PAD = "_is_pad"
"""What LeRobot adds to a name for what is true past the ends of an episode."""


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


class Frames(Sequence[Sample]):
    """Frames of some episodes, read from the dataset when asked for; any number of times.

    Raises CalibrationError, naming episode and frame, where a value is NaN or infinite.
    """

    def __init__(
        self, loaded: LoadedPolicy, info: DatasetInfo, dataset: Any, frames: Sequence[Frame]
    ) -> None:
        self.loaded = loaded
        self.info = info
        self.frames = tuple(frames)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: int) -> Sample:  # pyright: ignore[reportIncompatibleMethodOverride]
        frame = self.frames[position]
        item, name = self._dataset[frame.index], self.info.stored_name
        actions = _finite(item[name(ACTION)], ACTION, frame)
        cameras = [c for c in self.loaded.interface.cameras if c in self.info.features]
        observation: dict[str, Any] = {c: _to_pixels(item[name(c)], c, frame) for c in cameras}
        observation[TASK] = str(item[TASK])
        if self.loaded.interface.state_names:
            observation[STATE] = _finite(item[name(STATE)], STATE, frame)
        is_pad = item[f"{name(ACTION)}{IS_PAD}"].numpy().astype(bool)
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

    def only(self, frames: Sequence[Frame]) -> "Frames":
        """Returns some frames of the same dataset."""
        return Frames(self.loaded, self.info, self._dataset, frames)

    def groups(self, size: int) -> list[list[int]]:
        """Returns the positions of all frames in groups of one instruction each.

        So no prompt needs padding, and a frame's result does not depend on its company.
        """
        by_task: dict[str, list[int]] = {}
        for position, task in enumerate(self.tasks):
            by_task.setdefault(task, []).append(position)
        return [
            positions[begin : begin + size]
            for positions in by_task.values()
            for begin in range(0, len(positions), size)
        ]

    def batches(self, size: int) -> Iterator[Batch]:
        """Yields all frames in batches of one instruction each, always in the same order."""
        for positions in self.groups(size):
            yield self.batch([self[p] for p in positions])

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Returns the policy's batch of samples, with normalised ground-truth actions."""
        tensors = dict(self.loaded.batch([sample.observation for sample in samples]))
        actions = np.stack([sample.actions for sample in samples])
        tensors[ACTION] = normalize_actions(self.loaded, torch.from_numpy(actions))
        tensors[f"{ACTION}{IS_PAD}"] = torch.from_numpy(np.stack([s.is_pad for s in samples]))
        return Batch(tuple(sample.frame for sample in samples), tensors)


def normalize_actions(loaded: LoadedPolicy, actions: Tensor) -> Tensor:
    """Normalises actions [..., A] in the robot's units: (a - mean) / (std + eps)."""
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
    """The two disjoint sets of frames; `held_out` never enters a decision about the weights.

    rows: episode -> its first row in the dataset, and one past its last.
    """

    calibration: Frames
    held_out: Frames
    calibration_episodes: tuple[int, ...]
    held_out_episodes: tuple[int, ...]
    info: DatasetInfo
    rows: Mapping[int, tuple[int, int]]

    def split_calibration(
        self, n_training: int, n_validation: int, seed: int
    ) -> tuple[Frames, Frames]:
        """Returns other frames of the calibration episodes, at most so many: to train on, and, from
        episodes apart, to judge by. Of a single episode the last quarter judges."""
        first, *others = self.calibration_episodes
        if others:
            train, judge = split_episodes(len(others) + 1, seed)
            episodes = [[self.calibration_episodes[i] for i in side] for side in (train, judge)]
            rows = [self.rows, self.rows]
        else:
            begin, end = self.rows[first]
            cut = begin + max(1, round(CALIBRATION_SHARE * (end - begin)))
            episodes, rows = [[first], [first]], [{first: (begin, cut)}, {first: (cut, end)}]
        counts = (n_training, n_validation)
        training, validation = (
            self.calibration.only(sample_frames(chosen, where, count, seed))
            for chosen, where, count in zip(episodes, rows, counts, strict=True)
        )
        return training, validation


def calibrate(
    loaded: LoadedPolicy,
    dataset: str | Path,
    *,
    n_frames: int = 128,
    n_held_out: int = 64,
    seed: int = 0,
    renames: Renames | None = None,
) -> CalibrationData:
    """Opens a local LeRobotDataset, checks it against the policy, chooses the frames.

    n_frames, n_held_out: how many frames of the calibration and of the held-out episodes at most;
    renames: names in the dataset -> the policy's.

    Raises DatasetError if the features do not match the policy, CalibrationError if there are too
    few episodes to keep some of them apart.
    """
    info = read_dataset_info(dataset, renames).named_for(loaded)
    check_features(info, loaded)
    reader = _open(info, loaded)
    chosen, kept = split_episodes(info.total_episodes, seed)
    lengths = _episode_rows(reader)
    return CalibrationData(
        Frames(loaded, info, reader, sample_frames(chosen, lengths, n_frames, seed)),
        Frames(loaded, info, reader, sample_frames(kept, lengths, n_held_out, seed)),
        tuple(chosen),
        tuple(kept),
        info,
        lengths,
    )


def _open(info: DatasetInfo, loaded: LoadedPolicy) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    windows = {ACTION: loaded.family.action_window(loaded)}
    if loaded.interface.observation_steps > 1:
        cameras = [camera for camera in loaded.interface.cameras if camera in info.features]
        past = range(1 - loaded.interface.observation_steps, 1)
        windows |= dict.fromkeys((STATE, *cameras), past)
    _check_columns(info)
    with _as_dataset_error(info.folder):
        return LeRobotDataset(
            repo_id="local/" + info.folder.resolve().name,
            root=info.folder,
            delta_timestamps={
                info.stored_name(key): [step / info.fps for step in window]
                for key, window in windows.items()
            },
            video_backend="pyav",  # LeRobot's default logs a page of tracebacks without FFmpeg
        )


def _check_columns(info: DatasetInfo) -> None:
    """Raises DatasetError where the data files have other columns than `meta/info.json` says, which
    LeRobot finds out late and tells at length."""
    import pyarrow.parquet

    file = next(iter(sorted(info.folder.glob("data/*/*.parquet"))), None)
    if file is None:
        raise DatasetError(f"{info.folder} has no data/*/*.parquet")
    with _as_dataset_error(info.folder):
        columns = pyarrow.parquet.read_schema(file).names
    listed = [info.stored_name(k) for k, f in info.features.items() if f.get("dtype") != "video"]
    absent = [name for name in listed if name not in columns]
    if absent:
        unlisted = [name for name in columns if name not in listed]
        raise DatasetError(
            f"{info.folder}: meta/info.json lists {', '.join(absent)}, its data files have no such "
            f"column but {', '.join(unlisted) or 'those listed'}; the two must agree (--rename is "
            "for names that differ from the policy's)"
        )


@contextlib.contextmanager
def _as_dataset_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise DatasetError(
            f"LeRobot cannot open the dataset {folder}: {type(error).__name__}: {brief(error)}"
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
    """Splits episodes into calibration and held-out ones, each sorted; the same for the same seed.

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
    episodes: Sequence[int], rows: Mapping[int, tuple[int, int]], count: int, seed: int
) -> list[Frame]:
    """Chooses at most `count` frames, evenly over the episodes and within each of them.

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
