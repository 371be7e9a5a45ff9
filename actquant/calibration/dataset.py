"""What a LeRobotDataset says of itself, and whether it fits a policy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actquant.common.errors import DatasetError
from actquant.common.files import hash_path, lfs_pointers
from actquant.common.renames import (
    Renames,
    camera_mismatch,
    propose,
    rename_keys,
    wrong_renames,
)
from actquant.policies import declared_cameras, load_policy
from actquant.policies.base import LoadedPolicy

STATE, ACTION, TASK = "observation.state", "action", "task"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""What every LeRobotDataset has beside its features."""
PARTS = ("meta", "data", "videos")
CONVERSION = "lerobot.scripts.convert_dataset_v21_to_v30"


@dataclass(frozen=True)
class DatasetInfo:
    """What a LeRobotDataset folder says of itself, read without its frames."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    total_episodes: int
    renames: Renames = field(default_factory=dict)
    """Names in the files -> those of `features`, where they differ."""

    @cached_property
    def sha256(self) -> str:
        return hash_path(self.folder)

    @property
    def cameras(self) -> list[str]:
        return [k for k, f in self.features.items() if f.get("dtype") in ("image", "video")]

    def renamed(self, renames: Renames) -> "DatasetInfo":
        """Returns the same under the policy's names. Raises DatasetError for names that are not
        there, or would be there twice."""
        if wrong := wrong_renames(renames, self.features, "the dataset"):
            raise DatasetError(f"{self.folder}: {'; '.join(wrong)}")
        features = rename_keys(self.features, renames)
        return replace(self, features=features, renames={**self.renames, **renames})

    def named_for(self, loaded: LoadedPolicy) -> "DatasetInfo":
        """Returns the same with the vectors named as the policy's own preprocessor renames them,
        where the dataset has them under no other name."""
        return self.renamed(
            {
                old: new
                for old, new in loaded.renamed_vectors.items()
                if old in self.features and new not in self.features
            }
        )

    def stored_name(self, feature: str) -> str:
        """Returns the name of a feature in the files."""
        return next((old for old, new in self.renames.items() if new == feature), feature)

    def names(self, feature: str) -> list[str] | None:
        """Returns names of a vector's components, or None where the dataset has none."""
        names = self.features.get(feature, {}).get("names")
        if isinstance(names, dict):
            parts = [v if isinstance(v, list) else [k] for k, v in names.items()]
            names = [name for part in parts for name in part]
        size = int(np.prod(self.features.get(feature, {}).get("shape", [0])))
        return [str(name) for name in names] if names and len(names) == size else None


def read_dataset_info(folder: str | Path, renames: Renames | None = None) -> DatasetInfo:
    """Reads `meta/info.json` of a local LeRobotDataset (format v3).

    renames: names in the dataset -> the policy's.

    Raises DatasetError if the folder is none, is of another format, or was cloned without its large
    files, and for renames of what it does not have.
    """
    folder = Path(folder)
    path = folder / "meta" / "info.json"
    if not path.is_file():
        raise DatasetError(f"{folder} is no LeRobotDataset: it has no meta/info.json")
    if pointers := lfs_pointers(sorted(p for d in PARTS for p in (folder / d).rglob("*"))):
        names = [pointer.relative_to(folder).as_posix() for pointer in pointers]
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise DatasetError(
            f"{folder}: Git LFS has not fetched {names[0]}{others}, pointers are in their place: "
            f"git -C {folder} lfs pull"
        )
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        result = DatasetInfo(
            folder, float(info["fps"]), dict(info["features"]), int(info["total_episodes"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {type(error).__name__} {error}") from error
    if not version.startswith(("v3", "3")):
        raise DatasetError(
            f"{folder} has dataset format {version}, v3.0 is needed; {_conversion(folder, version)}"
        )
    return result.renamed(renames or {})


def _conversion(folder: Path, version: str) -> str:
    """Returns how a dataset of another format becomes one of v3.0."""
    if version.lstrip("v").startswith("2.1"):
        return (
            f"convert it (as it is now it stays beside): python -m {CONVERSION} "
            f"--repo-id=local/{folder.resolve().name} --root={folder} --push-to-hub=false"
        )
    if version.lstrip("v")[:1] in ("1", "2"):
        return "LeRobot 0.3 converts it to v2.1, then this one to v3.0"
    return "it is newer than this program; the LeRobot that made it may write v3.0"


def check_features(info: DatasetInfo, loaded: LoadedPolicy) -> None:
    """Compares a dataset's features with what the policy takes and gives.

    Raises DatasetError with all differences: name, expected and found shape.
    """
    interface, problems = loaded.interface, []
    required = len(interface.cameras) - interface.optional_cameras
    present = [camera for camera in interface.cameras if camera in info.cameras]
    if mismatch := camera_mismatch(info.cameras, interface.cameras, "the dataset"):
        problems.append(f"cameras: {mismatch}")
    elif len(present) < max(required, 1):
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
            problems.append(
                f"{key}: expected shape {(len(names),)}, found {found or 'nothing'}"
                + _other_vector(info, key, len(names))
            )
    if problems:
        raise DatasetError(
            f"dataset {info.folder} does not fit the policy:\n  "
            + "\n  ".join(problems)
            + f"\nthe dataset has: {', '.join(info.features)}"
        )


def _other_vector(info: DatasetInfo, key: str, size: int) -> str:
    """Returns what could be meant by a vector that is not there."""
    if key in info.features:
        return ""
    others = [
        name
        for name, feature in info.features.items()
        if tuple(feature["shape"]) == (size,) and str(feature["dtype"]).startswith("float")
        if name not in (STATE, ACTION, *BOOKKEEPING)
    ]
    alike = [name for name in others if name.startswith(key[:6])]  # observation or action
    return f"; is it one of these? {', '.join(propose([n], [key]) for n in alike)}" if alike else ""


def _image_size(feature: dict[str, Any]) -> tuple[int, int]:
    shape = tuple(int(side) for side in feature["shape"])
    channels_first = list(feature.get("names") or [])[:1] in (["channels"], ["channel"])
    return shape[1:] if channels_first else shape[:2]  # pyright: ignore[reportReturnType]


def load_for_dataset(
    checkpoint: str | Path,
    dataset: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    streamed: bool | None = False,
    renames: Renames | None = None,
) -> LoadedPolicy:
    """Loads a checkpoint with control rate and names as the dataset gives them.

    options, streamed: as of `load_policy`; renames: names in the dataset -> the policy's.

    Raises CheckpointError for the checkpoint, DatasetError for the dataset and for features that do
    not match; where only cameras are named otherwise, before any weight is read.
    """
    info = read_dataset_info(dataset, renames)
    declared = declared_cameras(checkpoint)
    if mismatch := camera_mismatch(info.cameras, declared, "the dataset"):
        raise DatasetError(f"dataset {info.folder} does not fit the policy: {mismatch}")
    loaded = load_policy(checkpoint, control_rate_hz=info.fps, options=options, streamed=streamed)
    info = info.named_for(loaded)
    check_features(info, loaded)
    face = loaded.interface
    loaded.interface = replace(
        face,
        state_names=tuple(face.state_names and (info.names(STATE) or face.state_names)),
        action_names=tuple(info.names(ACTION) or face.action_names),
    )
    if absent := [camera for camera in face.cameras if camera not in info.cameras]:
        remark = f"the dataset has no {', '.join(absent)}: masked out in all that is measured on it"
        loaded.remarks = (*loaded.remarks, remark)
    return loaded
